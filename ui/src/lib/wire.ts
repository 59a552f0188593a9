/** What the sidecar says, typed: the same names as in SQL, Parquet and Python. Everything that comes in is checked here. */

import { isZone, type Zone } from "./zones";

/** What made a token's zone, and what its model usually has at that context length; both 0 to 1, beyond the sink. */
export interface Characteristic {
  name: string;
  value: number;
  usual: number;
}

/** One output token of one request, with all that is stored of it. */
export interface Token {
  /** The store's row number; the cursor of `/events`. 0 where it is not known. */
  id: number;
  request_id: string;
  step: number;
  token_id: number | null;
  token_text: string | null;
  captured_at_us: number;
  zone: Zone | null;
  confidence: number | null;
  characteristic: Characteristic | null;
  cluster_id: number | null;
  context_len: number | null;
  sink_mass: number | null;
  prompt_mass: number | null;
  periodicity: number | null;
  vector: number[] | null;
  /** Null where the request did not ask for its attention tokens. */
  topk_positions: number[] | null;
  topk_probs: number[] | null;
  residual_mass: number | null;
  /** What the captured heads did; null where the model has no head projection. */
  head_sketch: number[] | null;
  zone_evidence: number[] | null;
  /** Hash of the matrix that made both. */
  head_projection: string | null;
}

/** A stretch of the prompt, half-open, that one message of the conversation fills. */
export interface PromptSpan {
  message: number;
  role: string;
  start: number;
  end: number;
}

export interface RequestInfo {
  request_id: string;
  model_id: string | null;
  started_at_us: number | null;
  ended_at_us: number | null;
  prompt_len: number | null;
  num_output_tokens: number | null;
  finish_reason: string | null;
  /** The beginning of what was asked, where the list carries it. */
  prompt_preview: string | null;
  /** Of the whole answer: the zone formula on the means of its tokens. Null where it is not known (yet). */
  zone: Zone | null;
  zone_confidence: number | null;
}

export interface RequestDetail extends RequestInfo {
  prompt_token_texts: string[] | null;
  prompt_spans: PromptSpan[] | null;
  tokens: Token[];
  /** The request ids of all answers that carry this one's id; more than one where a client used it again. */
  same_response_id: string[];
  /** Fields that are stored and cannot be read. */
  unreadable: string[];
  /** Where the next page begins; null where the tokens are the last. */
  next_step: number | null;
}

export type FeedMessage =
  | { kind: "hello"; cursor: number; run_id: string | null }
  | { kind: "tokens"; cursor: number; tokens: Token[] }
  | {
      kind: "request";
      event: "started" | "ended";
      request: Partial<RequestInfo> & { request_id: string };
      prompt_token_texts: string[] | null;
      prompt_spans: PromptSpan[] | null;
    }
  | { kind: "run"; run_id: string | null }
  /** The sidecar fell behind and left tokens out of the feed; the store has them. */
  | { kind: "gap"; cursor: number };

type Json = Record<string, unknown>;

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function numberOrNull(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function stringOrNull(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function numbersOrNull(value: unknown): number[] | null {
  return Array.isArray(value) && value.every((item) => typeof item === "number") ? value : null;
}

function stringsOrNull(value: unknown): string[] | null {
  return Array.isArray(value) && value.every((item) => typeof item === "string") ? value : null;
}

export function spansFromJson(value: unknown): PromptSpan[] | null {
  if (!Array.isArray(value)) return null;
  return value.flatMap((item) => {
    if (!isObject(item)) return [];
    const [start, end] = [numberOrNull(item.start), numberOrNull(item.end)];
    if (start === null || end === null || end <= start) return [];
    return [{ message: numberOrNull(item.message) ?? 0, role: stringOrNull(item.role) ?? "prompt", start, end }];
  });
}

export function characteristicFromJson(json: unknown): Characteristic | null {
  if (!isObject(json)) return null;
  const [name, value, usual] = [stringOrNull(json.name), numberOrNull(json.value), numberOrNull(json.usual)];
  return name === null || value === null || usual === null ? null : { name, value, usual };
}

/** A token as the sidecar sends it; null where it lacks its identity. */
export function tokenFromJson(
  value: unknown,
  requestId: string | null = null,
  headProjection: string | null = null,
): Token | null {
  if (!isObject(value)) return null;
  const [request_id, step] = [stringOrNull(value.request_id) ?? requestId, numberOrNull(value.step)];
  if (request_id === null || step === null || step < 0) return null;
  return {
    id: numberOrNull(value.id) ?? 0,
    request_id,
    step,
    token_id: numberOrNull(value.token_id),
    token_text: stringOrNull(value.token_text),
    captured_at_us: numberOrNull(value.captured_at_us) ?? 0,
    zone: isZone(value.zone) ? value.zone : null,
    confidence: numberOrNull(value.confidence) ?? numberOrNull(value.zone_confidence),
    characteristic: characteristicFromJson(value.characteristic),
    cluster_id: numberOrNull(value.cluster_id),
    context_len: numberOrNull(value.context_len),
    sink_mass: numberOrNull(value.sink_mass),
    prompt_mass: numberOrNull(value.prompt_mass),
    periodicity: numberOrNull(value.periodicity),
    vector: numbersOrNull(value.vector),
    topk_positions: numbersOrNull(value.topk_positions),
    topk_probs: numbersOrNull(value.topk_probs),
    residual_mass: numberOrNull(value.residual_mass),
    head_sketch: numbersOrNull(value.head_sketch),
    zone_evidence: numbersOrNull(value.zone_evidence),
    // Said once for a list of tokens that all have the same.
    head_projection: stringOrNull(value.head_projection) ?? headProjection,
  };
}

function tokensFromJson(value: unknown, requestId: string | null, headProjection: string | null): Token[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((item) => tokenFromJson(item, requestId, headProjection) ?? []);
}

export function requestInfoFromJson(value: unknown): RequestInfo | null {
  if (!isObject(value)) return null;
  const request_id = stringOrNull(value.request_id);
  if (request_id === null) return null;
  return {
    request_id,
    model_id: stringOrNull(value.model_id),
    started_at_us: numberOrNull(value.started_at_us),
    ended_at_us: numberOrNull(value.ended_at_us),
    prompt_len: numberOrNull(value.prompt_len),
    num_output_tokens: numberOrNull(value.num_output_tokens) ?? numberOrNull(value.num_fingerprints),
    finish_reason: stringOrNull(value.finish_reason),
    prompt_preview: stringOrNull(value.prompt_preview),
    zone: isZone(value.zone) ? value.zone : null,
    zone_confidence: numberOrNull(value.zone_confidence),
  };
}

export function requestDetailFromJson(value: unknown): RequestDetail | null {
  const info = requestInfoFromJson(value);
  if (info === null || !isObject(value)) return null;
  return {
    ...info,
    prompt_token_texts: stringsOrNull(value.prompt_token_texts),
    prompt_spans: spansFromJson(value.prompt_spans),
    tokens: tokensFromJson(value.tokens, info.request_id, stringOrNull(value.head_projection)),
    same_response_id: stringsOrNull(value.same_response_id) ?? [],
    unreadable: stringsOrNull(value.unreadable) ?? [],
    next_step: numberOrNull(value.next_step),
  };
}

/** A message of `/events`; null for kinds that this version does not know, which are skipped. */
export function feedMessageFromJson(value: unknown): FeedMessage | null {
  if (!isObject(value)) return null;
  const cursor = numberOrNull(value.cursor) ?? 0;
  switch (value.kind) {
    case "hello":
      return { kind: "hello", cursor, run_id: stringOrNull(value.run_id) };
    case "tokens":
      return {
        kind: "tokens",
        cursor,
        tokens: tokensFromJson(value.tokens, null, stringOrNull(value.head_projection)),
      };
    case "gap":
      return { kind: "gap", cursor };
    case "run":
      return { kind: "run", run_id: stringOrNull(value.run_id) };
    case "request": {
      const info = requestInfoFromJson(value);
      if (info === null) return null;
      const event = value.event === "ended" ? "ended" : "started";
      const at_us = numberOrNull(value.at_us);
      const known = Object.entries(info).filter(([, field]) => field !== null);
      const request: Partial<RequestInfo> & { request_id: string } = {
        ...Object.fromEntries(known),
        request_id: info.request_id,
      };
      if (at_us !== null && event === "started") request.started_at_us ??= at_us;
      if (at_us !== null && event === "ended") request.ended_at_us ??= at_us;
      return {
        kind: "request",
        event,
        request,
        prompt_token_texts: stringsOrNull(value.prompt_token_texts),
        prompt_spans: spansFromJson(value.prompt_spans),
      };
    }
    default:
      return null;
  }
}
