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

const WIDTH_PX = 250;
const MARGIN_PX = 6;

/** What a point is: its token, its zone, its request. */
export function PointTooltip({ plot, points, index }: PointTooltipProps) {
  const at = plot.screenOfPoint(index);
  if (at === null) return null;
  const [width, height] = plot.size();
  if (at[0] < 0 || at[1] < 0 || at[0] > width || at[1] > height) return null;
  const half = WIDTH_PX / 2 + MARGIN_PX;
  const left = Math.max(half, Math.min(at[0], width - half));
  const zone = ZONES[points.zoneIndex[index] ?? -1] ?? null;
  const clusterId = points.clusterId[index] ?? -1;
  const confidence = points.confidence(index);
  return (
    <div className={styles.place} style={{ left, top: at[1] }} data-low={at[1] < 150 ? "" : undefined}>
      <div className={styles.tooltip} style={{ width: WIDTH_PX }} role="status" data-testid="point-tooltip">
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
