import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  type ConnectionState,
  connect,
  eventsUrl,
  FIRST_WAIT_MS,
  LAST_WAIT_MS,
  waitBeforeAttemptMs,
} from "./connection";
import type { FeedMessage } from "./wire";

/** The browser's socket, worked by the test. */
class TestSocket {
  static readonly OPEN = 1;
  static made: TestSocket[] = [];
  readyState = 0;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: (() => void) | null = null;
  constructor(readonly url: string) {
    TestSocket.made.push(this);
  }
  say(message: unknown): void {
    this.readyState = 1;
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  close(): void {
    this.readyState = 3;
    this.onclose?.();
  }
}

const newest = (): TestSocket => TestSocket.made.at(-1) as TestSocket;

describe("connection", () => {
  beforeEach(() => {
    vi.useFakeTimers();
    vi.stubGlobal("WebSocket", TestSocket);
    TestSocket.made = [];
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  const open = () => {
    const states: ConnectionState["phase"][] = [];
    const messages: FeedMessage[] = [];
    let cursor: number | null = null;
    const connection = connect({
      origin: "http://host:9009",
      cursor: () => cursor,
      onMessage: (message) => {
        messages.push(message);
        if (message.kind === "tokens") cursor = message.cursor;
      },
      onState: ({ phase }) => states.push(phase),
      whyRefused: async () => null,
    });
    vi.advanceTimersByTime(0);
    return { connection, states, messages };
  };

  it("resumes after the last token received, however often it breaks", () => {
    const { states } = open();
    expect(newest().url).toBe("ws://host:9009/events");
    newest().say({ kind: "hello", cursor: 5, run_id: null });
    newest().say({ kind: "tokens", cursor: 9, tokens: [] });
    newest().close();
    expect(states).toEqual(["connecting", "live", "reconnecting"]);
    vi.advanceTimersByTime(1_000);
    expect(newest().url).toBe("ws://host:9009/events?after=9");
    newest().close();
    vi.advanceTimersByTime(2_000);
    expect(TestSocket.made).toHaveLength(3);
    newest().say({ kind: "hello", cursor: 9, run_id: null });
    expect(states.at(-1)).toBe("live");
  });

  it("gives up an opening that says nothing", () => {
    const { states } = open();
    vi.advanceTimersByTime(8_000);
    expect(states.at(-1)).toBe("reconnecting");
  });

  it("opens no socket when closed at once, as React's strict mode does", () => {
    connect({
      origin: "http://h",
      cursor: () => null,
      onMessage: () => {},
      onState: () => {},
      whyRefused: async () => null,
    }).close();
    vi.advanceTimersByTime(60_000);
    expect(TestSocket.made).toEqual([]);
  });

  it("tries at once when asked, and never again once closed", () => {
    const { connection, states } = open();
    newest().close();
    connection.retryNow();
    expect(TestSocket.made).toHaveLength(2);
    connection.close();
    vi.advanceTimersByTime(60_000);
    expect(TestSocket.made).toHaveLength(2);
    expect(states).toEqual(["connecting", "reconnecting"]);
  });

  it("asks why it is refused only where it was never heard, and says so", async () => {
    const states: ConnectionState[] = [];
    const whyRefused = vi.fn(async () => "start the sidecar with --cors-origin https://a.example");
    const options = { origin: "http://h", cursor: () => null, onMessage: () => {}, whyRefused };
    const connection = connect({ ...options, onState: (state) => states.push(state) });
    await vi.advanceTimersByTimeAsync(0);
    newest().close();
    await vi.advanceTimersByTimeAsync(0);
    expect(states.at(-1)).toMatchObject({ phase: "reconnecting", reason: expect.stringContaining("--cors-origin") });
    await vi.advanceTimersByTimeAsync(FIRST_WAIT_MS * 1.2);
    newest().say({ kind: "hello", cursor: 1, run_id: null });
    newest().close();
    await vi.advanceTimersByTimeAsync(0);
    expect(states.at(-1)).toMatchObject({ phase: "reconnecting", reason: null });
    expect(whyRefused).toHaveBeenCalledTimes(1);
    connection.close();
  });

  it("skips kinds that it does not know", () => {
    const { messages } = open();
    newest().say({ kind: "from the future" });
    newest().say([]);
    expect(messages).toEqual([]);
  });
});

describe("waits", () => {
  it("double, are capped, and spread by a fifth", () => {
    expect([1, 2, 3].map((attempt) => waitBeforeAttemptMs(attempt, 0.5))).toEqual([500, 1000, 2000]);
    expect(waitBeforeAttemptMs(50, 0.5)).toBe(LAST_WAIT_MS);
    expect(waitBeforeAttemptMs(1, 0)).toBe(400);
    expect(waitBeforeAttemptMs(1, 1)).toBe(600);
  });
  it("lead to the page's own host", () => {
    expect(eventsUrl("https://host", null)).toBe("wss://host/events");
    expect(eventsUrl("http://host:1", 0)).toBe("ws://host:1/events?after=0");
  });
});
