/** The fingerprint as the explorer reads it: 20 numbers named, and the geometry of its picture. */

export const DIM = 20;
/** Lower edges of the distance bins in tokens; the last bin is open. */
export const HISTOGRAM_EDGES = [0, 1, 2, 4, 8, 32, 128, 512] as const;
/** First distances that are no longer local, and no longer mid-range. */
export const LOCAL_END = 10;
export const MID_END = 100;
/** Positions 0..3 count as the attention sink. */
export const SINK_POSITIONS = 4;

export interface Fingerprint {
  localMass: number;
  midMass: number;
  longMass: number;
  entropyNats: number;
  /** Eight probabilities, by distance bin. */
  histogram: number[];
  /** Eight entropies in nats, shallow to deep. */
  layerEntropyNats: number[];
}

/** The named parts of a 20-number vector; null where it has another length. */
export function fingerprintFromVector(vector: readonly number[] | null | undefined): Fingerprint | null {
  if (vector?.length !== DIM) return null;
  const [localMass = 0, midMass = 0, longMass = 0, entropyNats = 0] = vector;
  return {
    localMass,
    midMass,
    longMass,
    entropyNats,
    histogram: vector.slice(4, 12),
    layerEntropyNats: vector.slice(12, 20),
  };
}

/** "0", "1", "2–3", … "512+": the distances that a bin holds. */
export function binLabel(bin: number): string {
  const low = HISTOGRAM_EDGES[bin];
  const next = HISTOGRAM_EDGES[bin + 1];
  if (low === undefined) throw new RangeError(`bin ${bin}: there are ${HISTOGRAM_EDGES.length}`);
  if (next === undefined) return `${low}+`;
  return next - low === 1 ? `${low}` : `${low}–${next - 1}`;
}

/** Whether any distance of this bin exists in a context of `contextLen` positions. */
export function binIsReachable(bin: number, contextLen: number | null): boolean {
  return contextLen === null || (HISTOGRAM_EDGES[bin] ?? 0) < contextLen;
}

/** The largest entropy that `contextLen` positions allow, ln n in nats. */
export function maxEntropyNats(contextLen: number): number {
  return Math.log(Math.max(1, contextLen));
}

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Bars of values 0..1 (as a share of `top`) standing on the lower edge of a `width` × `height` area. */
export function bars(
  values: readonly number[],
  { width, height, gap, top }: { width: number; height: number; gap: number; top: number },
): Box[] {
  const barWidth = (width - gap * (values.length - 1)) / values.length;
  return values.map((value, k) => {
    const barHeight = (Math.min(Math.max(value, 0), top) / top) * height;
    return { x: k * (barWidth + gap), y: height - barHeight, width: barWidth, height: barHeight };
  });
}

/** Consecutive spans of a row `width` wide, shares of their sum; a sum of 0 gives empty spans. */
export function stack(values: readonly number[], width: number): { x: number; width: number }[] {
  const total = values.reduce((sum, value) => sum + Math.max(0, value), 0);
  let x = 0;
  return values.map((value) => {
    const span = { x, width: total > 0 ? (Math.max(0, value) / total) * width : 0 };
    x += span.width;
    return span;
  });
}

/** Points of a line through `values` on 0..top, one a column centre, as in `bars`. */
export function linePoints(
  values: readonly number[],
  { width, height, top }: { width: number; height: number; top: number },
): { x: number; y: number }[] {
  const column = width / values.length;
  return values.map((value, k) => ({
    x: column * (k + 0.5),
    y: height - (Math.min(Math.max(value, 0), top) / top) * height,
  }));
}

export interface Attended {
  position: number;
  probability: number;
  /** Tokens between the query and the position; 0 is the query's own. */
  distance: number;
  isSink: boolean;
}

/** Attended positions, strongest first. The query of an output token sits at `contextLen - 1`. */
export function attendedPositions(
  positions: readonly number[],
  probabilities: readonly number[],
  contextLen: number,
): Attended[] {
  return positions
    .map((position, k) => ({
      position,
      probability: probabilities[k] ?? 0,
      distance: contextLen - 1 - position,
      isSink: position < SINK_POSITIONS,
    }))
    .sort((a, b) => b.probability - a.probability || a.distance - b.distance);
}
