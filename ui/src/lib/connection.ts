/** The WebSocket to `/events`: reconnects with growing waits and resumes after the last token received. */

import { BASE_PATH, below } from "./base";
import { subprotocols } from "./token";
import { type FeedMessage, feedMessageFromJson } from "./wire";

export type ConnectionState =
  | { phase: "connecting" }
  | { phase: "live" }
  | {
      phase: "reconnecting";
      attempt: number;
      retryAtMs: number;
      /** Why it is refused, where that is known. */
      reason: string | null;
    };

export const FIRST_WAIT_MS = 500;
export const LAST_WAIT_MS = 15_000;
/** An opening that says nothing for this long is given up. */
export const OPEN_TIMEOUT_MS = 8_000;

/** Wait before attempt 1, 2, 3…: doubling, capped, spread by ±20% so that many pages do not return at once. `random` is 0..1. */
export function waitBeforeAttemptMs(attempt: number, random: number): number {
  const wait = Math.min(LAST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.max(0, attempt - 1));
  return Math.round(wait * (0.8 + 0.4 * random));
}

/** "ws://host/events?after=123" beside the page that was loaded from `origin`. */
export function eventsUrl(origin: string, cursor: number | null, base = BASE_PATH): string {
  const url = new URL(below("/events", base), origin.replace(/^http/, "ws"));
  if (cursor !== null) url.searchParams.set("after", String(cursor));
  return url.href;
}

export interface Connection {
  close: () => void;
  retryNow: () => void;
}

export interface ConnectionOptions {
  origin: string;
  /** The cursor to resume after, read at each attempt. */
  cursor: () => number | null;
  onMessage: (message: FeedMessage) => void;
  onState: (state: ConnectionState) => void;
  /** Asked when an opening fails before the first word. */
  whyRefused: () => Promise<string | null>;
}

/** Opens the connection and keeps it open until `close`. */
export function connect({ origin, cursor, onMessage, onState, whyRefused }: ConnectionOptions): Connection {
  let socket: WebSocket | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let attempt = 0;
  let isClosed = false;
  let reason: string | null = null;

  const open = (): void => {
    clearTimeout(timer);
    const opening = new WebSocket(eventsUrl(origin, cursor()), subprotocols());
    let wasHeard = false;
    socket = opening;
    timer = setTimeout(() => opening.close(), OPEN_TIMEOUT_MS);
    opening.onmessage = (event: MessageEvent<unknown>) => {
      if (socket !== opening || typeof event.data !== "string") return;
      const message = feedMessageFromJson(JSON.parse(event.data));
      if (message === null) return;
      if (message.kind === "hello") {
        clearTimeout(timer);
        wasHeard = true;
        attempt = 0;
        reason = null;
        onState({ phase: "live" });
      }
      onMessage(message);
    };
    opening.onclose = () => {
      if (isClosed || socket !== opening) return;
      clearTimeout(timer);
      attempt += 1;
      const waitMs = waitBeforeAttemptMs(attempt, Math.random());
      const retryAtMs = Date.now() + waitMs;
      const failed = attempt;
      onState({ phase: "reconnecting", attempt, retryAtMs, reason });
      timer = setTimeout(open, waitMs);
      if (wasHeard) return;
      void whyRefused().then((found) => {
        reason = found;
        if (!isClosed && attempt === failed) onState({ phase: "reconnecting", attempt, retryAtMs, reason });
      });
    };
  };

  onState({ phase: "connecting" });
  // Not at once: React's strict mode mounts twice, and a socket closed while it opens is a warning in the console.
  timer = setTimeout(open, 0);
  return {
    close: () => {
      isClosed = true;
      clearTimeout(timer);
      socket?.close();
    },
    retryNow: () => {
      if (socket?.readyState === WebSocket.OPEN) return;
      const stale = socket;
      socket = null;
      stale?.close();
      open();
    },
  };
}
