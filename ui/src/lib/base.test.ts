import { describe, expect, it } from "vitest";
import { below, withoutBase } from "./base";
import { DEFAULT_RUNS, urlFromView, viewFromUrl } from "./url-state";

describe("paths behind a proxy", () => {
  it("lie below the page's base", () => {
    expect(below("/requests?limit=5", "/attn/")).toBe("/attn/requests?limit=5");
    expect(below("/requests", "/")).toBe("/requests");
    expect(withoutBase("/attn/views/runs", "/attn/")).toBe("/views/runs");
    expect(withoutBase("/attn/", "/attn/")).toBe("/");
    expect(withoutBase("/elsewhere", "/attn/")).toBe("/elsewhere");
  });

  it("name the same views", () => {
    const view = { ...DEFAULT_RUNS, runId: "2026-01-10T04-02-11" };
    const url = new URL(urlFromView(view, "/attn/"), "http://host");
    expect(url.pathname).toBe("/attn/views/runs");
    expect(viewFromUrl(url.pathname, url.search, "/attn/")).toEqual(view);
    expect(viewFromUrl("/attn/map", "", "/attn/").page).toBe("map");
    expect(viewFromUrl("/attn/", "", "/attn/").page).toBe("live");
  });
});
