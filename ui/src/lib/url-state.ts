/** View state in the URL: what a reload or a shared link restores. */

import { isZone, type Zone } from "./zones";

export type ColourBy = "zone" | "cluster";

export interface LiveView {
  page: "live";
  /** Null follows the newest request. */
  requestId: string | null;
  /** The pinned output token's step. */
  step: number | null;
}

export interface MapView {
  page: "map";
  colourBy: ColourBy;
  hiddenZones: readonly Zone[];
  hiddenClusters: readonly number[];
  /** Centre in map units (-1..1 shows all) and distance (1 shows all, smaller is nearer); null is the whole map. */
  camera: { x: number; y: number; distance: number } | null;
}

export type View = LiveView | MapView;

export const DEFAULT_LIVE: LiveView = { page: "live", requestId: null, step: null };
export const DEFAULT_MAP: MapView = {
  page: "map",
  colourBy: "zone",
  hiddenZones: [],
  hiddenClusters: [],
  camera: null,
};

function integerOrNull(text: string | null): number | null {
  return text !== null && /^-?\d{1,9}$/.test(text) ? Number(text) : null;
}

function cameraFromText(text: string | null): MapView["camera"] {
  const [x, y, distance, ...rest] = (text ?? "").split(",").map(Number);
  if (x === undefined || y === undefined || distance === undefined || rest.length > 0) return null;
  if (![x, y, distance].every(Number.isFinite) || distance <= 0) return null;
  return { x, y, distance };
}

/** The view that a path and query name; what cannot be read is left at its default. */
export function viewFromUrl(pathname: string, search: string): View {
  const query = new URLSearchParams(search);
  if (pathname.replace(/\/+$/, "") === "/map") {
    const list = (name: string): string[] => (query.get(name) ?? "").split(",").filter((item) => item !== "");
    return {
      page: "map",
      colourBy: query.get("color") === "cluster" ? "cluster" : "zone",
      hiddenZones: list("hide").filter(isZone),
      hiddenClusters: list("hide_clusters").flatMap((item) => integerOrNull(item) ?? []),
      camera: cameraFromText(query.get("view")),
    };
  }
  const requestId = query.get("request");
  const step = integerOrNull(query.get("token"));
  return { page: "live", requestId, step: requestId !== null && step !== null && step >= 0 ? step : null };
}

/** The path and query of a view; defaults are left out. */
export function urlFromView(view: View): string {
  const query = new URLSearchParams();
  if (view.page === "live") {
    if (view.requestId !== null) query.set("request", view.requestId);
    if (view.requestId !== null && view.step !== null) query.set("token", String(view.step));
  } else {
    if (view.colourBy !== "zone") query.set("color", view.colourBy);
    if (view.hiddenZones.length > 0) query.set("hide", view.hiddenZones.join(","));
    if (view.hiddenClusters.length > 0) query.set("hide_clusters", view.hiddenClusters.join(","));
    if (view.camera !== null) {
      const { x, y, distance } = view.camera;
      query.set("view", [x, y, distance].map((value) => Number(value.toFixed(4))).join(","));
    }
  }
  const search = query.toString().replaceAll("%2C", ",");
  return `/${view.page}${search === "" ? "" : `?${search}`}`;
}
