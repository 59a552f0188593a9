import { memo } from "react";
import { Button } from "../../components/Button";
import type { RequestState } from "../../lib/feed";
import { formatAge } from "../../lib/format";
import { tokenLabel } from "../../lib/token-text";
import { useFeed } from "../../lib/use-feed";
import { useNow } from "../../lib/use-now";
import styles from "./RequestList.module.css";
import { isRunning, previewOfPrompt } from "./request-text";

interface RequestListProps {
  selectedId: string;
  isFollowing: boolean;
  onSelect: (requestId: string) => void;
  onFollow: (follow: boolean) => void;
}

/** Recent requests, the newest first. */
export function RequestList({ selectedId, isFollowing, onSelect, onFollow }: RequestListProps) {
  const order = useFeed((feed) => feed.order);
  const nowMs = useNow(5_000);
  return (
    <nav className={styles.list} aria-label="Requests">
      <div className={styles.bar}>
        <h2>Requests</h2>
        <Button aria-pressed={isFollowing} onClick={() => onFollow(!isFollowing)}>
          Follow newest
        </Button>
      </div>
      <ul className={styles.items}>
        {order.map((id) => (
          <RequestItem key={id} requestId={id} isSelected={id === selectedId} nowMs={nowMs} onSelect={onSelect} />
        ))}
      </ul>
    </nav>
  );
}

interface RequestItemProps {
  requestId: string;
  isSelected: boolean;
  nowMs: number;
  onSelect: (requestId: string) => void;
}

const RequestItem = memo(function RequestItem({ requestId, isSelected, nowMs, onSelect }: RequestItemProps) {
  const request = useFeed((feed) => feed.requests[requestId]);
  if (request === undefined) return null;
  const running = isRunning(request, nowMs);
  return (
    <li>
      <button
        type="button"
        className={styles.item}
        ref={isSelected ? bringIntoView : undefined}
        aria-current={isSelected ? "true" : undefined}
        onClick={() => onSelect(requestId)}
        data-request-id={requestId}
      >
        <span className={styles.preview}>{previewOfPrompt(request) ?? tokenLabel(requestId.slice(0, 18))}</span>
        <span className={styles.meta}>
          {running ? <span className={styles.running}>running</span> : null}
          <span>{tokensText(request)}</span>
          <span>{startText(request, nowMs)}</span>
        </span>
      </button>
    </li>
  );
});

function bringIntoView(element: HTMLElement | null): void {
  element?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function tokensText(request: RequestState): string {
  const count = Math.max(request.num_tokens, request.num_output_tokens ?? 0);
  return `${count} token${count === 1 ? "" : "s"}`;
}

function startText(request: RequestState, nowMs: number): string {
  const startedUs = request.started_at_us ?? request.last_token_us;
  return startedUs === null ? "" : formatAge(startedUs, nowMs);
}
