/** Words for what a sentence attended to. */

import type { Part } from "../../lib/answers";
import { formatShare } from "../../lib/format";

/** "25%" where both bounds read the same, else "27% to 55%". */
export function boundsText(low: number, high: number): string {
  const [from, to] = [formatShare(low), formatShare(high)];
  return from === to ? from : `${from} to ${to}`;
}

/** What a part of the context is called: the sink, "user 1", the template around the messages, the answer so far. */
export function partName({ kind, message, role }: Part): string {
  if (kind === "message") return `${role ?? "message"} ${(message ?? 0) + 1}`;
  return kind === "answer" ? "answer so far" : kind;
}
