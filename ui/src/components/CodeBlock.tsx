import { useState } from "react";
import styles from "./CodeBlock.module.css";

/** Commands to take away. */
export function CodeBlock({ label, code }: { label: string; code: string }) {
  const [wasCopied, setWasCopied] = useState(false);
  return (
    <figure className={styles.block}>
      <figcaption className={styles.bar}>
        {label}
        {/* The clipboard needs a secure context; over plain HTTP from another host the text can still be selected. */}
        {navigator.clipboard ? (
          <button
            type="button"
            onClick={() => {
              navigator.clipboard.writeText(code).then(
                () => setWasCopied(true),
                () => setWasCopied(false),
              );
            }}
          >
            {wasCopied ? "Copied" : "Copy"}
          </button>
        ) : null}
      </figcaption>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <pre tabIndex={0}>{code}</pre>
    </figure>
  );
}
