import { describe, expect, it } from "vitest";
import { afterMessages, EMPTY_FEED, type RequestState } from "../../lib/feed";
import { isRunning, placeOfPosition, previewOfPrompt, promptSegments, textAtPosition } from "./request-text";

const TEXTS = ["<|im_start|>", "user", "\n", "Hi", " there", "<|im_end|>", "\n", "ok"];
const SPANS = [{ message: 0, role: "user", start: 3, end: 5 }];

function request(part: Partial<RequestState> = {}): RequestState {
  const feed = afterMessages(EMPTY_FEED, [
    {
      kind: "request",
      event: "started",
      request: { request_id: "a", prompt_len: 8, started_at_us: 1_000_000 },
      prompt_token_texts: TEXTS,
      prompt_spans: SPANS,
    },
  ]);
  return { ...(feed.requests.a as RequestState), ...part };
}

describe("the prompt", () => {
  it("is cut so that every position is in one segment", () => {
    const segments = promptSegments(SPANS, TEXTS.length);
    expect(segments.map(({ role, start, end }) => [role, start, end])).toEqual([
      [null, 0, 3],
      ["user", 3, 5],
      [null, 5, 8],
    ]);
    const overlapping = promptSegments(
      [
        { message: 1, role: "b", start: 4, end: 99 },
        { message: 0, role: "a", start: 0, end: 6 },
      ],
      10,
    );
    expect(overlapping.map(({ start, end }) => [start, end])).toEqual([
      [0, 6],
      [6, 10],
    ]);
    expect(promptSegments(null, 4)).toEqual([{ role: "prompt", message: null, start: 0, end: 4 }]);
  });

  it("is previewed by its last user message", () => {
    expect(previewOfPrompt(request())).toBe("Hi there");
    expect(previewOfPrompt(request({ prompt_token_texts: null }))).toBeNull();
    expect(previewOfPrompt(request({ prompt_token_texts: null, prompt_preview: "What" }))).toBe("What");
  });

  it("and the answer are one row of positions", () => {
    const answer = (step: number): string => `answer ${step}`;
    expect([0, 3, 8, 9].map((at) => placeOfPosition(at, request()))).toEqual(["template", "user", "answer", "answer"]);
    expect(textAtPosition(3, request(), answer)).toBe("Hi");
    expect(textAtPosition(9, request(), answer)).toBe("answer 1");
  });
});

describe("running", () => {
  it("ends with the end, or with a long silence", () => {
    expect(isRunning(request(), 2_000)).toBe(true);
    expect(isRunning(request(), 60_000)).toBe(false);
    expect(isRunning(request({ finish_reason: "stop" }), 2_000)).toBe(false);
  });
});
