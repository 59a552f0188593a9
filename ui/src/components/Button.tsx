import type { ButtonHTMLAttributes } from "react";
import styles from "./Button.module.css";

/** A small quiet button; `aria-pressed` shows as pressed. */
export function Button({ className, ...rest }: ButtonHTMLAttributes<HTMLButtonElement>) {
  return <button type="button" className={`${styles.button} ${className ?? ""}`} {...rest} />;
}
