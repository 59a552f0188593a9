import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

const TOKEN = "a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6.~+-_";

/** The module as a page that was just loaded has it, over what the tab stored before. */
async function loaded(stored: Map<string, string>, isBlocked = false) {
  vi.resetModules();
  const refuse = () => {
    throw new DOMException("blocked", "SecurityError");
  };
  vi.stubGlobal("sessionStorage", {
    getItem: isBlocked ? refuse : (key: string) => stored.get(key) ?? null,
    setItem: isBlocked ? refuse : (key: string, value: string) => stored.set(key, value),
  });
  return { token: await import("./token"), api: await import("./api") };
}

describe("token", () => {
  let stored: Map<string, string>;
  beforeEach(() => {
    stored = new Map();
  });
  afterEach(() => vi.unstubAllGlobals());

  it("is sent as a header and as a subprotocol, and survives a reload of the tab", async () => {
    const { token } = await loaded(stored);
    expect([token.authorization(), token.subprotocols()]).toEqual([{}, []]);
    expect(token.keepToken(` ${TOKEN}\n`)).toBe(true);
    const again = (await loaded(stored)).token;
    expect(again.authorization()).toEqual({ Authorization: `Bearer ${TOKEN}` });
    expect(again.subprotocols()).toEqual(["attention-explorer", `bearer.${TOKEN}`]);
  });

  it("is not kept where no sidecar would take it", async () => {
    const { token } = await loaded(stored);
    for (const text of ["", "  ", "two words", "a/b", "ä", "a,b"]) expect(token.keepToken(text)).toBe(false);
    expect(token.heldToken()).toBeNull();
  });

  it("lasts as long as the page where storage is blocked", async () => {
    const { token } = await loaded(stored, true);
    expect(token.keepToken(TOKEN)).toBe(true);
    expect(token.heldToken()).toBe(TOKEN);
  });

  it("is wanted after a 401, until one is given", async () => {
    const { token, api } = await loaded(stored);
    const fetched = vi.fn(() => Promise.resolve(new Response("{}", { status: 401 })));
    vi.stubGlobal("fetch", fetched);
    const told = vi.fn();
    token.subscribeToToken(told);
    await expect(api.fetchStats()).rejects.toMatchObject({ status: 401 });
    expect([token.isTokenWanted(), told.mock.calls.length]).toEqual([true, 1]);
    token.keepToken(TOKEN);
    expect([token.isTokenWanted(), told.mock.calls.length]).toEqual([false, 2]);
    await expect(api.fetchStats()).rejects.toMatchObject({ status: 401 });
    expect(fetched).toHaveBeenLastCalledWith("/stats", { headers: { Authorization: `Bearer ${TOKEN}` } });
  });
});
