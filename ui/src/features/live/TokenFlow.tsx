import {
  Fragment,
  type KeyboardEvent,
  type PointerEvent,
  useCallback,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "react";
import { type Missing, missingOf, type RequestState, tokenAt } from "../../lib/feed";
import { attendedPositions } from "../../lib/fingerprint";
import type { Token } from "../../lib/wire";
import { AnswerParagraph, optionId } from "./AnswerParagraph";
import { inkAttended } from "./attended-ink";
import { MissingTokens } from "./MissingTokens";
import { PromptView } from "./PromptView";
import { flowOf } from "./paragraphs";
import styles from "./TokenFlow.module.css";

interface TokenFlowProps {
  request: RequestState;
  activeToken: Token | undefined;
  pinnedStep: number | null;
  /** A position to bring into view. */
  flashPosition: number | null;
  onHover: (step: number | null) => void;
  onPin: (step: number | null) => void;
  /** Reads the page of the answer at this step; how many of its tokens were stored. */
  onRead: (fromStep: number) => Promise<number>;
}

/** Nearer to the end than this, the view stays at the end while tokens arrive. */
const STICK_PX = 48;

/** Prompt and answer as one flow of tokens. The answer is a list box: arrow keys walk it, Enter or a click pins a token. */
export function TokenFlow({ request, activeToken, pinnedStep, flashPosition, onHover, onPin, onRead }: TokenFlowProps) {
  const scroller = useRef<HTMLDivElement>(null);
  // A long answer that has ended is read from its beginning: at its end, page after page would be asked for at once.
  const isAtEnd = useRef(pinnedStep === null && request.next_step === null);
  /** A token named by the URL is brought into view when it is there, and kept there until the reader moves. */
  const isPinKept = useRef(pinnedStep !== null);
  const keepPin = useCallback((): void => {
    if (isPinKept.current) document.getElementById(optionId(pinnedStep ?? 0))?.scrollIntoView({ block: "center" });
  }, [pinnedStep]);
  const letPinGo = (): void => {
    isPinKept.current = false;
  };
  const [numUnfolded, setNumUnfolded] = useState(0);
  const activeStep = activeToken?.step ?? null;
  const missing = missingOf(request);
  const attended = useMemo(() => {
    const { topk_positions, topk_probs, context_len } = activeToken ?? {};
    return topk_positions && topk_probs && context_len
      ? attendedPositions(topk_positions, topk_probs, context_len)
      : [];
  }, [activeToken]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: unfolding draws positions that may be attended
  useLayoutEffect(() => {
    if (scroller.current) return inkAttended(scroller.current, attended);
  }, [attended, numUnfolded]);

  useLayoutEffect(() => {
    const option = activeStep === null ? null : document.getElementById(optionId(activeStep));
    option?.setAttribute("aria-selected", "true");
    return () => option?.setAttribute("aria-selected", "false");
  }, [activeStep]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: each token that arrives may push the end down
  useLayoutEffect(() => {
    const element = scroller.current;
    if (element && isAtEnd.current) element.scrollTop = element.scrollHeight;
    keepPin();
  }, [request.num_tokens, request.prompt_token_texts]);

  useEffect(() => {
    // Paragraphs get their true height only when they come into view: the end moves, and the view with it.
    const element = scroller.current;
    if (element === null) return;
    const observer = new ResizeObserver(() => {
      if (isAtEnd.current) element.scrollTop = element.scrollHeight;
      keepPin();
    });
    for (const part of element.children) observer.observe(part);
    return () => observer.disconnect();
  }, [keepPin]);

  useEffect(() => {
    if (flashPosition === null) return;
    const element = scroller.current?.querySelector<HTMLElement>(`[data-pos="${flashPosition}"]`);
    element?.scrollIntoView({ block: "nearest" });
    element?.setAttribute("data-flash", "");
    return () => element?.removeAttribute("data-flash");
  }, [flashPosition]);

  const onKeyDown = (event: KeyboardEvent): void => {
    letPinGo();
    if (event.key === "Escape") {
      onPin(null);
      return;
    }
    const next = stepAfterKey(event.key, activeStep, request);
    if (next === null) return;
    event.preventDefault();
    onPin(next);
    document.getElementById(optionId(next))?.scrollIntoView({ block: "nearest" });
  };

  return (
    <div
      ref={scroller}
      className={styles.flow}
      data-active={activeToken ? "" : undefined}
      onScroll={({ currentTarget: at }) => {
        // Only what still grows is followed: of an answer that has ended, pages come in at the reader's own place.
        isAtEnd.current = request.ended_at_us === null && at.scrollHeight - at.scrollTop - at.clientHeight < STICK_PX;
      }}
      onWheel={letPinGo}
      onTouchMove={letPinGo}
      onPointerDown={letPinGo}
      onPointerMove={(event) => onHover(stepUnder(event))}
      onPointerLeave={() => onHover(null)}
    >
      <PromptView
        texts={request.prompt_token_texts}
        spans={request.prompt_spans}
        promptLen={request.prompt_len}
        onUnfold={() => setNumUnfolded(numUnfolded + 1)}
      />
      <div className={styles.answer}>
        <h3 className={styles.role}>answer</h3>
        <div
          role="listbox"
          tabIndex={0}
          aria-label="Answer, token by token"
          aria-activedescendant={activeStep === null ? undefined : optionId(activeStep)}
          className={styles.tokens}
          data-testid="answer"
          data-request-id={request.request_id}
          data-num-tokens={request.num_tokens}
          data-pinned={pinnedStep ?? undefined}
          onKeyDown={onKeyDown}
          onClick={(event) => {
            const step = stepUnder(event);
            if (step !== null) onPin(step === pinnedStep ? null : step);
          }}
        >
          {flowOf(request.chunks).map(({ gap, paragraphs }) => (
            <Fragment key={gap ?? "first"}>
              <Gap missing={missing.find(({ from }) => from === gap)} onRead={onRead} />
              {paragraphs.map((paragraph) => (
                <AnswerParagraph key={paragraph[0]?.firstStep} paragraph={paragraph} promptLen={request.prompt_len} />
              ))}
            </Fragment>
          ))}
          <Gap missing={missing.find(({ from }) => from > request.last_step)} onRead={onRead} />
        </div>
      </div>
    </div>
  );
}

function Gap({ missing, onRead }: { missing: Missing | undefined; onRead: (fromStep: number) => Promise<number> }) {
  return missing === undefined ? null : <MissingTokens missing={missing} onRead={onRead} />;
}

function stepUnder(event: PointerEvent | React.MouseEvent): number | null {
  const option = (event.target as HTMLElement).closest<HTMLElement>("[data-step]");
  return option === null ? null : Number(option.dataset.step);
}

/** The step that a key leads to; null for keys that mean nothing here. Up and down go to the token above or below. */
function stepAfterKey(key: string, from: number | null, request: RequestState): number | null {
  const last = request.last_step;
  if (last < 0) return null;
  if (from === null)
    return ["ArrowLeft", "ArrowUp", "End"].includes(key) ? last : key.startsWith("Arrow") || key === "Home" ? 0 : null;
  switch (key) {
    case "ArrowRight":
      return Math.min(last, from + 1);
    case "ArrowLeft":
      return Math.max(0, from - 1);
    case "Home":
      return 0;
    case "End":
      return last;
    case "ArrowDown":
      return stepOnNextLine(from, 1, request);
    case "ArrowUp":
      return stepOnNextLine(from, -1, request);
    default:
      return null;
  }
}

function stepOnNextLine(from: number, direction: 1 | -1, request: RequestState): number {
  const rectOf = (step: number): DOMRect | undefined =>
    tokenAt(request, step) && document.getElementById(optionId(step))?.getClientRects()[0];
  const start = rectOf(from);
  if (!start) return from;
  let [best, bestGap, lineTop] = [from, Number.POSITIVE_INFINITY, Number.NaN];
  for (let step = from + direction; step >= 0 && step <= request.last_step; step += direction) {
    const rect = rectOf(step);
    if (!rect || Math.abs(rect.top - start.top) < 4) continue;
    if (Number.isNaN(lineTop)) lineTop = rect.top;
    if (Math.abs(rect.top - lineTop) > 4) break;
    const gap = Math.abs(rect.left - start.left);
    if (gap < bestGap) [best, bestGap] = [step, gap];
  }
  return best;
}
