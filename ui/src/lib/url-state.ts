/** View state in the URL: what a reload or a shared link restores. */

import { BASE_PATH, below, withoutBase } from "./base";
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
  /** Where a token lies, in the map's own coordinates; null marks none. */
  at: { x: number; y: number } | null;
  /** Only this hour's points ("2026-01-10T04:00Z"); null shows the run's whole window. */
  hour: string | null;
}

export interface ClustersView {
  page: "clusters";
  clusterId: number | null;
  /** Null is the served run. */
  run: string | null;
}

export interface TimelineView {
  page: "timeline";
  /** Null is the model with the most tokens. */
  model: string | null;
  by: ColourBy;
}

export interface RunsView {
  page: "runs";
  /** Null opens the newest run. */
  runId: string | null;
}

export interface CompareView {
  page: "compare";
  /** Runs; null leaves the choice to the page: the newest against the one before it. */
  a: string | null;
  b: string | null;
}

export type View = LiveView | MapView | ClustersView | TimelineView | RunsView | CompareView;

export const DEFAULT_LIVE: LiveView = { page: "live", requestId: null, step: null };
export const DEFAULT_MAP: MapView = {
  page: "map",
  colourBy: "zone",
  hiddenZones: [],
  hiddenClusters: [],
  camera: null,
  at: null,
  hour: null,
};
export const DEFAULT_CLUSTERS: ClustersView = { page: "clusters", clusterId: null, run: null };
export const DEFAULT_TIMELINE: TimelineView = { page: "timeline", model: null, by: "zone" };
export const DEFAULT_RUNS: RunsView = { page: "runs", runId: null };
export const DEFAULT_COMPARE: CompareView = { page: "compare", a: null, b: null };

/** The paths `/clusters`, `/runs` and `/compare` are the sidecar's own answers; views of them stand below this. */
const VIEWS = "/views/";
const HOUR = /^\d{4}-\d{2}-\d{2}T\d{2}:00Z$/;

function integerOrNull(text: string | null): number | null {
  return text !== null && /^-?\d{1,9}$/.test(text) ? Number(text) : null;
}

function cameraFromText(text: string | null): MapView["camera"] {
  const [x, y, distance, ...rest] = (text ?? "").split(",").map(Number);
  if (x === undefined || y === undefined || distance === undefined || rest.length > 0) return null;
  if (![x, y, distance].every(Number.isFinite) || distance <= 0) return null;
  return { x, y, distance };
}

function placeFromText(text: string | null): MapView["at"] {
  const [x, y, ...rest] = (text || "?").split(",").map(Number);
  if (x === undefined || y === undefined || rest.length > 0 || !Number.isFinite(x) || !Number.isFinite(y)) return null;
  return { x, y };
}

/** The view that a path and query name; what cannot be read is left at its default. */
export function viewFromUrl(pathname: string, search: string, base = BASE_PATH): View {
  const query = new URLSearchParams(search);
  const path = withoutBase(pathname, base).replace(/\/+$/, "");
  const word = (name: string): string | null => query.get(name) || null;
  if (path === `${VIEWS}clusters`) {
    const clusterId = integerOrNull(query.get("cluster"));
    return { page: "clusters", clusterId: clusterId !== null && clusterId >= 0 ? clusterId : null, run: word("run") };
  }
  if (path === `${VIEWS}timeline`) {
    return { page: "timeline", model: word("model"), by: query.get("by") === "cluster" ? "cluster" : "zone" };
  }
  if (path === `${VIEWS}runs`) return { page: "runs", runId: word("run") };
  if (path === `${VIEWS}compare`) return { page: "compare", a: word("a"), b: word("b") };
  if (path === "/map") {
    const hour = query.get("hour");
    const list = (name: string): string[] => (query.get(name) ?? "").split(",").filter((item) => item !== "");
    return {
      page: "map",
      colourBy: query.get("color") === "cluster" ? "cluster" : "zone",
      hiddenZones: list("hide").filter(isZone),
      hiddenClusters: list("hide_clusters").flatMap((item) => integerOrNull(item) ?? []),
      camera: cameraFromText(query.get("view")),
      at: placeFromText(query.get("at")),
      hour: hour !== null && HOUR.test(hour) ? hour : null,
    };
  }
  const requestId = query.get("request");
  const step = integerOrNull(query.get("token"));
  return { page: "live", requestId, step: requestId !== null && step !== null && step >= 0 ? step : null };
}

/** The path and query of a view; defaults are left out. */
export function urlFromView(view: View, base = BASE_PATH): string {
  const search = new URLSearchParams(queryFromView(view)).toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  const path = view.page === "live" || view.page === "map" ? `/${view.page}` : `${VIEWS}${view.page}`;
  return below(`${path}${search === "" ? "" : `?${search}`}`, base);
}

function queryFromView(view: View): Record<string, string> {
  const query: Record<string, string> = {};
  const say = (name: string, value: string | number | null): void => {
    if (value !== null) query[name] = String(value);
  };
  switch (view.page) {
    case "live":
      say("request", view.requestId);
      if (view.requestId !== null) say("token", view.step);
      break;
    case "map":
      say("hour", view.hour);
      if (view.colourBy !== "zone") say("color", view.colourBy);
      if (view.hiddenZones.length > 0) say("hide", view.hiddenZones.join(","));
      if (view.hiddenClusters.length > 0) say("hide_clusters", view.hiddenClusters.join(","));
      if (view.at !== null) say("at", `${view.at.x},${view.at.y}`);
      if (view.camera !== null) {
        const { x, y, distance } = view.camera;
        say("view", [x, y, distance].map((value) => Number(value.toFixed(4))).join(","));
      }
      break;
    case "clusters":
      say("run", view.run);
      say("cluster", view.clusterId);
      break;
    case "timeline":
      say("model", view.model);
      if (view.by !== "zone") say("by", view.by);
      break;
    case "runs":
      say("run", view.runId);
      break;
    case "compare":
      say("a", view.a);
      say("b", view.b);
      break;
  }
  return query;
}
