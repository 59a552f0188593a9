/** Figures over the tokens of one answer, added up chunk by chunk: a token that arrives costs one chunk, not the answer. */

import type { Chunk, RequestState } from "../../lib/feed";
import { DIM } from "../../lib/fingerprint";
import { ZONES, type Zone } from "../../lib/zones";

const SCALARS = ["sink_mass", "prompt_mass", "periodicity", "confidence"] as const;

/** Sums and counts of one chunk; those of all chunks add up. */
interface Sums {
  zones: number[];
  numTokens: number;
  numWithTopK: number;
  scalars: number[];
  scalarCounts: number[];
  vector: number[];
  vectorCount: number;
}

function noSums(): Sums {
  return {
    zones: ZONES.map(() => 0),
    numTokens: 0,
    numWithTopK: 0,
    scalars: SCALARS.map(() => 0),
    scalarCounts: SCALARS.map(() => 0),
    vector: new Array<number>(DIM).fill(0),
    vectorCount: 0,
  };
}

function addInto(total: number[], part: readonly number[]): void {
  for (let k = 0; k < total.length; k += 1) total[k] = (total[k] ?? 0) + (part[k] ?? 0);
}

const sumsByChunk = new WeakMap<Chunk, Sums>();

function sumsOfChunk(chunk: Chunk): Sums {
  const known = sumsByChunk.get(chunk);
  if (known) return known;
  const sums = noSums();
  for (const token of chunk) {
    if (token === undefined) continue;
    sums.numTokens += 1;
    if (token.topk_positions !== null) sums.numWithTopK += 1;
    if (token.zone !== null) addInto(sums.zones, oneAt(ZONES.indexOf(token.zone)));
    const values = SCALARS.map((name) => token[name]);
    addInto(
      sums.scalars,
      values.map((value) => value ?? 0),
    );
    addInto(
      sums.scalarCounts,
      values.map((value) => Number(value !== null)),
    );
    if (token.vector?.length === DIM) {
      addInto(sums.vector, token.vector);
      sums.vectorCount += 1;
    }
  }
  sumsByChunk.set(chunk, sums);
  return sums;
}

function oneAt(index: number): number[] {
  return ZONES.map((_, k) => Number(k === index));
}

function sumsOf(request: RequestState): Sums {
  const total = noSums();
  for (const chunk of request.chunks) {
    const sums = sumsOfChunk(chunk);
    total.numTokens += sums.numTokens;
    total.numWithTopK += sums.numWithTopK;
    total.vectorCount += sums.vectorCount;
    addInto(total.zones, sums.zones);
    addInto(total.scalars, sums.scalars);
    addInto(total.scalarCounts, sums.scalarCounts);
    addInto(total.vector, sums.vector);
  }
  return total;
}

export function zoneCounts(request: RequestState): Record<Zone, number> {
  const { zones } = sumsOf(request);
  return Object.fromEntries(ZONES.map((zone, k) => [zone, zones[k] ?? 0])) as Record<Zone, number>;
}

export interface AnswerMeans {
  numTokens: number;
  numWithTopK: number;
  /** Means over the tokens that carry the figure; null where none does. */
  sinkMass: number | null;
  promptMass: number | null;
  periodicity: number | null;
  confidence: number | null;
  /** Mean fingerprint, 20 numbers. */
  vector: number[] | null;
}

export function answerMeans(request: RequestState): AnswerMeans {
  const { numTokens, numWithTopK, scalars, scalarCounts, vector, vectorCount } = sumsOf(request);
  const [sinkMass = null, promptMass = null, periodicity = null, confidence = null] = scalars.map((sum, k) => {
    const count = scalarCounts[k] ?? 0;
    return count === 0 ? null : sum / count;
  });
  return {
    numTokens,
    numWithTopK,
    sinkMass,
    promptMass,
    periodicity,
    confidence,
    vector: vectorCount === 0 ? null : vector.map((sum) => sum / vectorCount),
  };
}
