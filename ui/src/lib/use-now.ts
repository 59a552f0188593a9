/** A coarse clock for "12 s ago". */

import { useEffect, useState } from "react";

/** Unix milliseconds, renewed every `periodMs`. */
export function useNow(periodMs: number): number {
  const [nowMs, setNowMs] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNowMs(Date.now()), periodMs);
    return () => clearInterval(timer);
  }, [periodMs]);
  return nowMs;
}
