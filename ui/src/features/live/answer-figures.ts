/** Figures over the tokens of one answer. */

import { type RequestState, tokensOf } from "../../lib/feed";
import { ZONES, type Zone } from "../../lib/zones";

export function zoneCounts(request: RequestState): Record<Zone, number> {
  const counts = Object.fromEntries(ZONES.map((zone) => [zone, 0])) as Record<Zone, number>;
  for (const chunk of request.chunks) {
    for (const token of chunk) if (token?.zone) counts[token.zone] += 1;
  }
  return counts;
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

function mean(values: (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
}

export function answerMeans(request: RequestState): AnswerMeans {
  const tokens = tokensOf(request);
  const vectors = tokens.flatMap((token) => (token.vector ? [token.vector] : []));
  return {
    numTokens: tokens.length,
    numWithTopK: tokens.filter((token) => token.topk_positions !== null).length,
    sinkMass: mean(tokens.map((token) => token.sink_mass)),
    promptMass: mean(tokens.map((token) => token.prompt_mass)),
    periodicity: mean(tokens.map((token) => token.periodicity)),
    confidence: mean(tokens.map((token) => token.confidence)),
    vector:
      vectors.length === 0
        ? null
        : Array.from({ length: 20 }, (_, k) => mean(vectors.map((vector) => vector[k] ?? 0)) ?? 0),
  };
}
