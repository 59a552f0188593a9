import { Button } from "../../components/Button";
import { formatClock } from "../../lib/format";
import { useConnectionState, useFeed } from "../../lib/use-feed";
import { useNow } from "../../lib/use-now";
import styles from "./ConnectionNotice.module.css";

/** Says that what is shown is no longer renewed, until when it holds, and when it will be tried again. */
export function ConnectionNotice({ onRetry }: { onRetry: () => void }) {
  const state = useConnectionState();
  const nowMs = useNow(500);
  const newestUs = useFeed((feed) =>
    Object.values(feed.requests).reduce((newest, { last_token_us }) => Math.max(newest, last_token_us ?? 0), 0),
  );
  if (state.phase !== "reconnecting") return null;
  const waitS = Math.max(0, Math.ceil((state.retryAtMs - nowMs) / 1000));
  return (
    <div className={styles.notice} role="status">
      <span>
        Disconnected from the sidecar.
        {newestUs > 0 ? ` Shown: what had arrived until ${formatClock(newestUs)}.` : ""} Attempt {state.attempt + 1}
        {waitS > 0 ? ` in ${waitS} s` : " now"}; nothing stored meanwhile is lost.
      </span>
      <Button onClick={onRetry}>Try now</Button>
    </div>
  );
}
