import { Fragment } from "react";
import { ViewLink } from "../../components/ViewLink";
import { missingOf, type RequestState } from "../../lib/feed";
import { formatClock, formatCount } from "../../lib/format";
import { useNow } from "../../lib/use-now";
import styles from "./RequestHead.module.css";
import { isRunning, tokensPerSecond } from "./request-text";

/** One line about the answer shown: which request, which model, how long, how fast, how it ended. */
export function RequestHead({ request }: { request: RequestState }) {
  const nowMs = useNow(2_000);
  const rate = tokensPerSecond(request);
  const running = isRunning(request, nowMs);
  return (
    <header className={styles.head}>
      <code className={styles.id} title={request.request_id}>
        {request.request_id}
      </code>
      <dl className={styles.facts}>
        {request.model_id ? <Fact name="model" value={request.model_id.split("/").at(-1) ?? request.model_id} /> : null}
        {request.prompt_len !== null ? <Fact name="prompt" value={formatCount(request.prompt_len)} /> : null}
        <Fact name="answer" value={answerLength(request)} testId="num-tokens" />
        {rate !== null ? <Fact name="tokens/s" value={rate.toFixed(1)} /> : null}
        {request.started_at_us !== null ? <Fact name="started" value={formatClock(request.started_at_us)} /> : null}
      </dl>
      {request.same_response_id.length > 1 ? (
        <span className={styles.same} data-testid="same-id" title="A client used this id again; each answer is kept">
          answers of this id:
          {request.same_response_id.map((id, k) => (
            <Fragment key={id}>
              {" "}
              {id === request.request_id ? (
                <b>{k + 1}</b>
              ) : (
                <ViewLink to={{ page: "live", requestId: id, step: null }}>{k + 1}</ViewLink>
              )}
            </Fragment>
          ))}
        </span>
      ) : null}
      {request.unreadable.length > 0 ? (
        <span className={styles.same} data-testid="unreadable">
          stored and unreadable: {request.unreadable.join(", ")}
        </span>
      ) : null}
      <span className={styles.state} data-running={running ? "" : undefined} title="How the answer ended">
        {running ? "running" : (request.finish_reason ?? "ended")}
      </span>
    </header>
  );
}

/** "512", or "512 of 32,768 read" while pages of it are missing. */
function answerLength(request: RequestState): string {
  const held = formatCount(request.num_tokens);
  if (missingOf(request).length === 0) return held;
  return `${held} of ${request.num_output_tokens === null ? "more" : formatCount(request.num_output_tokens)} read`;
}

function Fact({ name, value, testId }: { name: string; value: string; testId?: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd data-testid={testId}>{value}</dd>
    </div>
  );
}
