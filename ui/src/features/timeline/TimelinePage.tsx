import { useQuery } from "@tanstack/react-query";
import { Asked, useFreshOnRun } from "../../components/Asked";
import { Button } from "../../components/Button";
import { Notice } from "../../components/Notice";
import { DataTable, Sheet } from "../../components/Sheet";
import { ViewLink } from "../../components/ViewLink";
import type { ModelHour } from "../../lib/answers";
import { fetchStats } from "../../lib/api";
import { clusterColour } from "../../lib/colour";
import { fetchTimeline } from "../../lib/discovery-api";
import { formatCount, formatShare } from "../../lib/format";
import { type ColourBy, DEFAULT_LIVE, DEFAULT_MAP, type TimelineView } from "../../lib/url-state";
import { goTo } from "../../lib/use-view";
import { type Scheme, ZONES } from "../../lib/zones";
import { DriftPanel } from "./DriftPanel";
import { HourChart } from "./HourChart";
import { modelName, modelsIn, sharesOf } from "./hours";
import styles from "./TimelinePage.module.css";

const REFRESH_MS = 30_000;

/** Zones or clusters hour by hour, as shares and as a table. */
export function TimelinePage({ view, scheme }: { view: TimelineView; scheme: Scheme }) {
  useFreshOnRun("timeline");
  const query = useQuery({
    queryKey: ["timeline"],
    queryFn: ({ signal }) => fetchTimeline(signal),
    refetchInterval: REFRESH_MS,
  });
  return (
    <Asked query={query} label="Loading the hours">
      {({ hours }) =>
        hours.length === 0 ? (
          <Notice title="No hour holds a token yet">
            <p>
              Ask the model server something with attention capture on, then watch it arrive in{" "}
              <ViewLink to={DEFAULT_LIVE}>Live</ViewLink>.
            </p>
          </Notice>
        ) : (
          <Hours hours={hours} view={view} scheme={scheme} />
        )
      }
    </Asked>
  );
}

function Hours({ hours, view, scheme }: { hours: readonly ModelHour[]; view: TimelineView; scheme: Scheme }) {
  const models = modelsIn(hours);
  const model = view.model !== null && models.includes(view.model) ? view.model : (models[0] ?? null);
  const shown = hours.filter((hour) => hour.model_id === model);
  const keys = keysOf(shown, view.by);
  const change = (part: Partial<TimelineView>): void => goTo({ ...view, ...part }, { replace: true });
  const colour = (key: string): string =>
    view.by === "cluster" ? clusterColour(Number(key), scheme) : `var(--zone-${key}, var(--neutral))`;
  const name = (key: string): string => (view.by === "zone" ? key : key === "-1" ? "no cluster" : `Cluster ${key}`);
  const controls = (
    <>
      {models.length > 1 ? (
        <label>
          Model{" "}
          <select value={model ?? ""} onChange={(event) => change({ model: event.target.value || null })}>
            {models.map((one) => (
              <option key={one ?? ""} value={one ?? ""}>
                {modelName(one)}
              </option>
            ))}
          </select>
        </label>
      ) : (
        <span>{modelName(model)}</span>
      )}
      {(["zone", "cluster"] as const).map((by) => (
        <Button key={by} aria-pressed={view.by === by} onClick={() => change({ by })}>
          {by === "zone" ? "Zones" : "Clusters"}
        </Button>
      ))}
    </>
  );
  return (
    <Sheet title="Timeline" controls={controls}>
      <HourChart hours={shown} by={view.by} keys={keys} name={name} colour={colour} />
      <Drift />
      <DataTable label={`Shares by ${view.by} and hour`}>
        <thead>
          <tr>
            <th scope="col">hour (UTC)</th>
            <th scope="col">tokens</th>
            {keys.map((key) => (
              <th scope="col" key={key}>
                <i className={styles.key} style={{ background: colour(key) }} /> {name(key)}
              </th>
            ))}
            <th scope="col">confidence</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((hour) => {
            const shares = sharesOf(hour, view.by);
            return (
              <tr key={hour.hour_utc}>
                <th scope="row">
                  {hour.hour_utc.slice(0, 16).replace("T", " ")}{" "}
                  <ViewLink to={{ ...DEFAULT_MAP, hour: hour.hour_utc, colourBy: view.by }}>map</ViewLink>
                </th>
                <td>{formatCount(hour.num_fingerprints)}</td>
                {keys.map((key) => (
                  <td key={key}>{formatShare(shares.get(key) ?? 0)}</td>
                ))}
                <td>{formatShare(hour.mean_confidence)}</td>
              </tr>
            );
          })}
        </tbody>
      </DataTable>
    </Sheet>
  );
}

function Drift() {
  const stats = useQuery({ queryKey: ["stats"], queryFn: ({ signal }) => fetchStats(signal) });
  return stats.data === undefined ? null : <DriftPanel online={stats.data.online} />;
}

function keysOf(hours: readonly ModelHour[], by: ColourBy): string[] {
  const found = new Set(hours.flatMap((hour) => [...sharesOf(hour, by).keys()]));
  if (by === "cluster") return [...found].sort((a, b) => Number(a) - Number(b));
  return [...ZONES, "unclassified"].filter((zone) => zone !== "unclassified" || found.has(zone));
}
