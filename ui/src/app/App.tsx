import { lazy, Suspense, useEffect } from "react";
import { Skeleton } from "../components/Skeleton";
import { LivePage } from "../features/live/LivePage";
import { useTheme } from "../lib/theme";
import type { View } from "../lib/url-state";
import { useFeedStore } from "../lib/use-feed";
import { useView } from "../lib/use-view";
import type { Scheme } from "../lib/zones";
import styles from "./App.module.css";
import { Header } from "./Header";
import { LiveRefused } from "./LiveRefused";
import { TokenGate } from "./TokenGate";

// Every view but the first brings its own script: WebGL and Arrow are needed on the map alone.
const MapPage = lazy(() => import("../features/map/MapPage").then((module) => ({ default: module.MapPage })));
const ClustersPage = lazy(() =>
  import("../features/clusters/ClustersPage").then((module) => ({ default: module.ClustersPage })),
);
const TimelinePage = lazy(() =>
  import("../features/timeline/TimelinePage").then((module) => ({ default: module.TimelinePage })),
);
const RunsPage = lazy(() => import("../features/runs/RunsPage").then((module) => ({ default: module.RunsPage })));
const ComparePage = lazy(() =>
  import("../features/compare/ComparePage").then((module) => ({ default: module.ComparePage })),
);

const TITLES: Record<View["page"], string> = {
  live: "Live",
  map: "Map",
  clusters: "Clusters",
  timeline: "Timeline",
  runs: "Runs",
  compare: "Compare",
};

export function App() {
  const view = useView();
  const { scheme, toggle } = useTheme();
  const store = useFeedStore();
  useEffect(() => store.start(window.location.origin), [store]);
  useEffect(() => {
    document.title = `${TITLES[view.page]} · Attention Explorer`;
  }, [view.page]);
  return (
    <div className={styles.app}>
      <Header page={view.page} scheme={scheme} onToggleTheme={toggle} />
      <div>
        <LiveRefused />
      </div>
      <main className={styles.main}>
        <TokenGate>
          <Suspense fallback={<Skeleton label={`Loading ${TITLES[view.page]}`} />}>
            <Page view={view} scheme={scheme} />
          </Suspense>
        </TokenGate>
      </main>
    </div>
  );
}

function Page({ view, scheme }: { view: View; scheme: Scheme }) {
  switch (view.page) {
    case "live":
      return <LivePage view={view} />;
    case "map":
      return <MapPage view={view} scheme={scheme} />;
    case "clusters":
      return <ClustersPage view={view} />;
    case "timeline":
      return <TimelinePage view={view} scheme={scheme} />;
    case "runs":
      return <RunsPage view={view} />;
    case "compare":
      return <ComparePage view={view} />;
  }
}
