import { useQuery } from "@tanstack/react-query";
import type { MouseEvent } from "react";
import { ConnectionBadge } from "../components/ConnectionBadge";
import { fetchHealth, fetchStats } from "../lib/api";
import { below } from "../lib/base";
import { formatCount } from "../lib/format";
import {
  DEFAULT_CLUSTERS,
  DEFAULT_COMPARE,
  DEFAULT_LIVE,
  DEFAULT_MAP,
  DEFAULT_RUNS,
  DEFAULT_TIMELINE,
  urlFromView,
  type View,
} from "../lib/url-state";
import { useFeed } from "../lib/use-feed";
import { goTo } from "../lib/use-view";
import type { Scheme } from "../lib/zones";
import styles from "./Header.module.css";

const HEALTH_PERIOD_MS = 10_000;
const STATS_PERIOD_MS = 5_000;
const DAGSTER_URL = "http://localhost:3000";

const PAGES: readonly { name: string; view: View }[] = [
  { name: "Live", view: DEFAULT_LIVE },
  { name: "Map", view: DEFAULT_MAP },
  { name: "Clusters", view: DEFAULT_CLUSTERS },
  { name: "Timeline", view: DEFAULT_TIMELINE },
  { name: "Runs", view: DEFAULT_RUNS },
  { name: "Compare", view: DEFAULT_COMPARE },
];

interface HeaderProps {
  page: View["page"];
  scheme: Scheme;
  onToggleTheme: () => void;
}

export function Header({ page, scheme, onToggleTheme }: HeaderProps) {
  return (
    <header className={styles.header}>
      <h1 className={styles.brand}>
        <svg viewBox="0 0 24 16" aria-hidden="true" className={styles.mark}>
          <path d="M3 13C3 1 21 1 21 13" />
          <path d="M11 13c0-6 10-6 10 0" />
          <circle cx="3" cy="13.5" r="1.8" />
          <circle cx="11" cy="13.5" r="1.8" />
          <circle cx="21" cy="13.5" r="1.8" />
        </svg>
        Attention Explorer
      </h1>
      <nav aria-label="Views" className={styles.nav}>
        {PAGES.map(({ name, view }) => (
          <a
            key={name}
            href={urlFromView(view)}
            aria-current={view.page === page ? "page" : undefined}
            onClick={(event) => follow(event, view)}
          >
            {name}
          </a>
        ))}
      </nav>
      <div className={styles.state}>
        <ConnectionBadge />
        <SidecarState />
      </div>
      <div className={styles.links}>
        <a href={below("/openapi.json")} target="_blank" rel="noreferrer">
          API
        </a>
        <a href={DAGSTER_URL} target="_blank" rel="noreferrer">
          Dagster
        </a>
        <button
          type="button"
          className={styles.theme}
          onClick={onToggleTheme}
          aria-label={scheme === "dark" ? "Switch to light" : "Switch to dark"}
          title={scheme === "dark" ? "Switch to light" : "Switch to dark"}
        >
          <svg viewBox="0 0 16 16" aria-hidden="true">
            <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeWidth="1.5" />
            <path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" />
          </svg>
        </button>
      </div>
    </header>
  );
}

/** Health, number of fingerprints and the run in force, asked for at a calm pace. */
function SidecarState() {
  const health = useQuery({
    queryKey: ["health"],
    queryFn: ({ signal }) => fetchHealth(signal),
    refetchInterval: HEALTH_PERIOD_MS,
  });
  const stats = useQuery({
    queryKey: ["stats"],
    queryFn: ({ signal }) => fetchStats(signal),
    refetchInterval: STATS_PERIOD_MS,
  });
  const feedRunId = useFeed((feed) => feed.run_id);
  const status = health.isError ? "unreachable" : (health.data?.status ?? "…");
  const runId = feedRunId ?? stats.data?.run_id ?? null;
  return (
    <dl className={styles.figures}>
      <div title={health.data?.reasons.join("\n") || (health.error?.message ?? "")}>
        <dt>sidecar</dt>
        <dd data-status={health.isError ? "bad" : status === "ok" ? "good" : health.data ? "warn" : "none"}>
          {status}
        </dd>
      </div>
      <div>
        <dt>fingerprints</dt>
        <dd data-testid="fingerprints">{stats.data ? formatCount(stats.data.fingerprints) : "–"}</dd>
      </div>
      <div className={styles.run}>
        <dt>run</dt>
        <dd>{runId ?? "none yet"}</dd>
      </div>
    </dl>
  );
}

function follow(event: MouseEvent, view: View): void {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  goTo(view);
}
