import { useEffect, useRef, useState } from "react";
import { Button } from "../../components/Button";
import type { Missing } from "../../lib/feed";
import { formatCount } from "../../lib/format";
import styles from "./TokenFlow.module.css";

interface MissingTokensProps {
  missing: Missing;
  /** Reads the page at this step; how many of its tokens were stored. */
  onRead: (fromStep: number) => Promise<number>;
}

/** Stands where tokens are not read yet: reads the next page when it comes into view, or when it is pressed. */
export function MissingTokens({ missing: { from, to }, onRead }: MissingTokensProps) {
  const place = useRef<HTMLDivElement>(null);
  const [state, setState] = useState<"waiting" | "reading" | "none" | "failed">("waiting");
  const latest = useRef(onRead);
  latest.current = onRead;

  const read = (): void => {
    setState("reading");
    latest.current(from).then(
      (count) => setState(count === 0 ? "none" : "waiting"),
      () => setState("failed"),
    );
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: each new beginning is watched for anew
  useEffect(() => {
    const element = place.current;
    if (element === null || state !== "waiting") return;
    const observer = new IntersectionObserver(([entry]) => {
      if (entry?.isIntersecting) read();
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, [from, state]);

  const which = to === null ? `from ${formatCount(from)} on` : `${formatCount(from)} to ${formatCount(to - 1)}`;
  return (
    <div ref={place} className={styles.missing} data-testid="missing-tokens" data-from={from}>
      {state === "none" ? (
        `Tokens ${which} are not stored.`
      ) : (
        <Button onClick={read} disabled={state === "reading"}>
          {state === "reading" ? "Reading" : state === "failed" ? "Could not be read; try again:" : "Read"} tokens{" "}
          {which}
        </Button>
      )}
    </div>
  );
}
