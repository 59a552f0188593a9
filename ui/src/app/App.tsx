import { lazy, Suspense, useEffect } from "react";
import { Skeleton } from "../components/Skeleton";
import { LivePage } from "../features/live/LivePage";
import { useTheme } from "../lib/theme";
import { useFeedStore } from "../lib/use-feed";
import { useView } from "../lib/use-view";
import styles from "./App.module.css";
import { Header } from "./Header";
import { TokenGate } from "./TokenGate";

// WebGL and Arrow are needed on the map alone.
const MapPage = lazy(() => import("../features/map/MapPage").then((module) => ({ default: module.MapPage })));

export function App() {
  const view = useView();
  const { scheme, toggle } = useTheme();
  const store = useFeedStore();
  useEffect(() => store.start(window.location.origin), [store]);
  useEffect(() => {
    document.title = `${view.page === "map" ? "Map" : "Live"} · Attention Explorer`;
  }, [view.page]);
  return (
    <div className={styles.app}>
      <Header page={view.page} scheme={scheme} onToggleTheme={toggle} />
      <main className={styles.main}>
        <TokenGate>
          {view.page === "map" ? (
            <Suspense fallback={<Skeleton label="Loading the map" />}>
              <MapPage view={view} scheme={scheme} />
            </Suspense>
          ) : (
            <LivePage view={view} />
          )}
        </TokenGate>
      </main>
    </div>
  );
}
