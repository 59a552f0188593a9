import { expect, it } from "vitest";
import { boundsText, partName } from "./grounding-text";

it("gives one figure where the bounds meet and two where they do not", () => {
  expect(boundsText(0.25, 0.25)).toBe("25%");
  expect(boundsText(0.27, 0.55)).toBe("27% to 55%");
});

it("names the parts of the context", () => {
  const part = { kind: "sink", message: null, role: null, ranges: [] as [number, number][] };
  expect(partName(part)).toBe("sink");
  expect(partName({ ...part, kind: "message", message: 0, role: "user" })).toBe("user 1");
  expect(partName({ ...part, kind: "answer" })).toBe("answer so far");
});
