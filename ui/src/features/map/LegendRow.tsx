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
      aria-label={`${name}, ${count} tokens, ${isShown ? "shown" : "hidden"}`}
      onClick={onToggle}
    >
      {sign}
      <span className={styles.name}>
        {name}
        {aside ? <span className={styles.aside}>{aside}</span> : null}
      </span>
      <span className={styles.count}>{formatCount(count)}</span>
      <span className={styles.share}>{total > 0 ? formatShare(count / total) : ""}</span>
    </button>
  );
}
