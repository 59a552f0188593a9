import { describe, expect, it } from "vitest";
import {
  DEFAULT_CLUSTERS,
  DEFAULT_COMPARE,
  DEFAULT_LIVE,
  DEFAULT_MAP,
  DEFAULT_RUNS,
  DEFAULT_TIMELINE,
  urlFromView,
  type View,
  viewFromUrl,
} from "./url-state";

const roundTrip = (view: View): View => {
  const url = new URL(urlFromView(view), "http://host");
  return viewFromUrl(url.pathname, url.search);
};

describe("the URL", () => {
  it.each<View>([
    DEFAULT_LIVE,
    { page: "live", requestId: "chatcmpl-é/1?&=", step: null },
    { page: "live", requestId: "a", step: 0 },
    DEFAULT_MAP,
    {
      page: "map",
      colourBy: "cluster",
      hiddenZones: ["diffuse", "long_range"],
      hiddenClusters: [-1, 4],
      camera: { x: -0.25, y: 0.5, distance: 0.125 },
      at: { x: -3.25, y: 11 },
      hour: "2026-01-10T04:00Z",
    },
    DEFAULT_CLUSTERS,
    { page: "clusters", clusterId: 0, run: "2026-01-10T04-02-11" },
    DEFAULT_TIMELINE,
    { page: "timeline", model: "org/model:1", by: "cluster" },
    DEFAULT_RUNS,
    { page: "runs", runId: "2026-01-10T04-02-11" },
    DEFAULT_COMPARE,
    { page: "compare", a: "2026-01-10T04-02-11", b: "2026-01-10T05-02-11" },
  ])("restores %j", (view) => {
    expect(roundTrip(view)).toEqual(view);
  });

  it("keeps off the sidecar's own paths", () => {
    expect(urlFromView(DEFAULT_CLUSTERS)).toBe("/views/clusters");
    expect(viewFromUrl("/runs", "")).toEqual(DEFAULT_LIVE);
    expect(viewFromUrl("/views/clusters", "?cluster=-1")).toEqual(DEFAULT_CLUSTERS);
  });

  it("leaves defaults out", () => {
    expect(urlFromView(DEFAULT_LIVE)).toBe("/live");
    expect(urlFromView(DEFAULT_MAP)).toBe("/map");
    expect(urlFromView({ ...DEFAULT_MAP, hiddenZones: ["diffuse"] })).toBe("/map?hide=diffuse");
  });

  it("starts at Live, and pins no token without its request", () => {
    expect(viewFromUrl("/", "")).toEqual(DEFAULT_LIVE);
    expect(viewFromUrl("/live", "?token=4")).toEqual(DEFAULT_LIVE);
    expect(viewFromUrl("/map/", "")).toEqual(DEFAULT_MAP);
  });

  it.each([
    "?view=1,2",
    "?view=1,2,0",
    "?view=1,2,-1",
    "?view=a,b,c",
    "?view=1,2,3,4",
    "?hide=nowhere&color=blue",
    "?hour=noon",
  ])("ignores what cannot be read: %s", (search) => {
    expect(viewFromUrl("/map", search)).toEqual(DEFAULT_MAP);
  });
});
