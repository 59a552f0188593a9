/** The bearer token that a sidecar may ask for: kept for this tab alone, and gone with it. */

const KEY = "attention-explorer-token";
/** Offered beside the token, so that the sidecar's answer need not repeat it. */
const SUBPROTOCOL = "attention-explorer";
/** What a header and a WebSocket's subprotocol can carry; the sidecar takes no other token. */
const TOKEN = /^[\w.~+-]+$/;

let held: string | null | undefined;
let isWanted = false;
const listeners = new Set<() => void>();

function tell(): void {
  for (const listener of listeners) listener();
}

/** Null where none was given. Without session storage (blocked, or no browser) it lasts as long as the page. */
export function heldToken(): string | null {
  if (held === undefined) {
    try {
      held = sessionStorage.getItem(KEY);
    } catch {
      held = null;
    }
  }
  return held;
}

/** Keeps a token from here on; false, and nothing kept, where no sidecar would take it. */
export function keepToken(text: string): boolean {
  const token = text.trim();
  if (!TOKEN.test(token)) return false;
  held = token;
  isWanted = false;
  try {
    sessionStorage.setItem(KEY, token);
  } catch {
    // Kept for the page then.
  }
  tell();
  return true;
}

/** The sidecar answered 401: there is no token, or not the right one. */
export function wantToken(): void {
  if (isWanted) return;
  isWanted = true;
  tell();
}

export function isTokenWanted(): boolean {
  return isWanted;
}

export function subscribeToToken(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function authorization(): Record<string, string> {
  const token = heldToken();
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

/** A browser's WebSocket can set no header; the token travels as a subprotocol. */
export function subprotocols(): string[] {
  const token = heldToken();
  return token === null ? [] : [SUBPROTOCOL, `bearer.${token}`];
}
