import type { OnlineFigures } from "../../lib/answers";
import styles from "./DriftPanel.module.css";

/** How far what arrives has left the served run, each figure against the bound that asks for an early run. */
export function DriftPanel({ online }: { online: OnlineFigures | null }) {
  return (
    <section className={styles.panel} data-testid="drift" aria-label="Drift since the served run">
      <h3>Drift since the served run</h3>
      {online === null ? (
        <p>
          Drift is not measured. Start the sidecar with <code>--online</code>.
        </p>
      ) : online.drift === null && online.novelty_excess === null ? (
        <p>Not measured yet: {online.not_judged ?? "too few tokens since the run"}</p>
      ) : (
        <div className={styles.gauges}>
          <Gauge
            name="drift"
            says="movement of the clusters' points, in cluster radii"
            value={online.drift}
            interval={online.drift_interval}
            bound={online.drift_bound}
          />
          <Gauge
            name="novelty"
            says="share of tokens outside every cluster, above the expected share"
            value={online.novelty_excess}
            interval={online.novelty_excess_interval}
            bound={online.novelty_bound}
          />
        </div>
      )}
    </section>
  );
}

interface GaugeProps {
  name: string;
  says: string;
  value: number | null;
  interval: readonly unknown[] | null;
  bound: number;
}

function Gauge({ name, says, value, interval, bound }: GaugeProps) {
  if (value === null) return <p>{name}: not measured yet</p>;
  const [low, high] = [Number(interval?.[0] ?? value), Number(interval?.[1] ?? value)];
  const top = 1.25 * Math.max(bound, high, value);
  const percent = (at: number): number => (100 * Math.max(0, at)) / top;
  return (
    <div>
      <p>
        <strong>{name}</strong> {value.toFixed(2)} [{low.toFixed(2)}, {high.toFixed(2)}], bound {bound.toFixed(2)}
        {low > bound ? ", exceeded" : ""}
      </p>
      <svg viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true" className={styles.gauge}>
        <rect x={0} y={5} width={100} height={2} className={styles.rail} />
        <rect x={percent(low)} y={3} width={Math.max(0.5, percent(high) - percent(low))} height={6} />
        <rect x={percent(value) - 0.3} y={0} width={0.6} height={12} className={styles.value} />
        <rect x={percent(bound) - 0.3} y={0} width={0.6} height={12} className={styles.bound} />
      </svg>
      <p className={styles.quiet}>
        {says}. Dark line: the value; band: its interval; red line: the bound above which an early run is requested.
      </p>
    </div>
  );
}
