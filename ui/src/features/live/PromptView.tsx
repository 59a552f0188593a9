import { memo, useMemo, useState } from "react";
import { Button } from "../../components/Button";
import { formatCount } from "../../lib/format";
import type { PromptSpan } from "../../lib/wire";
import styles from "./PromptView.module.css";
import { type PromptSegment, promptSegments } from "./request-text";
import { TokenPieces } from "./TokenPieces";

/** Messages longer than this are folded: their first and last tokens stay. */
const FOLD_OVER_TOKENS = 480;
const FOLD_HEAD_TOKENS = 200;
const FOLD_TAIL_TOKENS = 120;
const PIECE_TOKENS = 128;

interface PromptViewProps {
  texts: string[] | null;
  spans: PromptSpan[] | null;
  promptLen: number | null;
  onUnfold: () => void;
}

/** The prompt as the model read it: a block a message, the chat template's own tokens between them. */
export const PromptView = memo(function PromptView({ texts, spans, promptLen, onUnfold }: PromptViewProps) {
  const segments = useMemo(() => (texts === null ? [] : promptSegments(spans, texts.length)), [texts, spans]);
  if (texts === null || texts.length === 0) {
    return (
      <p className={styles.absent}>
        {promptLen === null
          ? "The prompt is not known."
          : `Prompt of ${formatCount(promptLen)} tokens; its text was not published.`}
      </p>
    );
  }
  return (
    <section className={styles.prompt} aria-label="Prompt">
      {segments.map((segment) =>
        segment.role === null ? (
          <p key={segment.start} className={styles.template} title="From the chat template">
            <Positions texts={texts} start={segment.start} end={segment.end} isInline />
          </p>
        ) : (
          <Message key={segment.start} texts={texts} segment={segment} onUnfold={onUnfold} />
        ),
      )}
    </section>
  );
});

function Message({ texts, segment, onUnfold }: { texts: string[]; segment: PromptSegment; onUnfold: () => void }) {
  const { role, start, end } = segment;
  const [isFolded, setIsFolded] = useState(end - start > FOLD_OVER_TOKENS);
  const [foldStart, foldEnd] = [start + FOLD_HEAD_TOKENS, end - FOLD_TAIL_TOKENS];
  return (
    <div className={styles.message}>
      <h3 className={styles.role}>{role}</h3>
      <div className={styles.text}>
        {isFolded ? (
          <>
            <Positions texts={texts} start={start} end={foldStart} />
            <div className={styles.fold}>
              <Button
                onClick={() => {
                  setIsFolded(false);
                  onUnfold();
                }}
              >
                Show {formatCount(foldEnd - foldStart)} more tokens
              </Button>
              <span data-fold={`${foldStart},${foldEnd}`} aria-live="off" />
            </div>
            <Positions texts={texts} start={foldEnd} end={end} />
          </>
        ) : (
          <Positions texts={texts} start={start} end={end} />
        )}
      </div>
    </div>
  );
}

interface PositionsProps {
  texts: string[];
  start: number;
  end: number;
  isInline?: boolean;
}

/** Tokens at positions start..end, in pieces that the browser may skip while they are off screen. */
const Positions = memo(function Positions({ texts, start, end, isInline = false }: PositionsProps) {
  const starts = Array.from({ length: Math.ceil((end - start) / PIECE_TOKENS) }, (_, k) => start + k * PIECE_TOKENS);
  return starts.map((from) => (
    <span key={from} className={styles.piece}>
      {texts.slice(from, Math.min(end, from + PIECE_TOKENS)).map((text, k) => (
        <span key={from + k} className={styles.token} data-pos={from + k}>
          <TokenPieces text={text} tokenId={null} isInline={isInline} />
        </span>
      ))}
    </span>
  ));
});
