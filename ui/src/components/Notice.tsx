import type { ReactNode } from "react";
import styles from "./Notice.module.css";

interface NoticeProps {
  title: string;
  children?: ReactNode;
  /** What can be done at once: buttons or links. */
  actions?: ReactNode;
  tone?: "plain" | "bad";
}

/** A state that needs words: nothing here yet, something missing, something failed. */
export function Notice({ title, children, actions, tone = "plain" }: NoticeProps) {
  return (
    <section className={styles.notice} data-tone={tone} role={tone === "bad" ? "alert" : undefined} aria-label={title}>
      <p className={styles.title}>{title}</p>
      {children}
      {actions ? <div className={styles.actions}>{actions}</div> : null}
    </section>
  );
}
