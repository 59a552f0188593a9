import { afterEach, describe, expect, it, vi } from "vitest";
import { fetchCluster, fetchComparison, fetchRun, queryOf } from "./discovery-api";

afterEach(() => vi.unstubAllGlobals());

describe("questions about discovery", () => {
  it("leave out what is not given", () => {
    expect(queryOf({ run: null })).toBe("");
    expect(queryOf({ run: "a b", limit: 3 })).toBe("?run=a+b&limit=3");
  });

  it("go to the sidecar's paths", async () => {
    const asked = vi.fn(async (_path: string) => new Response("{}"));
    vi.stubGlobal("fetch", asked);
    await fetchCluster(3, null);
    await fetchCluster(3, "r");
    await fetchRun("x/y");
    await fetchComparison("r1", "r2");
    expect(asked.mock.calls.map(([path]) => path)).toEqual([
      "/clusters/3",
      "/clusters/3?run=r",
      "/runs/x%2Fy",
      "/compare?a_run=r1&b_run=r2",
    ]);
  });
});
