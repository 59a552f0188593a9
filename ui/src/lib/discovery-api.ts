/** What discovery found, asked of the sidecar: clusters, hours, runs, and two of them side by side. */

import type { ClusterAnswer, ClustersAnswer, CompareAnswer, RunAnswer, RunsAnswer, TimelineAnswer } from "./answers";
import { askJson } from "./api";

/** "?a=1&b=2" of what is given; "" with nothing. */
export function queryOf(values: Record<string, string | number | null>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value !== null) query.set(name, String(value));
  const text = query.toString();
  return text === "" ? "" : `?${text}`;
}

/** The clusters of a run; null is the served one. */
export async function fetchClusterTable(run: string | null, signal?: AbortSignal): Promise<ClustersAnswer> {
  return (await askJson(`/clusters${queryOf({ run })}`, signal)) as ClustersAnswer;
}

export async function fetchCluster(id: number, run: string | null, signal?: AbortSignal): Promise<ClusterAnswer> {
  return (await askJson(`/clusters/${id}${queryOf({ run })}`, signal)) as ClusterAnswer;
}

/** The newest 24 hours. */
export async function fetchTimeline(signal?: AbortSignal): Promise<TimelineAnswer> {
  return (await askJson("/zones/timeline", signal)) as TimelineAnswer;
}

/** Runs, newest first. */
export async function fetchRuns(limit: number, signal?: AbortSignal): Promise<RunsAnswer> {
  return (await askJson(`/runs${queryOf({ limit })}`, signal)) as RunsAnswer;
}

export async function fetchRun(runId: string, signal?: AbortSignal): Promise<RunAnswer> {
  return (await askJson(`/runs/${encodeURIComponent(runId)}`, signal)) as RunAnswer;
}

/** Run b held against run a. */
export async function fetchComparison(aRun: string, bRun: string, signal?: AbortSignal): Promise<CompareAnswer> {
  return (await askJson(`/compare${queryOf({ a_run: aRun, b_run: bRun })}`, signal)) as CompareAnswer;
}
