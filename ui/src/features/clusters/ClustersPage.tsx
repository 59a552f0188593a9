import { useQuery } from "@tanstack/react-query";
import { Asked, useFreshOnRun } from "../../components/Asked";
import { DiscoveryUnavailable } from "../../components/DiscoveryUnavailable";
import { NoClusters } from "../../components/NoClusters";
import { Notice } from "../../components/Notice";
import { DataTable, Sheet } from "../../components/Sheet";
import { ViewLink } from "../../components/ViewLink";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import type { Cluster } from "../../lib/answers";
import { fetchDiscoveryStatus } from "../../lib/api";
import { fetchClusterTable } from "../../lib/discovery-api";
import { formatCount } from "../../lib/format";
import type { ClustersView } from "../../lib/url-state";
import { isZone } from "../../lib/zones";
import { ClusterDetail } from "./ClusterDetail";
import { lineageText } from "./lineage-text";

/** What a run found: every cluster with its zone and how sure that is, and one of them in full. */
export function ClustersPage({ view }: { view: ClustersView }) {
  useFreshOnRun("cluster-table");
  useFreshOnRun("discovery");
  const discovery = useQuery({ queryKey: ["discovery"], queryFn: ({ signal }) => fetchDiscoveryStatus(signal) });
  const isReady = view.run !== null || discovery.data?.status === "ready";
  const table = useQuery({
    queryKey: ["cluster-table", view.run],
    queryFn: ({ signal }) => fetchClusterTable(view.run, signal),
    enabled: isReady,
  });
  return (
    <Asked query={discovery} label="Asking for the discovery run">
      {(status) =>
        isReady ? (
          <Asked query={table} label="Loading the clusters">
            {({ run_id, clusters }) =>
              clusters.length === 0 ? (
                <Notice title={`Run ${run_id ?? ""}`}>
                  <NoClusters />
                </Notice>
              ) : (
                <Sheet title="Clusters" controls={<code data-testid="run-id">{run_id}</code>}>
                  <ClusterTable clusters={clusters} view={view} />
                  {view.clusterId === null ? (
                    <p>Open a cluster to see its exemplars, its typical fingerprint and why it has its zone.</p>
                  ) : (
                    <ClusterDetail key={view.clusterId} clusterId={view.clusterId} run={view.run} />
                  )}
                </Sheet>
              )
            }
          </Asked>
        ) : (
          <DiscoveryUnavailable status={status} onRetry={() => void discovery.refetch()} />
        )
      }
    </Asked>
  );
}

function ClusterTable({ clusters, view }: { clusters: readonly Cluster[]; view: ClustersView }) {
  const sorted = [...clusters].sort((a, b) => b.size - a.size);
  const figure = (value: number | null): string => (value === null ? "–" : value.toFixed(2));
  return (
    <DataTable label="Clusters, largest first">
      <thead>
        <tr>
          <th scope="col">cluster</th>
          <th scope="col">tokens</th>
          <th scope="col" data-text>
            zone
          </th>
          <th scope="col">score</th>
          <th scope="col">margin</th>
          <th scope="col">stability</th>
          <th scope="col" data-text>
            lineage
          </th>
        </tr>
      </thead>
      <tbody>
        {sorted.map((cluster) => (
          <tr key={cluster.cluster_id} data-selected={cluster.cluster_id === view.clusterId}>
            <th scope="row">
              <ViewLink to={{ ...view, clusterId: cluster.cluster_id }}>{cluster.cluster_label}</ViewLink>
            </th>
            <td>{formatCount(cluster.size)}</td>
            <td data-text>
              <ZoneSwatch zone={isZone(cluster.zone) ? cluster.zone : null} /> {cluster.zone}
            </td>
            <td>{figure(cluster.zone_score)}</td>
            <td>{figure(cluster.zone_margin)}</td>
            <td>{figure(cluster.stability)}</td>
            <td data-text>{lineageText(cluster.lineage)}</td>
          </tr>
        ))}
      </tbody>
    </DataTable>
  );
}
