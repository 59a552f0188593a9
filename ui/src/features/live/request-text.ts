/** Words about a request that its tokens hold. */

import type { RequestState } from "../../lib/feed";
import type { PromptSpan } from "../../lib/wire";

const PREVIEW_TOKENS = 24;
/** Without word of its end, a request that was silent this long is no longer called running. */
const SILENT_MS = 20_000;

/** The start of the last user message, on one line; null where no text of the prompt is known. */
export function previewOfPrompt(request: RequestState): string | null {
  const texts = request.prompt_token_texts;
  if (texts === null || texts.length === 0) return request.prompt_preview;
  const spans = request.prompt_spans ?? [];
  const span = spans.findLast((item) => item.role === "user") ?? spans.at(-1) ?? { start: 0, end: texts.length };
  const words = texts.slice(span.start, Math.min(span.end, span.start + PREVIEW_TOKENS)).join("");
  return words.replace(/\s+/g, " ").trim() || null;
}

export function isRunning(request: RequestState, nowMs: number): boolean {
  if (request.finish_reason !== null || request.ended_at_us !== null) return false;
  const lastMs = Math.max(request.last_token_us ?? 0, request.started_at_us ?? 0) / 1000;
  return nowMs - lastMs < SILENT_MS;
}

/** Output tokens a second, between the first and the last token held; null with fewer than two. */
export function tokensPerSecond(request: RequestState): number | null {
  const firstUs = request.chunks[0]?.[0]?.captured_at_us;
  const lastUs = request.last_token_us;
  if (firstUs === undefined || lastUs === null || lastUs <= firstUs) return null;
  return request.last_step / ((lastUs - firstUs) / 1e6);
}

export interface PromptSegment {
  /** Null for what the chat template put between messages. */
  role: string | null;
  message: number | null;
  start: number;
  end: number;
}

/** The prompt cut into messages and the template's tokens between them; every position is in one segment. */
export function promptSegments(spans: readonly PromptSpan[] | null, promptLen: number): PromptSegment[] {
  const segments: PromptSegment[] = [];
  let at = 0;
  for (const span of [...(spans ?? [])].sort((a, b) => a.start - b.start)) {
    const [start, end] = [Math.max(span.start, at), Math.min(span.end, promptLen)];
    if (end <= start) continue;
    if (start > at) segments.push({ role: null, message: null, start: at, end: start });
    segments.push({ role: span.role, message: span.message, start, end });
    at = end;
  }
  if (at < promptLen) segments.push({ role: at === 0 ? "prompt" : null, message: null, start: at, end: promptLen });
  return segments;
}

/** Where a position lies, in words: "user", "template", "answer". */
export function placeOfPosition(position: number, request: RequestState): string {
  if (request.prompt_len !== null && position >= request.prompt_len) return "answer";
  const span = request.prompt_spans?.find(({ start, end }) => position >= start && position < end);
  return span?.role ?? (request.prompt_spans?.length ? "template" : "prompt");
}

/** The text at a position of prompt or answer; null where it is not known. */
export function textAtPosition(
  position: number,
  request: RequestState,
  answer: (step: number) => string | null,
): string | null {
  const promptLen = request.prompt_len ?? request.prompt_token_texts?.length ?? null;
  if (promptLen !== null && position >= promptLen) return answer(position - promptLen);
  return request.prompt_token_texts?.[position] ?? null;
}
