import { describe, expect, it } from "vitest";
import { DEFAULT_LIVE, DEFAULT_MAP, urlFromView, type View, viewFromUrl } from "./url-state";

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
    },
  ])("restores %j", (view) => {
    expect(roundTrip(view)).toEqual(view);
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

  it.each(["?view=1,2", "?view=1,2,0", "?view=1,2,-1", "?view=a,b,c", "?view=1,2,3,4", "?hide=nowhere&color=blue"])(
    "ignores what cannot be read: %s",
    (search) => {
      expect(viewFromUrl("/map", search)).toEqual(DEFAULT_MAP);
    },
  );
});
