/** The hours of one model as the chart draws them. */

import type { ModelHour } from "../../lib/answers";

/** Models by how many tokens they made, most first; null is a model that was not named. */
export function modelsIn(hours: readonly ModelHour[]): (string | null)[] {
  const counts = new Map<string | null, number>();
  for (const hour of hours) counts.set(hour.model_id, (counts.get(hour.model_id) ?? 0) + hour.num_fingerprints);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([model]) => model);
}

/** A model's name without the folder it lies in. */
export function modelName(model: string | null): string {
  return model === null ? "unnamed model" : (model.replace(/\/+$/, "").split("/").at(-1) ?? model);
}

/** Each hour's share of each key, 0 where the hour has none of it. */
export function sharesOf(hour: ModelHour, by: "zone" | "cluster"): Map<string, number> {
  return by === "zone"
    ? new Map(hour.zones.map(({ zone, share }) => [zone, share]))
    : new Map(hour.clusters.map(({ cluster_id, share }) => [String(cluster_id), share]));
}

const HOUR_MS = 3_600_000;
/** Hours a chart begins with, the newest last; a longer stretch keeps all of its own. */
const LEAST_SLOTS = 24;

/** Every hour up to the newest one given, at least a day of them; null where the model made no token. */
export function hourSlots(hours: readonly ModelHour[]): { hourUtc: string; hour: ModelHour | null }[] {
  const byStart = new Map(hours.map((hour) => [Date.parse(hour.hour_utc), hour]));
  if (byStart.size === 0) return [];
  const last = Math.max(...byStart.keys());
  const first = Math.min(last - (LEAST_SLOTS - 1) * HOUR_MS, ...byStart.keys());
  return Array.from({ length: (last - first) / HOUR_MS + 1 }, (_, k) => {
    const start = first + k * HOUR_MS;
    return { hourUtc: new Date(start).toISOString(), hour: byStart.get(start) ?? null };
  });
}
