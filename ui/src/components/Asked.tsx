import { type UseQueryResult, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useEffect } from "react";
import { SidecarError } from "../lib/api";
import { useFeed } from "../lib/use-feed";
import { Button } from "./Button";
import { Notice } from "./Notice";
import { Skeleton } from "./Skeleton";

interface AskedProps<Answer> {
  query: UseQueryResult<Answer>;
  /** What is being read, for the one who waits. */
  label: string;
  children: (answer: Answer) => ReactNode;
}

/** An answer of the sidecar, or its state: on its way, or failed with what to do about it. */
export function Asked<Answer>({ query, label, children }: AskedProps<Answer>) {
  if (query.data !== undefined) return children(query.data);
  if (!query.isError) return <Skeleton label={label} rows={8} />;
  const { error } = query;
  return (
    <Notice tone="bad" title={error.message} actions={<Button onClick={() => void query.refetch()}>Try again</Button>}>
      <p>{(error instanceof SidecarError ? error.mend : null) ?? "Is the sidecar running, and reachable from here?"}</p>
    </Notice>
  );
}

/** Another run is served: what was read of the old one is asked again. */
export function useFreshOnRun(key: string): void {
  const queries = useQueryClient();
  const runId = useFeed((feed) => feed.run_id);
  const numRunsSeen = useFeed((feed) => feed.num_runs_seen);
  useEffect(() => {
    if (runId === null && numRunsSeen === 0) return;
    void queries.invalidateQueries({ queryKey: [key] });
  }, [runId, numRunsSeen, key, queries]);
}
