import { type CSSProperties, memo } from "react";
import { fillFromConfidence } from "../../lib/colour";
import { formatShare } from "../../lib/format";
import { spokenToken } from "../../lib/token-text";
import type { Token } from "../../lib/wire";
import styles from "./AnswerParagraph.module.css";
import { isSameParagraph, type Paragraph, type Run } from "./paragraphs";
import { TokenPieces } from "./TokenPieces";

interface AnswerParagraphProps {
  paragraph: Paragraph;
  promptLen: number | null;
}

export function optionId(step: number): string {
  return `token-${step}`;
}

/** Output tokens up to a line break; drawn again only when one of them arrives. */
export const AnswerParagraph = memo(
  function AnswerParagraph({ paragraph, promptLen }: AnswerParagraphProps) {
    return (
      <div role="presentation" className={styles.paragraph}>
        {paragraph.map((run) => (
          <TokenRun key={run.firstStep} run={run} promptLen={promptLen} />
        ))}
      </div>
    );
  },
  (before, after) => before.promptLen === after.promptLen && isSameParagraph(before.paragraph, after.paragraph),
);

const TokenRun = memo(function TokenRun({ run, promptLen }: { run: Run; promptLen: number | null }) {
  return run.tokens.map((token, k) => {
    const step = run.firstStep + k;
    return token === undefined ? (
      <span key={step} className={styles.gap} title={`Token ${step} has not arrived`}>
        …
      </span>
    ) : (
      <OutputToken key={step} token={token} position={promptLen === null ? null : promptLen + step} />
    );
  });
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
  const zone = token.zone === null ? "not classified" : token.zone.replace("_", " ");
  const confidence = token.confidence === null ? "" : `, confidence ${formatShare(token.confidence)}`;
  return `${spokenToken(token.token_text, token.token_id)}, ${zone}${confidence}`;
}
