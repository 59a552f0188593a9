import { useConnectionState } from "../lib/use-feed";
import { useNow } from "../lib/use-now";
import styles from "./ConnectionBadge.module.css";

/** How the feed stands: connecting, live, or reconnecting and when. */
export function ConnectionBadge() {
  const state = useConnectionState();
  const nowMs = useNow(500);
  const text =
    state.phase === "reconnecting"
      ? `reconnecting in ${Math.max(0, Math.ceil((state.retryAtMs - nowMs) / 1000))} s`
      : state.phase;
  return (
    <span className={styles.badge} data-phase={state.phase} data-testid="connection">
      <span className={styles.dot} aria-hidden="true" />
      <span aria-live="polite" className="visually-hidden">{`Feed ${state.phase}`}</span>
      <span aria-hidden="true">{text}</span>
    </span>
  );
}
