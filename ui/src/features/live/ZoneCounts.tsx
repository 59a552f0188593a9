import { type CSSProperties, useMemo } from "react";
import { Tooltip } from "../../components/Tooltip";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import { ZoneTip } from "../../components/ZoneTip";
import { fillFromConfidence, inkFromProbability } from "../../lib/colour";
import { missingOf, type RequestState } from "../../lib/feed";
import { formatCount, formatShare } from "../../lib/format";
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
      {missingOf(request).length > 0 ? (
        <p className={styles.partial}>of the {formatCount(request.num_tokens)} tokens read</p>
      ) : null}
      <dl className={styles.notes}>
        <div>
          <dt>fill: confidence</dt>
          <dd className={styles.fillRamp}>
            {[0, 0.5, 1].map((confidence) => (
              <i key={confidence} style={{ "--share": `${fillFromConfidence(confidence) * 100}%` } as CSSProperties}>
                {formatShare(confidence)}
              </i>
            ))}
          </dd>
        </div>
        <div>
          <dt>ink: attention</dt>
          <dd className={styles.inkRamp}>
            {[0.01, 0.1, 0.5].map((probability) => (
              <i key={probability} style={{ "--share": `${inkFromProbability(probability) * 100}%` } as CSSProperties}>
                {formatShare(probability)}
              </i>
            ))}
          </dd>
        </div>
      </dl>
    </footer>
  );
}
