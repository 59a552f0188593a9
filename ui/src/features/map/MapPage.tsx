import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { Button } from "../../components/Button";
import { DiscoveryUnavailable } from "../../components/DiscoveryUnavailable";
import { Notice } from "../../components/Notice";
import { Skeleton } from "../../components/Skeleton";
import { type DiscoveryStatus, fetchClusters, fetchDiscoveryStatus, fetchPoints, SidecarError } from "../../lib/api";
import { countsByCluster, type Points, pointsFromArrow, visiblePoints } from "../../lib/points";
import type { MapView } from "../../lib/url-state";
import { useFeed } from "../../lib/use-feed";
import { goTo } from "../../lib/use-view";
import { type Scheme, ZONES } from "../../lib/zones";
import { MapCanvas } from "./MapCanvas";
import styles from "./MapPage.module.css";
import { MapPanel } from "./MapPanel";
import { hasWebgl } from "./map-plot";

/** The published embedding: every point a token, coloured by zone or cluster. */
export function MapPage({ view, scheme }: { view: MapView; scheme: Scheme }) {
  const [isWebglThere] = useState(hasWebgl);
  // Asked first: a sidecar without a run is an ordinary state, not a failed download.
  const discovery = useQuery({
    queryKey: ["discovery"],
    queryFn: ({ signal }) => fetchDiscoveryStatus(signal),
    staleTime: 30_000,
  });
  const isReady = discovery.data?.status === "ready";
  const points = useQuery({
    queryKey: ["points", view.hour],
    enabled: isReady,
    queryFn: async ({ signal }) => pointsFromArrow(await fetchPoints(view.hour, signal)),
    staleTime: Number.POSITIVE_INFINITY,
    refetchOnWindowFocus: false,
    structuralSharing: false,
  });
  const clusters = useQuery({
    // Of the points' own run, though another may be served by now.
    queryKey: ["clusters", points.data?.runId ?? null],
    queryFn: ({ signal }) => fetchClusters(points.data?.runId ?? null, signal),
    enabled: points.isSuccess,
    staleTime: Number.POSITIVE_INFINITY,
  });
  useReloadOnRun();

  if (discovery.isSuccess && !isReady && points.data === undefined) {
    return <DiscoveryUnavailable status={discovery.data} onRetry={() => void discovery.refetch()} />;
  }
  const failed = points.data === undefined ? (discovery.error ?? points.error) : null;
  if (failed !== null) {
    const retry = (): void => {
      void discovery.refetch();
      if (isReady) void points.refetch();
    };
    return (
      <Notice tone="bad" title={failed.message} actions={<Button onClick={retry}>Try again</Button>}>
        <p>{(failed instanceof SidecarError ? failed.mend : null) ?? "The map could not be read from the sidecar."}</p>
      </Notice>
    );
  }
  if (points.data === undefined) return <Skeleton label="Loading the points of the map" rows={8} />;
  if (view.hour !== null && points.data.count === 0) {
    return (
      <Notice
        title={`The run holds no token of ${view.hour}`}
        actions={<Button onClick={() => goTo({ ...view, hour: null })}>Show all hours</Button>}
      >
        <p>The hour is outside the run's window. A later run may include it.</p>
      </Notice>
    );
  }
  return (
    <LoadedMap
      // Another hour is another set of points: the plot starts anew.
      key={view.hour}
      view={view}
      scheme={scheme}
      points={points.data}
      clusters={clusters.data ?? []}
      runId={points.data.runId ?? discovery.data?.run_id ?? null}
      problem={discovery.data?.problem ?? null}
      notes={notesOf(discovery.data, points.data.runId)}
      isReloading={points.isFetching}
      isWebglThere={isWebglThere}
    />
  );
}

interface LoadedMapProps {
  view: MapView;
  scheme: Scheme;
  points: Points;
  clusters: Awaited<ReturnType<typeof fetchClusters>>;
  runId: string | null;
  /** Why a newer run is not the one shown. */
  problem: string | null;
  /** What the run itself says of its map. */
  notes: readonly string[];
  isReloading: boolean;
  isWebglThere: boolean;
}

/** What the served run says of itself, where its points are shown. */
function notesOf(status: DiscoveryStatus | undefined, runId: string | null): string[] {
  if (status === undefined || status.run_id !== runId) return [];
  const missing = status.missing_hours;
  const hours = missing.length === 0 ? [] : [`This map lacks the tokens of ${missing.join(", ")}.`];
  return [...(status.note === null ? [] : [`${status.note}.`]), ...hours];
}

function LoadedMap(props: LoadedMapProps) {
  const { view, scheme, points, clusters, runId, problem, notes, isReloading, isWebglThere } = props;
  const hidden = useMemo(
    () => ({
      hiddenZones: new Set(view.hiddenZones.map((zone) => ZONES.indexOf(zone))),
      hiddenClusters: new Set(view.hiddenClusters),
    }),
    [view.hiddenZones, view.hiddenClusters],
  );
  const visible = useMemo(() => visiblePoints(points, hidden), [points, hidden]);
  const hasClusters = useMemo(() => countsByCluster(points).some(({ clusterId }) => clusterId >= 0), [points]);
  const change = (part: Partial<MapView>): void => goTo({ ...view, ...part }, { replace: true });
  return (
    <div className={styles.page}>
      {isWebglThere ? (
        <MapCanvas
          points={points}
          clusters={clusters}
          visible={visible}
          colourBy={view.colourBy}
          scheme={scheme}
          camera={view.camera}
          at={view.at}
          onCamera={(camera) => change({ camera })}
          onOpen={(requestId, step) => goTo({ page: "live", requestId, step })}
        />
      ) : (
        <Notice title="This browser gives no WebGL context">
          <p>
            The map draws {points.count.toLocaleString("en")} points with WebGL. Switch hardware acceleration on in the
            browser's settings, or start Chromium with <code>--enable-unsafe-swiftshader</code> to draw in software. The
            legend beside this text shows the counts all the same.
          </p>
        </Notice>
      )}
      <MapPanel
        view={view}
        scheme={scheme}
        points={points}
        clusters={clusters}
        hasClusters={hasClusters}
        numVisible={visible?.length ?? points.count}
        runId={runId}
        problem={problem}
        notes={notes}
        isReloading={isReloading}
        onChange={change}
      />
    </div>
  );
}

/** A new run, or a connection that comes back, makes the map ask again; the old points stay until the new ones are here. */
function useReloadOnRun(): void {
  const queries = useQueryClient();
  const runId = useFeed((feed) => feed.run_id);
  const numRunsSeen = useFeed((feed) => feed.num_runs_seen);
  const [seen] = useState({ runId, numRunsSeen });
  useEffect(() => {
    if (runId === seen.runId && numRunsSeen === seen.numRunsSeen) return;
    const isFirstWord = seen.runId === null && numRunsSeen === seen.numRunsSeen;
    seen.runId = runId;
    seen.numRunsSeen = numRunsSeen;
    if (isFirstWord) return;
    for (const key of ["points", "clusters", "discovery"]) void queries.invalidateQueries({ queryKey: [key] });
  }, [runId, numRunsSeen, queries, seen]);
}
