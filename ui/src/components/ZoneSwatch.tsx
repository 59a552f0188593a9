import type { Zone } from "../lib/zones";
import styles from "./ZoneSwatch.module.css";

/** A zone's colour together with its line: colour is never the only sign. */
export function ZoneSwatch({ zone }: { zone: Zone | null }) {
  return <span className={styles.swatch} data-zone={zone ?? "none"} aria-hidden="true" />;
}
