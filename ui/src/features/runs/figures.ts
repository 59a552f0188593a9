/** A run's figures as rows of text. */

/** Names with their values in few digits; what is no plain value is left out. */
export function figureRows(figures: Record<string, unknown>): [string, string][] {
  return Object.entries(figures).flatMap(([name, value]): [string, string][] => {
    if (typeof value === "number") {
      return [[name, Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)))]];
    }
    return typeof value === "string" || typeof value === "boolean" ? [[name, String(value)]] : [];
  });
}
