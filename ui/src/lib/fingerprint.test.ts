import { describe, expect, it } from "vitest";
import {
  attendedPositions,
  bars,
  binIsReachable,
  binLabel,
  fingerprintFromVector,
  linePoints,
  maxEntropyNats,
  stack,
} from "./fingerprint";

const VECTOR = Array.from({ length: 20 }, (_, k) => k / 20);

describe("fingerprint", () => {
  it("names the 20 numbers by their place", () => {
    const fingerprint = fingerprintFromVector(VECTOR);
    expect(fingerprint?.localMass).toBe(0);
    expect(fingerprint?.longMass).toBe(0.1);
    expect(fingerprint?.entropyNats).toBe(0.15);
    expect(fingerprint?.histogram).toEqual(VECTOR.slice(4, 12));
    expect(fingerprint?.layerEntropyNats).toEqual(VECTOR.slice(12));
  });

  it("refuses another length", () => {
    expect(fingerprintFromVector(VECTOR.slice(1))).toBeNull();
    expect(fingerprintFromVector(null)).toBeNull();
  });

  it("labels the distance bins of the contract", () => {
    expect(Array.from({ length: 8 }, (_, bin) => binLabel(bin))).toEqual([
      "0",
      "1",
      "2–3",
      "4–7",
      "8–31",
      "32–127",
      "128–511",
      "512+",
    ]);
    expect(() => binLabel(8)).toThrow(RangeError);
  });

  it("knows which bins a context can reach", () => {
    expect(binIsReachable(5, 32)).toBe(false);
    expect(binIsReachable(5, 33)).toBe(true);
    expect(binIsReachable(7, null)).toBe(true);
    expect(maxEntropyNats(1)).toBe(0);
    expect(maxEntropyNats(100)).toBeCloseTo(4.605, 3);
  });
});

describe("geometry", () => {
  it("bars stand on the lower edge and fill the width", () => {
    const boxes = bars([0, 0.25, 0.5, 2], { width: 100, height: 50, gap: 4, top: 0.5 });
    expect(boxes.map((box) => box.height)).toEqual([0, 25, 50, 50]);
    expect(boxes.every((box) => box.y + box.height === 50)).toBe(true);
    const last = boxes.at(-1);
    expect((last?.x ?? 0) + (last?.width ?? 0)).toBeCloseTo(100);
  });

  it("a stack shares its width, and is empty without mass", () => {
    expect(stack([0.2, 0.3, 0.5], 200)).toEqual([
      { x: 0, width: 40 },
      { x: 40, width: 60 },
      { x: 100, width: 100 },
    ]);
    expect(stack([0, 0], 10)).toEqual([
      { x: 0, width: 0 },
      { x: 0, width: 0 },
    ]);
  });

  it("a line has its points in the middle of the columns", () => {
    expect(linePoints([0, 2], { width: 10, height: 8, top: 4 })).toEqual([
      { x: 2.5, y: 8 },
      { x: 7.5, y: 4 },
    ]);
  });
});

describe("attended positions", () => {
  it("are ordered by probability, with the distance from the query and the sink marked", () => {
    expect(attendedPositions([9, 0, 4], [0.2, 0.7, 0.1], 10)).toEqual([
      { position: 0, probability: 0.7, distance: 9, isSink: true },
      { position: 9, probability: 0.2, distance: 0, isSink: false },
      { position: 4, probability: 0.1, distance: 5, isSink: false },
    ]);
  });
});
