/** The feed held outside React: messages gather until the next animation frame, then the page hears of them once. */

import { whyNotLive } from "./api";
import { type Connection, type ConnectionState, connect } from "./connection";
import { afterMessages, EMPTY_FEED, type Feed, withRequestDetail, withRequestList } from "./feed";
import type { FeedMessage, RequestDetail, RequestInfo } from "./wire";

/** A hidden page gets no animation frames; its messages are still taken in at this pace. */
const HIDDEN_FLUSH_MS = 500;

export class FeedStore {
  #feed: Feed = EMPTY_FEED;
  #connectionState: ConnectionState = { phase: "connecting" };
  #waiting: FeedMessage[] = [];
  #isFlushDue = false;
  #listeners = new Set<() => void>();
  #connection: Connection | null = null;
  /** Cursor of what waits too, so that a reconnect between frames asks for nothing twice. */
  #receivedCursor: number | null = null;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };
  readonly feed = (): Feed => this.#feed;
  readonly connectionState = (): ConnectionState => this.#connectionState;

  /** Connects to the sidecar that served the page; the answer disconnects. */
  start(origin: string): () => void {
    const connection = connect({
      origin,
      cursor: () => this.#receivedCursor,
      whyRefused: whyNotLive,
      onMessage: (message) => this.receive(message),
      onState: (state) => {
        this.#connectionState = state;
        this.#tell();
      },
    });
    this.#connection = connection;
    return () => connection.close();
  }

  retryNow(): void {
    this.#connection?.retryNow();
  }

  receive(message: FeedMessage): void {
    if (message.kind === "tokens" || message.kind === "gap")
      this.#receivedCursor = Math.max(this.#receivedCursor ?? 0, message.cursor);
    if (message.kind === "hello") {
      const held = this.#receivedCursor;
      this.#receivedCursor = held === null || message.cursor < held ? message.cursor : held;
    }
    this.#waiting.push(message);
    if (this.#isFlushDue) return;
    this.#isFlushDue = true;
    if (document.hidden) setTimeout(() => this.#flush(), HIDDEN_FLUSH_MS);
    else requestAnimationFrame(() => this.#flush());
  }

  fillInList(list: readonly RequestInfo[]): void {
    this.#feed = withRequestList(this.#feed, list);
    this.#tell();
  }

  fillInDetail(detail: RequestDetail): void {
    this.#feed = withRequestDetail(this.#feed, detail);
    this.#tell();
  }

  #flush(): void {
    this.#isFlushDue = false;
    const messages = this.#waiting;
    this.#waiting = [];
    this.#feed = afterMessages(this.#feed, messages);
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}
