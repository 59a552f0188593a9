import { type CSSProperties, memo } from "react";
import { fillFromConfidence } from "../../lib/colour";
import { CHUNK_TOKENS, type Chunk } from "../../lib/feed";
import { formatShare } from "../../lib/format";
import { spokenToken } from "../../lib/token-text";
import type { Token } from "../../lib/wire";
import styles from "./TokenChunk.module.css";
import { TokenPieces } from "./TokenPieces";

interface TokenChunkProps {
  chunk: Chunk;
  index: number;
  promptLen: number | null;
}

export function optionId(step: number): string {
  return `token-${step}`;
}

/** Consecutive output tokens; drawn again only when one of them arrives. */
export const TokenChunk = memo(function TokenChunk({ chunk, index, promptLen }: TokenChunkProps) {
  const firstStep = index * CHUNK_TOKENS;
  return Array.from(chunk, (token, k) =>
    token === undefined ? (
      <span key={firstStep + k} className={styles.gap} title={`Token ${firstStep + k} has not arrived`}>
        …
      </span>
    ) : (
      <OutputToken key={firstStep + k} token={token} position={promptLen === null ? null : promptLen + token.step} />
    ),
  );
});

const OutputToken = memo(function OutputToken({ token, position }: { token: Token; position: number | null }) {
  const fill = fillFromConfidence(token.confidence);
  return (
    <span
      role="option"
      tabIndex={-1}
      aria-selected="false"
      aria-label={labelOf(token)}
      id={optionId(token.step)}
      className={styles.token}
      data-zone={token.zone ?? "none"}
      data-step={token.step}
      data-pos={position ?? undefined}
      style={{ "--fill": `${(fill * 100).toFixed(0)}%` } as CSSProperties}
    >
      <TokenPieces text={token.token_text} tokenId={token.token_id} />
    </span>
  );
});

function labelOf(token: Token): string {
  const zone = token.zone === null ? "not classified" : `${token.zone.replace("_", " ")}`;
  const confidence = token.confidence === null ? "" : `, confidence ${formatShare(token.confidence)}`;
  return `${spokenToken(token.token_text, token.token_id)}, ${zone}${confidence}`;
}
