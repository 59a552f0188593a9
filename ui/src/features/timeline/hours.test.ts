import { describe, expect, it } from "vitest";
import type { ModelHour } from "../../lib/answers";
import { hourSlots, modelName, modelsIn, sharesOf } from "./hours";

const hour = (model_id: string | null, num_fingerprints: number): ModelHour => ({
  hour_utc: "2026-01-10T04:00Z",
  hour_start_us: 0,
  model_id,
  num_fingerprints,
  mean_confidence: 0.5,
  zones: [{ zone: "diffuse", num_fingerprints, share: 1, mean_confidence: 0.5 }],
  clusters: [{ cluster_id: -1, num_fingerprints, share: 1 }],
});

describe("the hours", () => {
  it("name their models, the busiest first over all hours", () => {
    expect(modelsIn([hour("a", 5), hour(null, 8), hour("a", 6)])).toEqual(["a", null]);
    expect(modelName("/models/org/small/")).toBe("small");
  });

  it("give shares by zone and by cluster", () => {
    expect([...sharesOf(hour("a", 1), "zone")]).toEqual([["diffuse", 1]]);
    expect([...sharesOf(hour("a", 1), "cluster")]).toEqual([["-1", 1]]);
  });

  it("keep their places in a day, with the empty ones between them", () => {
    const slots = hourSlots([{ ...hour("a", 1), hour_utc: "2026-01-10T01:00Z" }, hour("a", 2)]);
    expect(slots).toHaveLength(24);
    expect(slots.slice(-4).map((slot) => slot.hour?.num_fingerprints ?? 0)).toEqual([1, 0, 0, 2]);
    expect(slots[0]?.hourUtc.slice(0, 13)).toBe("2026-01-09T05");
    expect(hourSlots([])).toEqual([]);
  });
});
