/** Numbers and instants as the explorer prints them. */

const COUNT = new Intl.NumberFormat("en");

export function formatCount(count: number): string {
  return COUNT.format(count);
}

/** A probability as a percentage with the digits that matter: "42%", "3.1%", "0.04%", "<0.01%". */
export function formatShare(probability: number): string {
  const percent = probability * 100;
  if (percent === 0) return "0%";
  if (percent < 0.01) return "<0.01%";
  if (percent < 1) return `${percent.toFixed(2)}%`;
  if (percent < 10) return `${percent.toFixed(1)}%`;
  return `${percent.toFixed(0)}%`;
}

export function formatNats(nats: number): string {
  return nats.toFixed(2);
}

/** "14:03:22" in the reader's own time zone. */
export function formatClock(atUs: number): string {
  return new Date(atUs / 1000).toLocaleTimeString("en-GB", { hour12: false });
}

/** "just now", "12 s ago", "5 min ago", "3 h ago", "2 d ago". */
export function formatAge(atUs: number, nowMs: number): string {
  const ageS = Math.max(0, (nowMs - atUs / 1000) / 1000);
  if (ageS < 5) return "just now";
  if (ageS < 60) return `${Math.floor(ageS)} s ago`;
  if (ageS < 3600) return `${Math.floor(ageS / 60)} min ago`;
  if (ageS < 86400) return `${Math.floor(ageS / 3600)} h ago`;
  return `${Math.floor(ageS / 86400)} d ago`;
}

/** The UTC instant, in ms, that a run id such as "2026-01-10T04-02-11" names; null where it names none. */
export function msFromRunId(runId: string): number | null {
  const parts = /^(\d{4}-\d{2}-\d{2})T(\d{2})-(\d{2})-(\d{2})/.exec(runId);
  if (parts === null) return null;
  const ms = Date.parse(`${parts[1]}T${parts[2]}:${parts[3]}:${parts[4]}Z`);
  return Number.isNaN(ms) ? null : ms;
}

/** "10 Jan 2026, 04:02 UTC". */
export function formatUtc(ms: number): string {
  const at = new Date(ms);
  const day = at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const time = at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });
  return `${day}, ${time} UTC`;
}
