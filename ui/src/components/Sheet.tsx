import type { ReactNode } from "react";
import styles from "./Sheet.module.css";

/** A view that is read from top to bottom: its name, its controls, its parts. */
export function Sheet({ title, controls, children }: { title: string; controls?: ReactNode; children: ReactNode }) {
  return (
    <div className={styles.sheet}>
      <div className={styles.head}>
        <h2 className={styles.title}>{title}</h2>
        {controls}
      </div>
      {children}
    </div>
  );
}

/** A table that scrolls sideways by itself where the window is narrow. */
export function DataTable({ label, children }: { label: string; children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <section className={styles.scroll} aria-label={label} tabIndex={0}>
      <table className={styles.table}>{children}</table>
    </section>
  );
}
