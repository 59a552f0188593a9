import type { ReactNode } from "react";
import { urlFromView, type View } from "../lib/url-state";
import { goTo } from "../lib/use-view";

/** A link to a view, followed without loading the page anew. */
export function ViewLink({ to, children }: { to: View; children: ReactNode }) {
  return (
    <a
      href={urlFromView(to)}
      onClick={(event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
        event.preventDefault();
        goTo(to);
      }}
    >
      {children}
    </a>
  );
}
