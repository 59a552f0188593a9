import { describe, expect, it } from "vitest";
import { afterMessages, CHUNK_TOKENS, EMPTY_FEED, type Feed } from "../../lib/feed";
import { tokenFromJson } from "../../lib/wire";
import { answerMeans, zoneCounts } from "./answer-figures";
import { flowOf, isSameParagraph, paragraphsOf } from "./paragraphs";

function fed(feed: Feed, texts: string[], firstStep = 0): Feed {
  const tokens = texts.flatMap(
    (token_text, k) =>
      tokenFromJson({
        request_id: "a",
        step: firstStep + k,
        token_text,
        zone: "diffuse",
        sink_mass: 0.5,
        vector: new Array(20).fill(k),
      }) ?? [],
  );
  return afterMessages(feed, [{ kind: "tokens", cursor: firstStep + texts.length, tokens }]);
}

const chunksOf = (feed: Feed) => feed.requests.a?.chunks ?? [];
const textsOf = (feed: Feed): string[] =>
  paragraphsOf(chunksOf(feed)).map((paragraph) =>
    paragraph.flatMap((run) => run.tokens.map((token) => token?.token_text ?? "?")).join(""),
  );

describe("paragraphs", () => {
  it("end with a line break and lose no token", () => {
    const texts = ["a", " b", ".\n", "\n", "c", "\n\n", "d"];
    expect(textsOf(fed(EMPTY_FEED, texts))).toEqual(["a b.\n", "\n", "c\n\n", "d"]);
  });

  it("go on across chunks, and show what has not arrived", () => {
    const long = Array.from({ length: CHUNK_TOKENS + 3 }, () => "x");
    expect(textsOf(fed(EMPTY_FEED, [...long, "\n", "y"]))).toEqual([`${long.join("")}\n`, "y"]);
    expect(textsOf(fed(EMPTY_FEED, ["z"], 2))).toEqual(["??z"]);
  });

  it("stay the same while a later one grows", () => {
    const first = fed(EMPTY_FEED, [...Array.from({ length: CHUNK_TOKENS - 1 }, () => "x"), "\n", "y"]);
    const [a0, a1] = paragraphsOf(chunksOf(first));
    const [b0, b1] = paragraphsOf(chunksOf(fed(first, ["z"], CHUNK_TOKENS + 1)));
    expect(isSameParagraph(a0 ?? [], b0 ?? [])).toBe(true);
    expect(isSameParagraph(a1 ?? [], b1 ?? [])).toBe(false);
  });
});

describe("figures of an answer", () => {
  it("are those of all its tokens, across chunks", () => {
    const feed = fed(EMPTY_FEED, Array.from({ length: CHUNK_TOKENS * 2 + 1 }, String));
    const request = feed.requests.a;
    if (request === undefined) throw new Error("no request");
    expect(zoneCounts(request).diffuse).toBe(65);
    const means = answerMeans(request);
    expect(means.numTokens).toBe(65);
    expect(means.sinkMass).toBe(0.5);
    expect(means.promptMass).toBeNull();
    expect(means.vector?.[3]).toBe(32);
  });

  it("stand on either side of what is not held", () => {
    const feed = fed(fed(EMPTY_FEED, ["a", "b\n"]), ["c", "d\n", "e"], 4 * CHUNK_TOKENS);
    const parts = flowOf(chunksOf(feed));
    expect(parts.map(({ gap }) => gap)).toEqual([null, CHUNK_TOKENS]);
    expect(parts[1]?.paragraphs.map((paragraph) => paragraph[0]?.firstStep)).toEqual([
      4 * CHUNK_TOKENS,
      4 * CHUNK_TOKENS + 2,
    ]);
    expect(flowOf([])).toEqual([]);
  });
});
