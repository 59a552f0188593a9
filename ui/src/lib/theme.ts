/** Light or dark: the system's choice unless the reader made one, kept in this browser. */

import { useEffect, useState, useSyncExternalStore } from "react";
import type { Scheme } from "./zones";

const KEY = "attn.theme";
const DARK = "(prefers-color-scheme: dark)";

function subscribeToSystem(listener: () => void): () => void {
  const query = window.matchMedia(DARK);
  query.addEventListener("change", listener);
  return () => query.removeEventListener("change", listener);
}

function storedChoice(): Scheme | null {
  const stored = window.localStorage.getItem(KEY);
  return stored === "light" || stored === "dark" ? stored : null;
}

/** The scheme in force, and a function that goes to the other one. */
export function useTheme(): { scheme: Scheme; toggle: () => void } {
  const isSystemDark = useSyncExternalStore(subscribeToSystem, () => window.matchMedia(DARK).matches);
  const [choice, setChoice] = useState(storedChoice);
  const scheme = choice ?? (isSystemDark ? "dark" : "light");
  useEffect(() => {
    document.documentElement.dataset.theme = scheme;
  }, [scheme]);
  return {
    scheme,
    toggle: () => {
      const next = scheme === "dark" ? "light" : "dark";
      window.localStorage.setItem(KEY, next);
      setChoice(next);
    },
  };
}
