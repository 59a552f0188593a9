import { type ReactNode, useId, useState } from "react";
import { createPortal } from "react-dom";
import styles from "./Tooltip.module.css";

interface TooltipProps {
  /** What the tooltip says. */
  content: ReactNode;
  /** Draws the thing explained; it gets the id that describes it. */
  children: (describedBy: string) => ReactNode;
}

const WIDTH_PX = 260;
const MARGIN_PX = 8;

/** Words that appear beside something on hover or keyboard focus, and go on Escape. */
export function Tooltip({ content, children }: TooltipProps) {
  const id = useId();
  const [anchor, setAnchor] = useState<DOMRect | null>(null);
  const isLow = anchor !== null && anchor.top > window.innerHeight * 0.6;
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: it only listens to what happens on the control within
    <span
      className={styles.anchor}
      onPointerEnter={(event) => setAnchor(event.currentTarget.getBoundingClientRect())}
      onPointerLeave={() => setAnchor(null)}
      onFocus={(event) => setAnchor(event.currentTarget.getBoundingClientRect())}
      onBlur={() => setAnchor(null)}
      onKeyDown={(event) => {
        if (event.key === "Escape") setAnchor(null);
      }}
    >
      {children(id)}
      <span id={id} className="visually-hidden">
        {content}
      </span>
      {anchor
        ? createPortal(
            <div
              aria-hidden="true"
              className={styles.tooltip}
              style={{
                width: WIDTH_PX,
                left: Math.max(MARGIN_PX, Math.min(anchor.left, window.innerWidth - WIDTH_PX - MARGIN_PX)),
                ...(isLow ? { bottom: window.innerHeight - anchor.top + 6 } : { top: anchor.bottom + 6 }),
              }}
            >
              {content}
            </div>,
            document.body,
          )
        : null}
    </span>
  );
}
