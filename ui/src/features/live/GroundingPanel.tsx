import { useQuery } from "@tanstack/react-query";
import { fetchGrounding, type GroundingPage } from "../../lib/api";
import { formatCount } from "../../lib/format";
import styles from "./GroundingPanel.module.css";
import { boundsText, partName } from "./grounding-text";

/** How much of its attention each sentence gave to each part of the context; asked again once the answer ends. */
export function GroundingPanel({ requestId, isRunning }: { requestId: string; isRunning: boolean }) {
  const { data } = useQuery({
    queryKey: ["grounding", requestId, isRunning],
    queryFn: ({ signal }) => fetchGrounding(requestId, signal),
  });
  if (!data || data.sentences.length === 0) return null;
  return <Sentences grounding={data} />;
}

function Sentences({ grounding: { parts, sentences, endStep } }: { grounding: GroundingPage }) {
  return (
    <section className={styles.panel} data-testid="grounding" aria-label="What each sentence attended to">
      <h2>What each sentence attended to</h2>
      <ul className={styles.legend}>
        {parts.map((part, k) => (
          <li key={partName(part)}>
            <i data-kind={part.kind} data-odd={k % 2 === 1} aria-hidden="true" /> {partName(part)}
          </li>
        ))}
        <li>
          <i data-kind="unknown" aria-hidden="true" /> not stored
        </li>
      </ul>
      <ol className={styles.sentences}>
        {sentences.map(({ first_step, end_step, text, low, high }) => (
          <li key={first_step}>
            <p className={styles.text}>{text?.trim() || `tokens ${first_step} to ${end_step - 1}`}</p>
            <div className={styles.bar} aria-hidden="true">
              {parts.map((part, k) => (
                <i
                  key={partName(part)}
                  data-kind={part.kind}
                  data-odd={k % 2 === 1}
                  style={{ width: `${100 * (low[k] ?? 0)}%` }}
                />
              ))}
            </div>
            <p className={styles.figures}>
              {parts.map((part, k) => `${partName(part)} ${boundsText(low[k] ?? 0, high[k] ?? 0)}`).join(" · ")}
            </p>
          </li>
        ))}
      </ol>
      <p className={styles.figures}>
        {endStep === null ? "" : `Of the first ${formatCount(endStep)} tokens. `}
        Means over the sentence's tokens. Only the most attended positions are stored. Where two figures are given, they
        are the lower and the upper bound; the bar shows the lower one.
      </p>
    </section>
  );
}
