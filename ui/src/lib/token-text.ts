/** How a token's text is shown: whitespace made visible, special and missing text said. */

export type Piece =
  | { kind: "text"; text: string }
  | { kind: "spaces"; text: string }
  | { kind: "newline"; text: string }
  | { kind: "tab"; text: string }
  | { kind: "special"; text: string }
  | { kind: "part"; text: "" }
  | { kind: "missing"; text: string };

const SPECIAL = /^<\|[^|<>]{1,40}\|>$|^<\/?s>$/;
const RUNS = /\r\n|\n|\r|\t| +|[^\n\r\t ]+/g;

/**
 * The pieces of a token, in order; their texts joined give the token's text. A single space beside a word stays part of the
 * text (its ground shows it); runs of spaces, and tokens of nothing but spaces, are drawn as dots.
 */
export function piecesOfToken(text: string | null, tokenId: number | null): Piece[] {
  if (text === null) return [{ kind: "missing", text: tokenId === null ? "no text" : `#${tokenId}` }];
  // Part of a character that a later token completes and shows whole, or a token without text.
  if (text === "") return [{ kind: "part", text: "" }];
  if (SPECIAL.test(text)) return [{ kind: "special", text }];
  const isOnlySpaces = /^ +$/.test(text);
  const pieces: Piece[] = [];
  for (const [run] of text.matchAll(RUNS)) {
    const last = pieces.at(-1);
    if (run === "\n" || run === "\r" || run === "\r\n") pieces.push({ kind: "newline", text: run });
    else if (run === "\t") pieces.push({ kind: "tab", text: run });
    else if (/^ +$/.test(run) && (isOnlySpaces || run.length > 1)) pieces.push({ kind: "spaces", text: run });
    else if (last?.kind === "text") last.text += run;
    else pieces.push({ kind: "text", text: run });
  }
  return pieces;
}

/** A token on one line, for lists and labels: "␣the", "⏎", "⇥". */
export function tokenLabel(text: string | null, tokenId: number | null = null): string {
  if (text === null || text === "") return tokenId === null ? "(no text)" : `#${tokenId}`;
  return text
    .replace(/\r\n|\n|\r/g, "⏎")
    .replace(/\t/g, "⇥")
    .replace(/ /g, "␣");
}

/** A token as a screen reader should say it. */
export function spokenToken(text: string | null, tokenId: number | null = null): string {
  if (text === "") return "part of a character";
  if (text === null) return tokenId === null ? "token without text" : `token number ${tokenId}`;
  const words = text.replace(/\r\n|\n|\r/g, " newline ").replace(/\t/g, " tab ");
  return words.trim() === "" ? `${text.length} space${text.length === 1 ? "" : "s"}` : words.trim();
}
