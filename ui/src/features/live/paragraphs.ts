/**
 * An answer cut into paragraphs at its line breaks, so that a token which arrives makes the browser lay out one
 * paragraph and not the whole answer. Runs keep their identity as long as their chunk does.
 */

import { CHUNK_TOKENS, type Chunk } from "../../lib/feed";
import type { Token } from "../../lib/wire";

/** Consecutive tokens of one chunk within one paragraph; undefined where a token has not arrived. */
export interface Run {
  firstStep: number;
  tokens: readonly (Token | undefined)[];
  /** Whether the paragraph ends with this run. */
  isLast: boolean;
}

export type Paragraph = readonly Run[];

const runsByChunk = new WeakMap<Chunk, Run[]>();

function runsOfChunk(chunk: Chunk, index: number): Run[] {
  const known = runsByChunk.get(chunk);
  if (known) return known;
  const runs: Run[] = [];
  let from = 0;
  for (let k = 0; k < chunk.length; k += 1) {
    const isLast = chunk[k]?.token_text?.endsWith("\n") ?? false;
    if (!isLast && k < chunk.length - 1) continue;
    runs.push({ firstStep: index * CHUNK_TOKENS + from, tokens: Array.from(chunk).slice(from, k + 1), isLast });
    from = k + 1;
  }
  runsByChunk.set(chunk, runs);
  return runs;
}

/** The paragraphs of these chunks, in order; the last may still be growing. `firstChunk` is the number of the first. */
export function paragraphsOf(chunks: readonly Chunk[], firstChunk = 0): Paragraph[] {
  const paragraphs: Paragraph[] = [];
  let open: Run[] = [];
  for (const [index, chunk] of chunks.entries()) {
    for (const run of runsOfChunk(chunk, firstChunk + index)) {
      open.push(run);
      if (!run.isLast) continue;
      paragraphs.push(open);
      open = [];
    }
  }
  if (open.length > 0) paragraphs.push(open);
  return paragraphs;
}

/** Paragraphs, and between them the chunks that are not held: each gap stands before the paragraph that follows it. */
export function flowOf(chunks: readonly Chunk[]): { gap: number | null; paragraphs: Paragraph[] }[] {
  const parts: { gap: number | null; paragraphs: Paragraph[] }[] = [];
  let from = 0;
  let gap: number | null = null;
  while (from < chunks.length) {
    let to = from;
    while (to < chunks.length && (chunks[to]?.length ?? 0) > 0) to += 1;
    if (to > from) parts.push({ gap, paragraphs: paragraphsOf(chunks.slice(from, to), from) });
    gap = to < chunks.length ? to * CHUNK_TOKENS : null;
    while (to < chunks.length && (chunks[to]?.length ?? 0) === 0) to += 1;
    from = to;
  }
  return parts;
}

export function isSameParagraph(a: Paragraph, b: Paragraph): boolean {
  return a.length === b.length && a.every((run, k) => run === b[k]);
}
