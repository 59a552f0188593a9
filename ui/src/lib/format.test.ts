import { describe, expect, it } from "vitest";
import { formatAge, formatShare, formatUtc, msFromRunId } from "./format";

describe("formats", () => {
  it.each([
    [0, "0%"],
    [0.00001, "<0.01%"],
    [0.0042, "0.42%"],
    [0.031, "3.1%"],
    [0.42, "42%"],
    [1, "100%"],
  ])("%d as %s", (share, text) => {
    expect(formatShare(share)).toBe(text);
  });

  it("ages", () => {
    expect([0, 12, 300, 7200, 200_000].map((ageS) => formatAge(0, ageS * 1000))).toEqual([
      "just now",
      "12 s ago",
      "5 min ago",
      "2 h ago",
      "2 d ago",
    ]);
  });

  it("reads the instant in a run id", () => {
    expect(formatUtc(msFromRunId("2026-01-10T04-02-11") ?? 0)).toBe("10 Jan 2026, 04:02 UTC");
    expect(msFromRunId("nightly")).toBeNull();
  });
});
