import { useMemo } from "react";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import { missingOf, type RequestState } from "../../lib/feed";
import { formatShare } from "../../lib/format";
import { answerMeans } from "./answer-figures";
import { FingerprintPicture } from "./FingerprintPicture";
import { GroundingPanel } from "./GroundingPanel";
import styles from "./TokenDetail.module.css";

/** What stands beside the answer while no token is looked at: the answer as a whole. */
export function RequestSummary({ request }: { request: RequestState }) {
  const means = useMemo(() => answerMeans(request), [request]);
  if (means.numTokens === 0) {
    return (
      <div className={styles.detail}>
        <p className={styles.hint}>Waiting for the first token of this answer.</p>
      </div>
    );
  }
  return (
    <div className={styles.detail}>
      <p className={styles.hint}>
        Point at a token of the answer, or walk it with the arrow keys, to see what it looked back at. A click or a key
        press pins it.
      </p>
      {request.zone === null ? null : (
        <p className={styles.zone} data-testid="request-zone">
          <ZoneSwatch zone={request.zone} />
          <span>
            this answer{request.is_running ? " so far" : ""}: {request.zone}
          </span>
          <span title="How often other heads of the model would give the same zone">
            {request.zone_confidence === null ? "" : `${formatShare(request.zone_confidence)} confident`}
          </span>
        </p>
      )}
      <section className={styles.section}>
        <h2>
          Mean over {missingOf(request).length > 0 ? "the " : ""}
          {means.numTokens} tokens{missingOf(request).length > 0 ? " read" : ""}
        </h2>
        <dl className={styles.facts}>
          {(
            [
              ["on the sink", means.sinkMass],
              ["on the prompt", means.promptMass],
              ["periodicity", means.periodicity],
              ["zone confidence", means.confidence],
            ] as const
          ).map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value === null ? "–" : formatShare(value)}</dd>
            </div>
          ))}
        </dl>
      </section>
      <FingerprintPicture vector={means.vector} contextLen={null} title="Mean fingerprint" />
      <GroundingPanel requestId={request.request_id} isRunning={request.is_running} />
    </div>
  );
}
