import { useQuery } from "@tanstack/react-query";
import { Asked, useFreshOnRun } from "../../components/Asked";
import { DiscoveryUnavailable } from "../../components/DiscoveryUnavailable";
import { NoClusters } from "../../components/NoClusters";
import { Notice } from "../../components/Notice";
import { DataTable, Sheet } from "../../components/Sheet";
import { ViewLink } from "../../components/ViewLink";
import type { Run } from "../../lib/answers";
import { fetchDiscoveryStatus } from "../../lib/api";
import { fetchRun, fetchRuns } from "../../lib/discovery-api";
import { formatCount, formatShare, formatUtc } from "../../lib/format";
import { DEFAULT_CLUSTERS, DEFAULT_COMPARE, type RunsView } from "../../lib/url-state";
import { figureRows } from "./figures";

const LISTED_RUNS = 50;
const REFRESH_MS = 10_000;

/** Discovery runs with their figures, which one is served, and one of them in full. */
export function RunsPage({ view }: { view: RunsView }) {
  useFreshOnRun("runs");
  useFreshOnRun("discovery");
  const discovery = useQuery({ queryKey: ["discovery"], queryFn: ({ signal }) => fetchDiscoveryStatus(signal) });
  const runs = useQuery({
    queryKey: ["runs"],
    queryFn: ({ signal }) => fetchRuns(LISTED_RUNS, signal),
    refetchInterval: REFRESH_MS,
  });
  return (
    <Asked query={runs} label="Loading the runs">
      {(answer) => {
        const newest = answer.runs[0];
        const status = discovery.data;
        if (newest === undefined && status === undefined) return <Notice title="No discovery run yet" />;
        return (
          <Sheet title="Discovery runs">
            {status !== undefined && status.status !== "ready" ? (
              <DiscoveryUnavailable status={status} onRetry={() => void discovery.refetch()} />
            ) : null}
            {status?.status === "ready" && status.problem ? (
              <p role="alert">A newer run is not served: {status.problem}</p>
            ) : null}
            {newest === undefined ? (
              <p>This database has no record of a run.</p>
            ) : (
              <>
                <RunTable runs={answer.runs} selected={view.runId ?? newest.run_id} />
                <RunDetail runId={view.runId ?? newest.run_id} />
              </>
            )}
          </Sheet>
        );
      }}
    </Asked>
  );
}

function RunTable({ runs, selected }: { runs: readonly Run[]; selected: string }) {
  return (
    <DataTable label="Runs, newest first">
      <thead>
        <tr>
          <th scope="col">run</th>
          <th scope="col" data-text>
            status
          </th>
          <th scope="col">tokens</th>
          <th scope="col">clusters</th>
          <th scope="col">noise</th>
          <th scope="col">started</th>
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => (
          <tr key={run.run_id} data-selected={run.run_id === selected}>
            <th scope="row">
              <ViewLink to={{ page: "runs", runId: run.run_id }}>{run.run_id}</ViewLink>
            </th>
            <td data-text>{run.served ? `${run.status}, served` : run.status}</td>
            <td>{run.num_fingerprints === null ? "–" : formatCount(run.num_fingerprints)}</td>
            <td>{run.num_clusters ?? "–"}</td>
            <td>{run.noise_share === null ? "–" : formatShare(run.noise_share)}</td>
            <td>{run.started_at_us === null ? "–" : formatUtc(run.started_at_us / 1000)}</td>
          </tr>
        ))}
      </tbody>
    </DataTable>
  );
}

function RunDetail({ runId }: { runId: string }) {
  const query = useQuery({ queryKey: ["runs", runId], queryFn: ({ signal }) => fetchRun(runId, signal) });
  return (
    <Asked query={query} label="Loading the run">
      {({ run, problem, versions }) => (
        <>
          <p data-testid="run-detail">
            <strong>{run.run_id}</strong>
            {run.available ? (
              <>
                {" · "}
                <ViewLink to={{ ...DEFAULT_CLUSTERS, run: run.run_id }}>its clusters</ViewLink>
              </>
            ) : null}
            {run.previous_run_id === null ? null : (
              <>
                {" · "}
                <ViewLink to={{ ...DEFAULT_COMPARE, a: run.previous_run_id, b: run.run_id }}>
                  compare with {run.previous_run_id}
                </ViewLink>
              </>
            )}
          </p>
          {run.error === null ? null : <p role="alert">The run failed: {run.error}</p>}
          {problem === null ? null : <p role="alert">Its bundle cannot be served: {problem}</p>}
          {run.num_clusters === 0 ? <NoClusters /> : null}
          <DataTable label="Figures, parameters and versions">
            <tbody>
              {figureRows({ ...run.metrics, ...run.parameters, ...versions }).map(([name, value]) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td>{value}</td>
                </tr>
              ))}
            </tbody>
          </DataTable>
        </>
      )}
    </Asked>
  );
}
