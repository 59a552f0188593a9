import { describe, expect, it } from "vitest";
import {
  afterMessages,
  CHUNK_TOKENS,
  EMPTY_FEED,
  type Feed,
  MAX_REQUESTS,
  missingOf,
  type RequestState,
  tokenAt,
  tokensOf,
  withRequestDetail,
  withRequestList,
} from "./feed";
import type { FeedMessage, RequestDetail, RequestInfo, Token } from "./wire";

function token(requestId: string, step: number, id = step + 1): Token {
  return {
    id,
    request_id: requestId,
    step,
    token_id: step,
    token_text: ` ${step}`,
    captured_at_us: 1_000_000 + step,
    zone: "diffuse",
    confidence: 0.5,
    characteristic: null,
    cluster_id: -1,
    context_len: 10 + step,
    sink_mass: 0.1,
    prompt_mass: 0.1,
    periodicity: 0,
    vector: null,
    topk_positions: null,
    topk_probs: null,
    residual_mass: null,
    head_sketch: null,
    zone_evidence: null,
    head_projection: null,
  };
}

/** A request all of whose tokens came in one page. */
const WHOLE = { same_response_id: [], unreadable: [], next_step: null };

const tokens = (cursor: number, ...list: Token[]): FeedMessage => ({ kind: "tokens", cursor, tokens: list });
const info = (request_id: string, started_at_us: number): RequestInfo => ({
  request_id,
  model_id: "m",
  started_at_us,
  ended_at_us: null,
  prompt_len: 10,
  num_output_tokens: null,
  finish_reason: null,
  prompt_preview: null,
  zone: null,
  zone_confidence: null,
});
const started = (request_id: string, started_at_us: number): FeedMessage => ({
  kind: "request",
  event: "started",
  request: { request_id, started_at_us, prompt_len: 10 },
  prompt_token_texts: ["a", "b"],
  prompt_spans: null,
});
const steps = (feed: Feed, id: string): number[] => tokensOf(feed.requests[id] as never).map((item) => item.step);

describe("cursor", () => {
  it("is the server's at the first hello and then that of the newest tokens", () => {
    let feed = afterMessages(EMPTY_FEED, [{ kind: "hello", cursor: 40, run_id: "r" }]);
    expect(feed.cursor).toBe(40);
    expect(feed.run_id).toBe("r");
    feed = afterMessages(feed, [tokens(43, token("a", 0, 42), token("a", 1, 43))]);
    expect(feed.cursor).toBe(43);
  });

  it("is kept at a later hello, for what was missed is still to come", () => {
    const feed = afterMessages(EMPTY_FEED, [
      { kind: "hello", cursor: 40, run_id: null },
      tokens(41, token("a", 0, 41)),
      { kind: "hello", cursor: 90, run_id: null },
    ]);
    expect(feed.cursor).toBe(41);
  });

  it("starts anew when the server's is behind: another database", () => {
    const feed = afterMessages(EMPTY_FEED, [
      { kind: "hello", cursor: 40, run_id: null },
      tokens(41, token("a", 0, 41)),
      { kind: "hello", cursor: 2, run_id: null },
    ]);
    expect(feed.cursor).toBe(2);
    expect(feed.order).toEqual([]);
  });

  it("moves over a gap, which is counted", () => {
    const feed = afterMessages(EMPTY_FEED, [
      { kind: "hello", cursor: 1, run_id: null },
      { kind: "gap", cursor: 99 },
    ]);
    expect([feed.cursor, feed.num_gaps]).toEqual([99, 1]);
  });
});

describe("tokens", () => {
  it("come twice and out of order, and are held once, by step", () => {
    const feed = afterMessages(EMPTY_FEED, [
      tokens(3, token("a", 2), token("a", 0)),
      tokens(3, token("a", 2), token("a", 1), token("b", 0, 9)),
    ]);
    expect(steps(feed, "a")).toEqual([0, 1, 2]);
    expect(feed.requests.a?.num_tokens).toBe(3);
    expect(feed.requests.b?.num_tokens).toBe(1);
  });

  it("leave a hole until the missing one arrives", () => {
    const feed = afterMessages(EMPTY_FEED, [tokens(9, token("a", CHUNK_TOKENS + 1))]);
    const request = feed.requests.a as never;
    expect(tokenAt(request, 0)).toBeUndefined();
    expect(tokenAt(request, CHUNK_TOKENS + 1)?.step).toBe(CHUNK_TOKENS + 1);
    expect(feed.requests.a?.last_step).toBe(CHUNK_TOKENS + 1);
  });

  it("give the prompt's length where nothing else does", () => {
    expect(afterMessages(EMPTY_FEED, [tokens(1, token("a", 3))]).requests.a?.prompt_len).toBe(10);
  });

  it("leave every other chunk and request as it was, so that only one chunk is drawn again", () => {
    const many = Array.from({ length: CHUNK_TOKENS * 3 }, (_, step) => token("a", step));
    const before = afterMessages(EMPTY_FEED, [tokens(200, ...many), started("b", 5)]);
    const after = afterMessages(before, [tokens(201, token("a", CHUNK_TOKENS * 3))]);
    expect(after.requests.b).toBe(before.requests.b);
    expect(after.order).toBe(before.order);
    expect(after.requests.a?.chunks.slice(0, 3)).toEqual(before.requests.a?.chunks);
    for (const k of [0, 1, 2]) expect(after.requests.a?.chunks[k]).toBe(before.requests.a?.chunks[k]);
    const repeated = afterMessages(after, [tokens(201, token("a", 5))]);
    expect(repeated.requests.a).toBe(after.requests.a);
  });
});

describe("requests", () => {
  it("are listed by start, newest first, and keep what is known when less is said", () => {
    let feed = afterMessages(EMPTY_FEED, [started("old", 1), started("new", 2)]);
    expect(feed.order).toEqual(["new", "old"]);
    feed = withRequestList(feed, [{ ...info("old", 1), prompt_len: null }, info("newest", 3)]);
    expect(feed.order).toEqual(["newest", "new", "old"]);
    expect(feed.requests.old?.prompt_token_texts).toEqual(["a", "b"]);
    expect(feed.requests.old?.prompt_len).toBe(10);
  });

  it("run from start to end", () => {
    let feed = afterMessages(EMPTY_FEED, [started("a", 1)]);
    expect(feed.requests.a?.is_running).toBe(true);
    feed = afterMessages(feed, [
      {
        kind: "request",
        event: "ended",
        request: { request_id: "a", finish_reason: "stop", num_output_tokens: 4 },
        prompt_token_texts: null,
        prompt_spans: null,
      },
    ]);
    expect(feed.requests.a).toMatchObject({ is_running: false, finish_reason: "stop", prompt_token_texts: ["a", "b"] });
  });

  it("are filled in from the store without losing what the feed brought meanwhile", () => {
    const detail: RequestDetail = {
      ...info("a", 1),
      prompt_token_texts: ["p"],
      prompt_spans: [],
      tokens: [token("a", 0), token("a", 1)],
      ...WHOLE,
    };
    const feed = withRequestDetail(afterMessages(EMPTY_FEED, [tokens(3, token("a", 1), token("a", 2))]), detail);
    expect(steps(feed, "a")).toEqual([0, 1, 2]);
    expect(feed.requests.a?.prompt_token_texts).toEqual(["p"]);
  });

  it("are read page by page, and what is missing is known", () => {
    const page = (from: number, count: number, next_step: number | null): RequestDetail => ({
      ...info("a", 1),
      num_output_tokens: 2000,
      prompt_token_texts: null,
      prompt_spans: null,
      tokens: Array.from({ length: count }, (_, k) => token("a", from + k)),
      ...WHOLE,
      next_step,
    });
    const missing = (feed: Feed) => missingOf(feed.requests.a as RequestState);
    let feed = withRequestDetail(EMPTY_FEED, page(0, 512, 512));
    expect(missing(feed)).toEqual([{ from: 512, to: 2000 }]);
    feed = withRequestDetail(feed, page(1024, 512, 1536));
    expect(missing(feed)).toEqual([
      { from: 512, to: 1024 },
      { from: 1536, to: 2000 },
    ]);
    feed = withRequestDetail(feed, page(512, 512, 1024));
    expect(missing(feed)).toEqual([{ from: 1536, to: 2000 }]);
    feed = withRequestDetail(feed, page(1536, 464, null));
    expect(missing(feed)).toEqual([]);
    expect(feed.requests.a?.num_tokens).toBe(2000);
  });

  it("are let go when there are too many, but for the one being looked at", () => {
    const detail: RequestDetail = {
      ...info("ancient", 1),
      prompt_token_texts: null,
      prompt_spans: null,
      tokens: [],
      ...WHOLE,
    };
    const list = Array.from({ length: MAX_REQUESTS + 5 }, (_, k) => info(`r${k}`, 100 + k));
    const feed = withRequestList(withRequestDetail(EMPTY_FEED, detail), list);
    expect(feed.order).toHaveLength(MAX_REQUESTS + 1);
    expect(feed.requests.ancient).toBeDefined();
    expect(feed.requests.r0).toBeUndefined();
    expect(Object.keys(feed.requests)).toHaveLength(MAX_REQUESTS + 1);
  });
});
