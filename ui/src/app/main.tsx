import "@fontsource-variable/ibm-plex-sans/wght.css";
import "@fontsource/ibm-plex-mono/400.css";
import "@fontsource/ibm-plex-mono/600.css";
import "./styles.css";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { FeedStore } from "../lib/feed-store";
import { FeedContext } from "../lib/use-feed";
import { App } from "./App";

const root = document.getElementById("root");
if (root === null) throw new Error("index.html has no #root");

const queries = new QueryClient({
  // The sidecar is next door: one more try at once, then the page says so and goes on asking at its own pace.
  defaultOptions: { queries: { retry: 1, retryDelay: 300, refetchOnWindowFocus: true } },
});

createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <FeedContext value={new FeedStore()}>
        <App />
      </FeedContext>
    </QueryClientProvider>
  </StrictMode>,
);
