import type { DiscoveryStatus } from "../lib/api";
import { Button } from "./Button";
import { Notice } from "./Notice";

/** Before the first discovery run: the guide's three mends, and what the sidecar knows. */
export function DiscoveryUnavailable({ status, onRetry }: { status: DiscoveryStatus; onRetry: () => void }) {
  return (
    <Notice title="discovery not available" actions={<Button onClick={onRetry}>Look again</Button>}>
      <p>This view shows what a discovery run has published, and the sidecar has none to serve yet.</p>
      <ol>
        <li>
          Run the discovery job first:{" "}
          <code>attn-discover --db fingerprints.db --output ./discovery_outputs --hours 24 --min-cluster-size 20</code>
        </li>
        <li>
          Ensure <code>--discovery-dir</code> points to correct directory
          {status.discovery_dir ? (
            <>
              {" "}
              (the sidecar looks in <code>{status.discovery_dir}</code>)
            </>
          ) : null}
        </li>
        <li>
          Check that <code>latest</code> symlink exists in discovery directory
        </li>
      </ol>
      {status.problem ? <p>The sidecar refused the newest bundle: {status.problem}</p> : null}
      <p>This page looks again by itself when a run is announced.</p>
    </Notice>
  );
}
