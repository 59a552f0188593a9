import { useMemo } from "react";
import { Button } from "../../components/Button";
import { Tooltip } from "../../components/Tooltip";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import { ZoneTip } from "../../components/ZoneTip";
import type { Cluster } from "../../lib/api";
import { clusterColour, NUM_CLUSTER_COLOURS } from "../../lib/colour";
import { formatCount, formatShare, formatUtc, msFromRunId } from "../../lib/format";
import { countsByCluster, countsByZone, NO_ZONE, type Points } from "../../lib/points";
import type { ColourBy, MapView } from "../../lib/url-state";
import { type Scheme, ZONES } from "../../lib/zones";
import { LegendRow } from "./LegendRow";
import styles from "./MapPanel.module.css";

interface MapPanelProps {
  view: MapView;
  scheme: Scheme;
  points: Points;
  clusters: readonly Cluster[];
  hasClusters: boolean;
  numVisible: number;
  runId: string | null;
  problem: string | null;
  notes: readonly string[];
  isReloading: boolean;
  onChange: (part: Partial<MapView>) => void;
}

const COLOURINGS: readonly { by: ColourBy; name: string }[] = [
  { by: "zone", name: "Zone" },
  { by: "cluster", name: "Cluster" },
];

/** Which run is shown, how it is coloured, and the legend that filters it. */
export function MapPanel(props: MapPanelProps) {
  const { view, points, numVisible, runId, problem, notes, isReloading, hasClusters, onChange } = props;
  const madeMs = runId === null ? null : msFromRunId(runId);
  const hasFilter = view.hiddenZones.length > 0 || view.hiddenClusters.length > 0;
  return (
    <aside className={styles.panel} aria-label="Legend">
      <section className={styles.section}>
        <h2>Discovery run</h2>
        <p className={styles.run} data-testid="run-id">
          {runId ?? "unnamed"}
        </p>
        <p className={styles.quiet}>
          {madeMs === null ? "" : `made ${formatUtc(madeMs)}`}
          {isReloading ? " · reading the newest run" : ""}
        </p>
        {problem === null ? null : (
          <p className={styles.problem} role="alert">
            A newer run is not shown: {problem}
          </p>
        )}
        {notes.map((note) => (
          <p key={note} className={styles.quiet} data-testid="run-note">
            {note}
          </p>
        ))}
        {view.hour === null ? null : (
          <p className={styles.bar}>
            <span>hour {view.hour}</span>
            <button type="button" className={styles.all} onClick={() => onChange({ hour: null })}>
              All hours
            </button>
          </p>
        )}
        <p>
          {numVisible === points.count
            ? `${formatCount(points.count)} tokens`
            : `${formatCount(numVisible)} of ${formatCount(points.count)} tokens`}
        </p>
      </section>
      <section className={styles.section}>
        <div className={styles.bar}>
          <h2 id="colour-by">Colour by</h2>
          {hasFilter ? (
            <button
              type="button"
              className={styles.all}
              onClick={() => onChange({ hiddenZones: [], hiddenClusters: [] })}
            >
              Show all
            </button>
          ) : null}
        </div>
        {/* biome-ignore lint/a11y/useSemanticElements: two buttons, not fields of a form */}
        <div className={styles.switch} role="group" aria-labelledby="colour-by">
          {COLOURINGS.map(({ by, name }) => (
            <Button key={by} aria-pressed={view.colourBy === by} onClick={() => onChange({ colourBy: by })}>
              {name}
            </Button>
          ))}
        </div>
        {view.colourBy === "zone" ? <ZoneLegend {...props} /> : hasClusters ? <ClusterLegend {...props} /> : null}
      </section>
      {hasClusters ? null : <NoClusters />}
    </aside>
  );
}

function ZoneLegend({ points, view, onChange }: MapPanelProps) {
  const counts = useMemo(() => countsByZone(points), [points]);
  const unknown = counts[NO_ZONE] ?? 0;
  return (
    <ul className={styles.rows}>
      {ZONES.map((zone, index) => {
        const isShown = !view.hiddenZones.includes(zone);
        return (
          <li key={zone}>
            <Tooltip content={<ZoneTip zone={zone} />}>
              {(describedBy) => (
                <LegendRow
                  sign={<ZoneSwatch zone={zone} />}
                  name={zone}
                  count={counts[index] ?? 0}
                  total={points.count}
                  isShown={isShown}
                  describedBy={describedBy}
                  onToggle={() =>
                    onChange({
                      hiddenZones: isShown
                        ? [...view.hiddenZones, zone]
                        : view.hiddenZones.filter((other) => other !== zone),
                    })
                  }
                />
              )}
            </Tooltip>
          </li>
        );
      })}
      {unknown > 0 ? (
        <li className={styles.quiet}>
          {formatCount(unknown)} tokens ({formatShare(unknown / points.count)}) have no zone
        </li>
      ) : null}
    </ul>
  );
}

function ClusterLegend({ points, clusters, scheme, view, onChange }: MapPanelProps) {
  const counts = useMemo(() => countsByCluster(points), [points]);
  const claimed = counts.filter(({ clusterId }) => clusterId >= 0);
  const hasSharedColours =
    new Set(claimed.map(({ clusterId }) => clusterColour(clusterId, scheme))).size < claimed.length;
  const byId = useMemo(() => new Map(clusters.map((cluster) => [cluster.cluster_id, cluster])), [clusters]);
  return (
    <>
      <ul className={styles.rows}>
        {counts.map(({ clusterId, count }) => {
          const isShown = !view.hiddenClusters.includes(clusterId);
          const cluster = byId.get(clusterId);
          return (
            <li key={clusterId}>
              <LegendRow
                sign={<i className={styles.dot} style={{ background: clusterColour(clusterId, scheme) }} />}
                name={clusterId < 0 ? "no cluster" : (cluster?.cluster_label ?? `Cluster ${clusterId}`)}
                aside={cluster?.zone ?? null}
                count={count}
                total={points.count}
                isShown={isShown}
                onToggle={() =>
                  onChange({
                    hiddenClusters: isShown
                      ? [...view.hiddenClusters, clusterId]
                      : view.hiddenClusters.filter((other) => other !== clusterId),
                  })
                }
              />
            </li>
          );
        })}
      </ul>
      {hasSharedColours ? (
        <p className={styles.quiet}>
          There are {NUM_CLUSTER_COLOURS} colours, so some clusters share one: point at a token, or hide others, to tell
          them apart.
        </p>
      ) : null}
    </>
  );
}

/** The guide's three mends, in its words. */
function NoClusters() {
  return (
    <section className={styles.section} data-testid="no-clusters">
      <p className={styles.missing}>No clusters detected</p>
      <ol className={styles.mends}>
        <li>Run discovery job to create clusters</li>
        <li>Reload sidecar or restart it</li>
        <li>Check sidecar logs for errors</li>
      </ol>
    </section>
  );
}
