/**
 * Inks the attended positions in the drawn tokens. Done on the elements themselves: hovering along a long answer must not
 * draw thousands of tokens again for thirty that change.
 */

import { INVERTING_INK, inkFromProbability } from "../../lib/colour";
import type { Attended } from "../../lib/fingerprint";
import { formatShare } from "../../lib/format";

/** Inks `attended` under `root`; the answer takes it all back. */
export function inkAttended(root: HTMLElement, attended: readonly Attended[]): () => void {
  const inked: HTMLElement[] = [];
  const inverting = INVERTING_INK[document.documentElement.dataset.theme === "dark" ? "dark" : "light"];
  const folds = [...root.querySelectorAll<HTMLElement>("[data-fold]")].map((element) => {
    const [start = 0, end = 0] = (element.dataset.fold ?? "").split(",").map(Number);
    return { element, start, end, mass: 0, count: 0 };
  });
  for (const { position, probability } of attended) {
    const element = root.querySelector<HTMLElement>(`[data-pos="${position}"]`);
    if (element) {
      const ink = inkFromProbability(probability);
      element.style.setProperty("--ink-share", `${(ink * 100).toFixed(1)}%`);
      element.dataset.attended = ink >= inverting ? "strongly" : "weakly";
      inked.push(element);
      continue;
    }
    const fold = folds.find(({ start, end }) => position >= start && position < end);
    if (fold) {
      fold.mass += probability;
      fold.count += 1;
    }
  }
  for (const { element, mass, count } of folds) {
    element.textContent =
      count === 0 ? "" : `${formatShare(mass)} of the attention lies in here, at ${count} of the positions shown`;
  }
  return () => {
    for (const element of inked) {
      element.style.removeProperty("--ink-share");
      delete element.dataset.attended;
    }
    for (const { element } of folds) element.textContent = "";
  };
}
