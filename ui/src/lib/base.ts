/**
 * Where the explorer is served: "/" or, behind a proxy, "/attn/". The sidecar says so in the page's `<base>`, relative to
 * the page. Read once, before any navigation.
 */
export const BASE_PATH = basePath();

function basePath(): string {
  const base = typeof document === "undefined" ? null : document.querySelector("base");
  return base === null ? "/" : new URL(base.href).pathname;
}

/** "/attn/requests" of "/requests": a path of the sidecar as this page must ask for it. */
export function below(path: string, base = BASE_PATH): string {
  return base + path.replace(/^\//, "");
}

/** The inverse; what does not lie below the base is left as it is. */
export function withoutBase(path: string, base = BASE_PATH): string {
  return path.startsWith(base) ? `/${path.slice(base.length)}` : path;
}
