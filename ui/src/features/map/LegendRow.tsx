import type { ReactNode } from "react";
import { formatCount, formatShare } from "../../lib/format";
import styles from "./LegendRow.module.css";

interface LegendRowProps {
  sign: ReactNode;
  name: string;
  aside?: string | null;
  count: number;
  total: number;
  isShown: boolean;
  describedBy?: string;
  onToggle: () => void;
}

/** A line of the legend: what a colour means, how many points have it; pressing it hides or shows them. */
export function LegendRow({ sign, name, aside, count, total, isShown, describedBy, onToggle }: LegendRowProps) {
  return (
    <button
      type="button"
      className={styles.row}
      aria-pressed={isShown}
      aria-describedby={describedBy}
      data-testid="legend-row"
      data-name={name}
      data-count={count}
      onClick={onToggle}
    >
      {sign}
      <span className={styles.name}>
        {name}
        {aside ? <span className={styles.aside}>{aside}</span> : null}
      </span>
      <span className={styles.count}>
        {formatCount(count)}
        <span className="visually-hidden"> tokens</span>
      </span>
      <span className={styles.share}>{total > 0 ? formatShare(count / total) : ""}</span>
    </button>
  );
}
