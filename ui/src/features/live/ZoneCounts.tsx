import { useMemo } from "react";
import { Tooltip } from "../../components/Tooltip";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import { ZoneTip } from "../../components/ZoneTip";
import type { RequestState } from "../../lib/feed";
import { ZONES } from "../../lib/zones";
import { zoneCounts } from "./answer-figures";
import styles from "./ZoneCounts.module.css";

/** The legend of the flow: the zones with their count in this answer, and what the ink means. */
export function ZoneCounts({ request }: { request: RequestState }) {
  const counts = useMemo(() => zoneCounts(request), [request]);
  return (
    <footer className={styles.legend}>
      <ul className={styles.zones} aria-label="Zones in this answer">
        {ZONES.map((zone) => (
          <li key={zone}>
            <Tooltip content={<ZoneTip zone={zone} />}>
              {(describedBy) => (
                <button type="button" className={styles.zone} aria-describedby={describedBy}>
                  <ZoneSwatch zone={zone} />
                  {zone}
                  <span className={styles.count}>{counts[zone]}</span>
                </button>
              )}
            </Tooltip>
          </li>
        ))}
      </ul>
      <p className={styles.note}>
        stronger fill: surer
        <span className={styles.ramp} aria-hidden="true">
          <i>1%</i>
          <i>10%</i>
          <i>50%</i>
        </span>
        attended
      </p>
    </footer>
  );
}
