import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { Button } from "../../components/Button";
import { Notice } from "../../components/Notice";
import { Skeleton } from "../../components/Skeleton";
import { fetchRequest, fetchRequests, PAGE_TOKENS, SidecarError } from "../../lib/api";
import { CHUNK_TOKENS, tokenAt } from "../../lib/feed";
import type { LiveView } from "../../lib/url-state";
import { useConnectionState, useFeed, useFeedStore } from "../../lib/use-feed";
import { goTo } from "../../lib/use-view";
import { ConnectionNotice } from "./ConnectionNotice";
import { FirstVisit } from "./FirstVisit";
import styles from "./LivePage.module.css";
import { RequestHead } from "./RequestHead";
import { RequestList } from "./RequestList";
import { RequestSummary } from "./RequestSummary";
import { TokenDetail } from "./TokenDetail";
import { TokenFlow } from "./TokenFlow";
import { ZoneCounts } from "./ZoneCounts";

const LISTED_REQUESTS = 50;

/** Running and recent answers, their tokens by zone, and what each token looked back at. */
export function LivePage({ view }: { view: LiveView }) {
  const store = useFeedStore();
  const newestId = useFeed((feed) => feed.order[0] ?? null);
  const isFollowing = view.requestId === null;
  const requestId = view.requestId ?? newestId;
  const request = useFeed((feed) => (requestId === null ? undefined : feed.requests[requestId]));
  const [hoverStep, setHoverStep] = useState<number | null>(null);
  const [flashPosition, setFlashPosition] = useState<number | null>(null);
  const list = useRequestList();
  const detail = useRequestDetail(requestId);
  usePinnedPage(view, detail.isSuccess);

  const step = hoverStep ?? view.step;
  const token = request && step !== null ? tokenAt(request, step) : undefined;

  const show = (id: string | null, pinnedStep: number | null): void => {
    setHoverStep(null);
    goTo({ page: "live", requestId: id, step: id === null ? null : pinnedStep }, { replace: id === requestId });
  };

  if (requestId === null) {
    if (list.isError) return <SidecarDown error={list.error} onRetry={() => void list.refetch()} />;
    if (list.isPending) return <Skeleton label="Loading requests" rows={8} />;
    return <FirstVisit />;
  }
  const isMissing =
    detail.error instanceof SidecarError && detail.error.status === 404 && (request?.num_tokens ?? 0) === 0;
  return (
    <div className={styles.page}>
      <RequestList
        selectedId={requestId}
        isFollowing={isFollowing}
        onSelect={(id) => show(id, null)}
        onFollow={(follow) => show(follow ? null : requestId, follow ? null : view.step)}
      />
      <section className={styles.answer} aria-label="Answer">
        <ConnectionNotice onRetry={() => store.retryNow()} />
        {request && !isMissing ? (
          <>
            <RequestHead request={request} />
            <TokenFlow
              key={requestId}
              request={request}
              activeToken={token}
              pinnedStep={view.step}
              flashPosition={flashPosition}
              onHover={setHoverStep}
              onPin={(pinned) => show(requestId, pinned)}
              onRead={async (fromStep) => {
                const page = await fetchRequest(requestId, fromStep);
                store.fillInDetail(page);
                return page.tokens.length;
              }}
            />
            <ZoneCounts request={request} />
          </>
        ) : isMissing ? (
          <Notice title="This request is not stored here">
            <p>
              The sidecar knows no request <code>{requestId}</code>. It may belong to another database.
            </p>
          </Notice>
        ) : (
          <Skeleton label="Loading the request" rows={10} />
        )}
      </section>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <aside className={styles.detail} aria-label="Details" tabIndex={0}>
        {request && token ? (
          <TokenDetail
            request={request}
            token={token}
            isPinned={view.step === token.step}
            onUnpin={() => show(requestId, null)}
            onFlash={setFlashPosition}
          />
        ) : request ? (
          <RequestSummary request={request} />
        ) : null}
      </aside>
    </div>
  );
}

/** `/requests`, filled into the feed; asked again whenever the connection comes back, for what was missed meanwhile. */
function useRequestList() {
  const store = useFeedStore();
  const queries = useQueryClient();
  const { phase } = useConnectionState();
  const numGaps = useFeed((feed) => feed.num_gaps);
  const list = useQuery({
    queryKey: ["requests"],
    queryFn: ({ signal }) => fetchRequests(LISTED_REQUESTS, signal),
    staleTime: 30_000,
  });
  useEffect(() => {
    if (list.data) store.fillInList(list.data);
  }, [list.data, store]);
  useEffect(() => {
    // Tokens are resumed by cursor, request events are not, and a gap is in the store: read both again.
    if (phase !== "live" && numGaps === 0) return;
    void queries.invalidateQueries({ queryKey: ["requests"] });
    void queries.invalidateQueries({ queryKey: ["request"] });
  }, [phase, numGaps, queries]);
  return list;
}

/** `/requests/{id}`, filled into the feed. */
function useRequestDetail(requestId: string | null) {
  const store = useFeedStore();
  const detail = useQuery({
    queryKey: ["request", requestId],
    queryFn: ({ signal }) => fetchRequest(requestId ?? "", 0, signal),
    enabled: requestId !== null,
    staleTime: Number.POSITIVE_INFINITY,
    gcTime: 0,
    // The first token may be announced a moment before the request is readable.
    retry: 2,
    retryDelay: 600,
  });
  useEffect(() => {
    if (detail.data) store.fillInDetail(detail.data);
  }, [detail.data, store]);
  return detail;
}

/** The page of a token that the URL names and the first page does not hold. */
function usePinnedPage({ requestId, step }: LiveView, isFirstRead: boolean): void {
  const store = useFeedStore();
  useEffect(() => {
    if (!isFirstRead || requestId === null || step === null) return;
    const request = store.feed().requests[requestId];
    if (request === undefined || tokenAt(request, step) !== undefined) return;
    const abort = new AbortController();
    const fromStep = Math.max(0, Math.floor((step - PAGE_TOKENS / 2) / CHUNK_TOKENS) * CHUNK_TOKENS);
    fetchRequest(requestId, fromStep, abort.signal).then(
      (page) => store.fillInDetail(page),
      () => undefined, // The flow says what is missing, and reads it on demand.
    );
    return () => abort.abort();
  }, [store, requestId, step, isFirstRead]);
}

function SidecarDown({ error, onRetry }: { error: Error; onRetry: () => void }) {
  return (
    <Notice tone="bad" title={error.message} actions={<Button onClick={onRetry}>Try again</Button>}>
      <p>The explorer shows what the sidecar holds. Start it, then come back to this page:</p>
      <p>
        <code>attn-sidecar --port 9009 --db fingerprints.db --discovery-dir ./discovery_outputs --online</code>
      </p>
      <p>It is asked again by itself as soon as the live connection is back.</p>
    </Notice>
  );
}
