import { describe, expect, it } from "vitest";
import { evidenceRows, lineageText } from "./lineage-text";

describe("a cluster's lineage", () => {
  it("is said in words", () => {
    expect(lineageText({ event: "merged", parents: [1, 4], overlap: 0.5 })).toBe("merged from 1, 4, overlap 50%");
    expect(lineageText({ event: "born", parents: [], overlap: null })).toBe("born");
    expect(lineageText(null)).toBe("unknown");
  });
});

describe("a zone's evidence", () => {
  it("comes strongest first, and only figures", () => {
    const rows = evidenceRows({
      weak: { mean: 1, lift: 0.1 },
      strong: { mean: 2, lift: -0.4 },
      note: "text",
      none: null,
    });
    expect(rows.map(({ name }) => name)).toEqual(["strong", "weak"]);
  });
});
