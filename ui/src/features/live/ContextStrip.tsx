import type { Attended } from "../../lib/fingerprint";
import { formatCount, formatShare } from "../../lib/format";
import styles from "./ContextStrip.module.css";

interface ContextStripProps {
  attended: readonly Attended[];
  contextLen: number;
  promptLen: number | null;
}

const WIDTH = 340;
const HEIGHT = 44;
const AXIS = 4;

/** The whole context from its first position to the query, with the attended positions standing on it. */
export function ContextStrip({ attended, contextLen, promptLen }: ContextStripProps) {
  const xOf = (position: number): number => (position / contextLen) * WIDTH;
  const markWidth = Math.max(1.5, WIDTH / contextLen - 0.5);
  const promptEnd = Math.min(promptLen ?? contextLen, contextLen);
  const total = attended.reduce((sum, { probability }) => sum + probability, 0);
  return (
    <figure className={styles.strip}>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" preserveAspectRatio="none">
        <title>
          {`${attended.length} attended positions of ${formatCount(contextLen)}, holding ${formatShare(total)} of the attention; height is the square root of the probability`}
        </title>
        <rect x={0} y={HEIGHT - AXIS} width={xOf(promptEnd)} height={AXIS} className={styles.prompt} />
        <rect
          x={xOf(promptEnd)}
          y={HEIGHT - AXIS}
          width={WIDTH - xOf(promptEnd)}
          height={AXIS}
          className={styles.answer}
        />
        {attended.map(({ position, probability }) => {
          const height = Math.max(1, Math.sqrt(probability) * (HEIGHT - AXIS));
          return (
            <rect
              key={position}
              x={Math.min(xOf(position), WIDTH - markWidth)}
              y={HEIGHT - AXIS - height}
              width={markWidth}
              height={height}
              className={styles.mark}
            />
          );
        })}
      </svg>
      <figcaption className={styles.scale}>
        <span>0</span>
        {promptEnd < contextLen ? (
          <span>
            prompt {formatCount(promptEnd)} · answer {formatCount(contextLen - promptEnd)}
          </span>
        ) : (
          <span>prompt</span>
        )}
        <span>{formatCount(contextLen - 1)}</span>
      </figcaption>
    </figure>
  );
}
