import { ZoneSwatch } from "../../components/ZoneSwatch";
import { formatShare } from "../../lib/format";
import type { Points } from "../../lib/points";
import { tokenLabel } from "../../lib/token-text";
import { ZONES } from "../../lib/zones";
import type { MapPlot } from "./map-plot";
import styles from "./PointTooltip.module.css";

interface PointTooltipProps {
  plot: MapPlot;
  points: Points;
  index: number;
  /** Counts camera moves: each places the tooltip anew. */
  numViews: number;
}

/** What a point is: its token, its zone, its request. */
export function PointTooltip({ plot, points, index }: PointTooltipProps) {
  const at = plot.screenOfPoint(index);
  if (at === null) return null;
  const zone = ZONES[points.zoneIndex[index] ?? -1] ?? null;
  const clusterId = points.clusterId[index] ?? -1;
  const confidence = points.confidence(index);
  return (
    <div className={styles.place} style={{ left: at[0], top: at[1] }} data-low={at[1] < 150 ? "" : undefined}>
      <div className={styles.tooltip} role="status" data-testid="point-tooltip">
        <code className={styles.token}>{tokenLabel(points.tokenText(index))}</code>
        <span className={styles.row}>
          <ZoneSwatch zone={zone} />
          {zone ?? "no zone"}
          {confidence === null ? "" : `, ${formatShare(confidence)} confident`}
        </span>
        <span>{clusterId < 0 ? "no cluster" : `Cluster ${clusterId}`}</span>
        <span className={styles.request}>
          token {points.step(index)} of <code>{points.requestId(index)}</code>
        </span>
        <span className={styles.hint}>Click or Enter opens it in Live</span>
      </div>
    </div>
  );
}
