/** React's door to the feed. */

import { createContext, useContext, useSyncExternalStore } from "react";
import type { ConnectionState } from "./connection";
import type { Feed } from "./feed";
import type { FeedStore } from "./feed-store";

export const FeedContext = createContext<FeedStore | null>(null);

export function useFeedStore(): FeedStore {
  const store = useContext(FeedContext);
  if (store === null) throw new Error("useFeedStore outside FeedContext: wrap the page in <FeedContext value={store}>");
  return store;
}

/** A part of the feed; the component is drawn again only when that part has another identity. */
export function useFeed<T>(select: (feed: Feed) => T): T {
  const store = useFeedStore();
  return useSyncExternalStore(store.subscribe, () => select(store.feed()));
}

export function useConnectionState(): ConnectionState {
  const store = useFeedStore();
  return useSyncExternalStore(store.subscribe, store.connectionState);
}
