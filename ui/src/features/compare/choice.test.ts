import { expect, it } from "vitest";
import { runsToCompare } from "./choice";

const RUNS = [{ run_id: "3" }, { run_id: "2" }, { run_id: "1" }];

it("compares what is named, else the newest with the one before it", () => {
  expect(runsToCompare(RUNS, { a: null, b: null })).toEqual({ a: "2", b: "3" });
  expect(runsToCompare(RUNS, { a: "3", b: null })).toEqual({ a: "3", b: "2" });
  expect(runsToCompare(RUNS, { a: "1", b: "1" })).toEqual({ a: "1", b: "1" });
  expect(runsToCompare(RUNS.slice(0, 1), { a: null, b: null })).toBeNull();
});
