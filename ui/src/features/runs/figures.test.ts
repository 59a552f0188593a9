import { expect, it } from "vitest";
import { figureRows } from "./figures";

it("prints a run's figures in few digits and leaves out what is no plain value", () => {
  expect(figureRows({ a: 0.123456, b: 20000, c: "x", d: null, e: [1] })).toEqual([
    ["a", "0.1235"],
    ["b", "20000"],
    ["c", "x"],
  ]);
});
