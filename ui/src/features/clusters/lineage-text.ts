/** Words for where a cluster comes from. */

import type { Lineage } from "../../lib/answers";
import { formatShare } from "../../lib/format";

/** "kept from 3, overlap 98%"; "unknown" where the run does not say. */
export function lineageText(lineage: Lineage | null): string {
  if (lineage === null) return "unknown";
  const from = lineage.parents.length > 0 ? ` from ${lineage.parents.join(", ")}` : "";
  const shared = lineage.overlap === null ? "" : `, overlap ${formatShare(lineage.overlap)}`;
  return `${lineage.event}${from}${shared}`;
}

/** The evidence of a zone as rows of a name and its figures, strongest lift first; what is no such figure is left out. */
export function evidenceRows(
  evidence: Record<string, unknown>,
): { name: string; mean: number; usual: number | null; lift: number }[] {
  return Object.entries(evidence)
    .flatMap(([name, figures]) => {
      const { mean, usual, lift } = (figures ?? {}) as Record<string, unknown>;
      if (typeof mean !== "number" || typeof lift !== "number") return [];
      return [{ name, mean, usual: typeof usual === "number" ? usual : null, lift }];
    })
    .sort((a, b) => Math.abs(b.lift) - Math.abs(a.lift));
}
