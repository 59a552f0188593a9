/** Which two runs are compared. */

/** What the URL names, else the newest run (b) and the one before it (a); null with fewer than two. Newest first. */
export function runsToCompare(
  runs: readonly { run_id: string }[],
  named: { a: string | null; b: string | null },
): { a: string; b: string } | null {
  const b = named.b ?? runs.find((run) => run.run_id !== named.a)?.run_id;
  const a = named.a ?? runs.find((run) => run.run_id !== b)?.run_id;
  return a === undefined || b === undefined ? null : { a, b };
}
