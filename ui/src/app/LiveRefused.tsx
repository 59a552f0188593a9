import { Notice } from "../components/Notice";
import { useConnectionState } from "../lib/use-feed";

/** Says on every page why nothing arrives live, and which flag or setting would change that. */
export function LiveRefused() {
  const state = useConnectionState();
  if (state.phase !== "reconnecting" || state.reason === null) return null;
  return (
    <Notice tone="bad" title="Live updates are refused">
      <p data-testid="live-refused">{state.reason}.</p>
    </Notice>
  );
}
