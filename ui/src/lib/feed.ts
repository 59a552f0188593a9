/**
 * The feed: what the explorer knows of the requests, built from `/events` and filled in from `/requests`. Pure: a message
 * and a state give a new state; what did not change keeps its identity, so that only the parts that did are drawn again.
 */

import type { FeedMessage, PromptSpan, RequestDetail, RequestInfo, Token } from "./wire";

/** Tokens a chunk: an arriving token copies and redraws one chunk, never the whole answer. */
export const CHUNK_TOKENS = 32;
/** Requests kept; the longest untouched goes first. */
export const MAX_REQUESTS = 100;

export type Chunk = readonly (Token | undefined)[];

export interface RequestState extends RequestInfo {
  prompt_token_texts: string[] | null;
  prompt_spans: PromptSpan[] | null;
  /** Output tokens by step, `CHUNK_TOKENS` a chunk. */
  chunks: readonly Chunk[];
  /** Where the pages read so far end; null where they hold all that was stored then. */
  next_step: number | null;
  same_response_id: readonly string[];
  unreadable: readonly string[];
  /** Tokens held, and the highest step among them (-1 with none). */
  num_tokens: number;
  last_step: number;
  /** Running: started, not ended, and heard of over the feed. */
  is_running: boolean;
  last_token_us: number | null;
}

export interface Feed {
  /** The id up to which tokens have been received; null before the first word. What a reconnect asks to go on after. */
  cursor: number | null;
  run_id: string | null;
  requests: Readonly<Record<string, RequestState>>;
  /** Request ids, the newest start first. */
  order: readonly string[];
  /** Discovery runs announced since the page opened. */
  num_runs_seen: number;
  /** Times that the sidecar left tokens out of the feed. */
  num_gaps: number;
  /** The request last filled in: the one being looked at, kept however old it is. */
  pinned: string | null;
}

export const EMPTY_FEED: Feed = {
  cursor: null,
  run_id: null,
  requests: {},
  order: [],
  num_runs_seen: 0,
  num_gaps: 0,
  pinned: null,
};

function emptyRequest(requestId: string): RequestState {
  return {
    request_id: requestId,
    model_id: null,
    started_at_us: null,
    ended_at_us: null,
    prompt_len: null,
    num_output_tokens: null,
    finish_reason: null,
    prompt_preview: null,
    zone: null,
    zone_confidence: null,
    prompt_token_texts: null,
    prompt_spans: null,
    chunks: [],
    next_step: null,
    same_response_id: [],
    unreadable: [],
    num_tokens: 0,
    last_step: -1,
    is_running: false,
    last_token_us: null,
  };
}

export function tokenAt(request: RequestState, step: number): Token | undefined {
  return request.chunks[Math.floor(step / CHUNK_TOKENS)]?.[step % CHUNK_TOKENS];
}

export function tokensOf(request: RequestState): Token[] {
  return request.chunks.flatMap((chunk) => chunk.filter((token) => token !== undefined));
}

/** Steps [from, to) that are stored, as far as is known, and not held; `to` is null where the end is not known. */
export interface Missing {
  from: number;
  to: number | null;
}

/** What of an answer was not read yet: whole chunks between those that are held, and what comes after the last page. */
export function missingOf(request: RequestState): Missing[] {
  const missing: Missing[] = [];
  for (const [index, chunk] of request.chunks.entries()) {
    if (chunk.length > 0) continue;
    const [from, to] = [index * CHUNK_TOKENS, (index + 1) * CHUNK_TOKENS];
    const last = missing.at(-1);
    if (last?.to === from) last.to = to;
    else missing.push({ from, to });
  }
  if (request.next_step !== null && request.next_step > request.last_step)
    missing.push({ from: request.next_step, to: request.num_output_tokens });
  return missing;
}

/** The request with these tokens put at their steps; tokens already held are left alone (delivered at least once). */
export function withTokens(request: RequestState, tokens: readonly Token[]): RequestState {
  const chunks = [...request.chunks];
  const copied = new Set<number>();
  let { num_tokens, last_step, last_token_us, prompt_len } = request;
  for (const token of tokens) {
    const at = Math.floor(token.step / CHUNK_TOKENS);
    const held = chunks[at]?.[token.step % CHUNK_TOKENS];
    if (held !== undefined) continue;
    while (chunks.length <= at) chunks.push([]);
    if (!copied.has(at)) {
      chunks[at] = [...(chunks[at] ?? [])];
      copied.add(at);
    }
    (chunks[at] as (Token | undefined)[])[token.step % CHUNK_TOKENS] = token;
    num_tokens += 1;
    last_step = Math.max(last_step, token.step);
    last_token_us = Math.max(last_token_us ?? 0, token.captured_at_us);
    // The query of step k sits at prompt_len + k - 1, and attends to context_len positions.
    if (prompt_len === null && token.context_len !== null) prompt_len = token.context_len - token.step;
  }
  return copied.size === 0 ? request : { ...request, chunks, num_tokens, last_step, last_token_us, prompt_len };
}

function startOf(request: RequestState): number {
  return request.started_at_us ?? tokenAt(request, 0)?.captured_at_us ?? request.last_token_us ?? 0;
}

/** Requests as given, with the order made anew and all but the newest `MAX_REQUESTS` let go. */
function arranged(feed: Feed, requests: Record<string, RequestState>): Feed {
  const ids = Object.keys(requests).sort((a, b) => {
    const [ra, rb] = [requests[a], requests[b]];
    return ra && rb ? startOf(rb) - startOf(ra) || (a < b ? -1 : 1) : 0;
  });
  const order = ids.filter((id, k) => k < MAX_REQUESTS || id === feed.pinned);
  const isSameOrder = order.length === feed.order.length && order.every((id, k) => id === feed.order[k]);
  for (const id of ids.slice(MAX_REQUESTS)) if (id !== feed.pinned) delete requests[id];
  return { ...feed, requests, order: isSameOrder ? feed.order : order };
}

/** What is newly said wins over null, never null over what is known. */
function filledIn<T extends RequestInfo>(request: T, said: Partial<RequestInfo>): T {
  const known = Object.fromEntries(Object.entries(said).filter(([, value]) => value !== null && value !== undefined));
  return { ...request, ...known };
}

function applyMessage(feed: Feed, message: FeedMessage, requests: Record<string, RequestState>): Feed {
  switch (message.kind) {
    case "hello":
      // On a resume the tokens after our cursor are still to come, so the server's own cursor must not be taken over.
      // One behind ours means another database: begin anew.
      if (feed.cursor !== null && message.cursor < feed.cursor) {
        for (const id of Object.keys(requests)) delete requests[id];
        return { ...feed, run_id: message.run_id, cursor: message.cursor };
      }
      return { ...feed, run_id: message.run_id, cursor: feed.cursor ?? message.cursor };
    case "run":
      return { ...feed, run_id: message.run_id, num_runs_seen: feed.num_runs_seen + 1 };
    case "gap":
      return { ...feed, cursor: Math.max(feed.cursor ?? 0, message.cursor), num_gaps: feed.num_gaps + 1 };
    case "request": {
      const { request_id } = message.request;
      const held = filledIn(requests[request_id] ?? emptyRequest(request_id), message.request);
      requests[request_id] = {
        ...held,
        is_running: message.event === "started" && held.ended_at_us === null && held.finish_reason === null,
        prompt_token_texts: message.prompt_token_texts ?? held.prompt_token_texts,
        prompt_spans: message.prompt_spans ?? held.prompt_spans,
      };
      return feed;
    }
    case "tokens": {
      const byRequest = new Map<string, Token[]>();
      for (const token of message.tokens) {
        const list = byRequest.get(token.request_id);
        if (list) list.push(token);
        else byRequest.set(token.request_id, [token]);
      }
      for (const [id, tokens] of byRequest) requests[id] = withTokens(requests[id] ?? emptyRequest(id), tokens);
      return { ...feed, cursor: Math.max(feed.cursor ?? 0, message.cursor) };
    }
  }
}

/** The feed after these messages, in order: one pass for everything that came within an animation frame. */
export function afterMessages(feed: Feed, messages: readonly FeedMessage[]): Feed {
  if (messages.length === 0) return feed;
  const requests = { ...feed.requests };
  let next = feed;
  for (const message of messages) next = applyMessage(next, message, requests);
  return arranged(next, requests);
}

/** The feed with the list of `/requests` filled in. */
export function withRequestList(feed: Feed, list: readonly RequestInfo[]): Feed {
  const requests = { ...feed.requests };
  for (const info of list)
    requests[info.request_id] = filledIn(requests[info.request_id] ?? emptyRequest(info.request_id), info);
  return arranged(feed, requests);
}

/** The feed with one answer of `/requests/{id}` filled in: prompt, and the tokens stored before the page opened. */
export function withRequestDetail(feed: Feed, detail: RequestDetail): Feed {
  const { tokens, prompt_token_texts, prompt_spans, same_response_id, unreadable, next_step, ...info } = detail;
  const held = filledIn(feed.requests[detail.request_id] ?? emptyRequest(detail.request_id), info);
  const filled = {
    ...held,
    is_running: held.is_running && info.finish_reason === null && info.ended_at_us === null,
    prompt_token_texts: prompt_token_texts ?? held.prompt_token_texts,
    prompt_spans: prompt_spans ?? held.prompt_spans,
    same_response_id,
    unreadable,
    // A page in the middle says nothing of where the last one ends.
    next_step: next_step === null ? null : Math.max(next_step, held.next_step ?? 0),
  };
  const pinned = { ...feed, pinned: detail.request_id };
  return arranged(pinned, { ...feed.requests, [detail.request_id]: withTokens(filled, tokens) });
}
