import { describe, expect, it } from "vitest";
import { piecesOfToken, spokenToken, tokenLabel } from "./token-text";

const kinds = (text: string | null): string[] => piecesOfToken(text, 7).map((piece) => piece.kind);

describe("pieces of a token", () => {
  it.each([" the", "\n\n", '",\n  "tags', "    ", "\tif", "a b", "…\r\n", "é漢🙂", " ", "x  y"])(
    "%j loses nothing",
    (text) => {
      expect(
        piecesOfToken(text, null)
          .map((piece) => piece.text)
          .join(""),
      ).toBe(text);
    },
  );

  it("keeps a leading space with its word, and dots runs of spaces", () => {
    expect(kinds(" the")).toEqual(["text"]);
    expect(kinds("a b")).toEqual(["text"]);
    expect(kinds(" ")).toEqual(["spaces"]);
    expect(kinds("x  y")).toEqual(["text", "spaces", "text"]);
  });

  it("marks newlines one by one, tabs and special tokens", () => {
    expect(kinds("}\n\n")).toEqual(["text", "newline", "newline"]);
    expect(kinds("\r\n")).toEqual(["newline"]);
    expect(kinds("\t")).toEqual(["tab"]);
    expect(kinds("<|im_end|>")).toEqual(["special"]);
    expect(kinds("</s>")).toEqual(["special"]);
    expect(kinds("<div>")).toEqual(["text"]);
  });

  it("says which token has no text", () => {
    expect(piecesOfToken(null, 42)).toEqual([{ kind: "missing", text: "#42" }]);
    expect(piecesOfToken("", 2)).toEqual([{ kind: "part", text: "" }]);
    expect(piecesOfToken(null, null)).toEqual([{ kind: "missing", text: "no text" }]);
  });
});

describe("labels", () => {
  it("show whitespace on one line", () => {
    expect(tokenLabel(" a\n\tb")).toBe("␣a⏎⇥b");
    expect(tokenLabel(null, 5)).toBe("#5");
  });
  it("are spoken in words", () => {
    expect(spokenToken(" the")).toBe("the");
    expect(spokenToken("  ")).toBe("2 spaces");
    expect(spokenToken("\n")).toBe("newline");
    expect(spokenToken("", 5)).toBe("part of a character");
  });
});
