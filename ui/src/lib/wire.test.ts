import { describe, expect, it } from "vitest";
import { feedMessageFromJson, requestDetailFromJson, tokenFromJson } from "./wire";

describe("what the sidecar says", () => {
  it("gives a token, with null for what is not known", () => {
    const token = tokenFromJson({
      id: 4,
      request_id: "a",
      step: 2,
      zone: "long_range",
      vector: [1, 2],
      confidence: 0.5,
    });
    expect(token).toMatchObject({ id: 4, request_id: "a", step: 2, zone: "long_range", vector: [1, 2] });
    expect(token?.topk_positions).toBeNull();
    expect(token?.token_text).toBeNull();
  });

  it("gives no token without its identity, and no zone that is none", () => {
    expect(tokenFromJson({ step: 2 })).toBeNull();
    expect(tokenFromJson({ request_id: "a", step: -1 })).toBeNull();
    expect(tokenFromJson({ request_id: "a", step: 0, zone: "elsewhere" })?.zone).toBeNull();
  });

  it("reads a request's events: what is null is left out, the instant is its start or end", () => {
    const message = feedMessageFromJson({
      kind: "request",
      request_id: "a",
      event: "started",
      at_us: 7,
      model_id: null,
      prompt_len: 3,
      prompt_token_texts: ["x", "y", "z"],
      prompt_spans: [
        { message: 0, role: "user", start: 1, end: 2 },
        { message: 1, role: "user", start: 2, end: 2 },
      ],
    });
    expect(message).toEqual({
      kind: "request",
      event: "started",
      request: { request_id: "a", prompt_len: 3, started_at_us: 7 },
      prompt_token_texts: ["x", "y", "z"],
      prompt_spans: [{ message: 0, role: "user", start: 1, end: 2 }],
    });
    const ended = feedMessageFromJson({ kind: "request", request_id: "a", event: "ended", at_us: 9 });
    expect(ended).toMatchObject({ event: "ended", request: { ended_at_us: 9 } });
  });

  it("reads a request with its tokens", () => {
    const detail = requestDetailFromJson({
      request_id: "a",
      num_fingerprints: 1,
      tokens: [{ step: 0 }, { no: "step" }],
    });
    expect(detail?.tokens).toHaveLength(1);
    expect(detail?.tokens[0]?.request_id).toBe("a");
    expect(detail?.num_output_tokens).toBe(1);
  });

  it.each([null, 3, "x", {}, { kind: "later" }, { kind: "request" }])("gives nothing for %j", (value) => {
    expect(feedMessageFromJson(value)).toBeNull();
  });
});
