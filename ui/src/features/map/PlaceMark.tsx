import type { Points } from "../../lib/points";
import type { MapView } from "../../lib/url-state";
import type { MapPlot } from "./map-plot";
import styles from "./PlaceMark.module.css";

interface PlaceMarkProps {
  plot: MapPlot;
  points: Points;
  at: NonNullable<MapView["at"]>;
  /** Counts camera moves: each places the mark anew. */
  numViews: number;
}

/** A ring where a token of Live falls on this map. */
export function PlaceMark({ plot, points, at }: PlaceMarkProps) {
  const { centreX, centreY, scale } = points.frame;
  const [left, top] = plot.screenFromMap((at.x - centreX) * scale, (at.y - centreY) * scale);
  return (
    <div className={styles.area}>
      <span
        className={styles.mark}
        style={{ left, top }}
        role="img"
        aria-label="The token lies here"
        data-testid="place"
      />
    </div>
  );
}
