/** React's door to the URL. */

import { useMemo, useSyncExternalStore } from "react";
import { urlFromView, type View, viewFromUrl } from "./url-state";

const NAVIGATED = "attn:navigated";

function subscribe(listener: () => void): () => void {
  window.addEventListener("popstate", listener);
  window.addEventListener(NAVIGATED, listener);
  return () => {
    window.removeEventListener("popstate", listener);
    window.removeEventListener(NAVIGATED, listener);
  };
}

/** Goes to a view. `replace` leaves the history as it is: for pins, filters and camera moves. */
export function goTo(view: View, { replace = false }: { replace?: boolean } = {}): void {
  const url = urlFromView(view);
  if (url === window.location.pathname + window.location.search) return;
  if (replace) window.history.replaceState(null, "", url);
  else window.history.pushState(null, "", url);
  window.dispatchEvent(new Event(NAVIGATED));
}

export function useView(): View {
  const url = useSyncExternalStore(subscribe, () => window.location.pathname + window.location.search);
  return useMemo(() => {
    const { pathname, search } = new URL(url, window.location.origin);
    return viewFromUrl(pathname, search);
  }, [url]);
}
