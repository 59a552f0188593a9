import styles from "./Skeleton.module.css";

/** What stands where data is on its way. */
export function Skeleton({ label, rows = 4 }: { label: string; rows?: number }) {
  return (
    <div className={styles.skeleton} role="status">
      <span className="visually-hidden">{label}</span>
      {Array.from({ length: rows }, (_, row) => (
        <span key={row} style={{ width: `${92 - ((row * 37) % 45)}%` }} aria-hidden="true" />
      ))}
    </div>
  );
}
