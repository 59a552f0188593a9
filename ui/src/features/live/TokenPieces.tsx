import { piecesOfToken } from "../../lib/token-text";
import styles from "./TokenPieces.module.css";

interface TokenPiecesProps {
  text: string | null;
  tokenId: number | null;
  /** Newlines are marked but do not break the line. */
  isInline?: boolean;
}

/** A token's text with its whitespace visible. The marks are drawn by the style sheet, so that copied text is the model's. */
export function TokenPieces({ text, tokenId, isInline = false }: TokenPiecesProps) {
  const pieces = piecesOfToken(text, tokenId);
  const only = pieces[0];
  if (pieces.length === 1 && only?.kind === "text") return only.text;
  return pieces.map((piece, k) => (
    <span key={k} className={styles[piece.kind]}>
      {piece.kind === "newline" && isInline ? "" : piece.text}
    </span>
  ));
}
