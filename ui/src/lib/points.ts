/** The published embedding, from Arrow IPC bytes to the typed arrays that the map draws. */

import { Dictionary, type Table, tableFromIPC, type Vector } from "apache-arrow";
import { ZONES } from "./zones";

/** Index of a point that has no zone known to this version. */
export const NO_ZONE = ZONES.length;

export interface Points {
  count: number;
  /** Map positions scaled to -1..1, the shape kept. */
  x: Float32Array;
  y: Float32Array;
  zoneIndex: Uint8Array;
  clusterId: Int32Array;
  /** Map units of the embedding to -1..1: `(value - centre) * scale`. */
  frame: { centreX: number; centreY: number; scale: number };
  tokenText: (index: number) => string | null;
  requestId: (index: number) => string;
  step: (index: number) => number;
  confidence: (index: number) => number | null;
  /** The run that published it, where the stream says so. */
  runId: string | null;
}

function column(table: Table, name: string): Vector {
  const vector = table.getChild(name);
  if (vector === null) throw new Error(`/points lacks the column ${name}; it has ${table.schema.names.join(", ")}`);
  return vector;
}

/** The lowest and highest finite value; [0, 0] with none. */
function extent(values: Float32Array): [number, number] {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high && Number.isFinite(high - low) ? [low, high] : [0, 0];
}

/** Zone numbers in `ZONES` order, whatever order the stream's dictionaries have; a batch may bring its own. */
export function zoneIndices(vector: Vector): Uint8Array {
  const indices = new Uint8Array(vector.length);
  if (!(vector.type instanceof Dictionary)) {
    for (let k = 0; k < vector.length; k += 1) indices[k] = zoneNumber(vector.get(k));
    return indices;
  }
  let at = 0;
  for (const data of vector.data) {
    const names: unknown[] = data.dictionary ? [...data.dictionary] : [];
    const numbers = names.map(zoneNumber);
    const keys = data.values as ArrayLike<number>;
    for (let k = 0; k < data.length; k += 1) {
      indices[at + k] = data.nullCount > 0 && !data.getValid(k) ? NO_ZONE : (numbers[keys[k] ?? -1] ?? NO_ZONE);
    }
    at += data.length;
  }
  return indices;
}

function zoneNumber(name: unknown): number {
  const index = (ZONES as readonly unknown[]).indexOf(name);
  return index < 0 ? NO_ZONE : index;
}

/** Values moved and scaled, in the copy that the map keeps. */
function scaled(values: Float32Array, centre: number, scale: number): Float32Array {
  return values.map((value) => (value - centre) * scale);
}

/** The points in an Arrow IPC stream with the columns of `embeddings.parquet`. */
export function pointsFromArrow(bytes: Uint8Array): Points {
  const table = tableFromIPC(bytes);
  const rawX = column(table, "x").toArray() as Float32Array;
  const rawY = column(table, "y").toArray() as Float32Array;
  const [lowX, highX] = extent(rawX);
  const [lowY, highY] = extent(rawY);
  const [centreX, centreY] = [(lowX + highX) / 2, (lowY + highY) / 2];
  const scale = 1.9 / (Math.max(highX - lowX, highY - lowY) || 1);
  const [texts, requests, steps] = [column(table, "token_text"), column(table, "request_id"), column(table, "step")];
  const confidences = column(table, "confidence");
  return {
    count: table.numRows,
    x: scaled(rawX, centreX, scale),
    y: scaled(rawY, centreY, scale),
    zoneIndex: zoneIndices(column(table, "zone")),
    clusterId: Int32Array.from(column(table, "cluster_id").toArray() as ArrayLike<number>),
    frame: { centreX, centreY, scale },
    tokenText: (index) => texts.get(index) as string | null,
    requestId: (index) => String(requests.get(index)),
    step: (index) => Number(steps.get(index)),
    confidence: (index) => confidences.get(index) as number | null,
    runId: table.schema.metadata.get("run_id") ?? null,
  };
}

/** How many points each zone holds, in `ZONES` order, the unknown last. */
export function countsByZone(points: Points): number[] {
  const counts = new Array<number>(ZONES.length + 1).fill(0);
  for (const index of points.zoneIndex) counts[index] = (counts[index] ?? 0) + 1;
  return counts;
}

/** Cluster ids with their number of points, the largest first and the unclaimed (-1) last. */
export function countsByCluster(points: Points): { clusterId: number; count: number }[] {
  const counts = new Map<number, number>();
  for (const id of points.clusterId) counts.set(id, (counts.get(id) ?? 0) + 1);
  return [...counts]
    .map(([clusterId, count]) => ({ clusterId, count }))
    .sort(
      (a, b) => Number(a.clusterId < 0) - Number(b.clusterId < 0) || b.count - a.count || a.clusterId - b.clusterId,
    );
}

/** The points that these filters leave; null where they leave all. */
export function visiblePoints(
  points: Points,
  { hiddenZones, hiddenClusters }: { hiddenZones: ReadonlySet<number>; hiddenClusters: ReadonlySet<number> },
): Uint32Array | null {
  if (hiddenZones.size === 0 && hiddenClusters.size === 0) return null;
  const kept = new Uint32Array(points.count);
  let numKept = 0;
  for (let k = 0; k < points.count; k += 1) {
    if (hiddenZones.has(points.zoneIndex[k] ?? NO_ZONE) || hiddenClusters.has(points.clusterId[k] ?? -1)) continue;
    kept[numKept] = k;
    numKept += 1;
  }
  return kept.slice(0, numKept);
}

/** The point nearest to (x, y) among `visible` (null for all) and within `radius`; -1 with none. */
export function nearestPoint(
  points: Points,
  { x, y, radius, visible }: { x: number; y: number; radius: number; visible: Uint32Array | null },
): number {
  let [nearest, best] = [-1, radius * radius];
  const count = visible?.length ?? points.count;
  for (let k = 0; k < count; k += 1) {
    const index = visible ? (visible[k] ?? 0) : k;
    const [dx, dy] = [(points.x[index] ?? 0) - x, (points.y[index] ?? 0) - y];
    const distance = dx * dx + dy * dy;
    if (distance <= best) [nearest, best] = [index, distance];
  }
  return nearest;
}
