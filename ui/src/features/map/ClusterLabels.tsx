import { useMemo } from "react";
import type { Cluster } from "../../lib/api";
import type { Points } from "../../lib/points";
import styles from "./ClusterLabels.module.css";
import type { MapPlot } from "./map-plot";

interface ClusterLabelsProps {
  plot: MapPlot;
  points: Points;
  clusters: readonly Cluster[];
  /** Counts camera moves: each places the labels anew. */
  numViews: number;
}

const LABEL_HEIGHT_PX = 18;
const CHARACTER_PX = 7;

interface PlacedLabel {
  cluster: Cluster;
  left: number;
  top: number;
}

/** Names of the clusters at their centres; where two would touch, the larger cluster's stays. */
export function ClusterLabels({ plot, points, clusters }: ClusterLabelsProps) {
  const bySize = useMemo(() => [...clusters].sort((a, b) => b.size - a.size), [clusters]);
  const placed: PlacedLabel[] = [];
  for (const cluster of bySize) {
    if (cluster.centroid_x === null || cluster.centroid_y === null) continue;
    const { centreX, centreY, scale } = points.frame;
    const [left, top] = plot.screenFromMap(
      (cluster.centroid_x - centreX) * scale,
      (cluster.centroid_y - centreY) * scale,
    );
    const isTaken = placed.some(
      (other) =>
        Math.abs(other.top - top) < LABEL_HEIGHT_PX &&
        Math.abs(other.left - left) <
          ((other.cluster.cluster_label.length + cluster.cluster_label.length) * CHARACTER_PX) / 2,
    );
    if (!isTaken) placed.push({ cluster, left, top });
  }
  return (
    <div className={styles.labels} aria-hidden="true">
      {placed.map(({ cluster, left, top }) => (
        <span key={cluster.cluster_id} style={{ left, top }}>
          {cluster.cluster_label}
        </span>
      ))}
    </div>
  );
}
