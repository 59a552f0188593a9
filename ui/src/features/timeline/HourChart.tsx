import { ViewLink } from "../../components/ViewLink";
import type { ModelHour } from "../../lib/answers";
import { formatCount, formatShare } from "../../lib/format";
import { type ColourBy, DEFAULT_MAP } from "../../lib/url-state";
import styles from "./HourChart.module.css";
import { hourSlots, sharesOf } from "./hours";

interface HourChartProps {
  hours: readonly ModelHour[];
  by: ColourBy;
  keys: readonly string[];
  name: (key: string) => string;
  colour: (key: string) => string;
}

/** Each hour's tokens as a stack of shares; an hour without tokens keeps its place. Every stack leads to its map. */
export function HourChart({ hours, by, keys, name, colour }: HourChartProps) {
  return (
    <figure className={styles.figure}>
      <ul className={styles.legend} aria-label="Colours">
        {keys.map((key) => (
          <li key={key}>
            <i style={{ background: colour(key) }} /> {name(key)}
          </li>
        ))}
      </ul>
      <div className={styles.plot}>
        <div className={styles.axis} aria-hidden="true">
          <span>100%</span>
          <span>50%</span>
          <span>0%</span>
        </div>
        <ol className={styles.hours} data-testid="hours">
          {hourSlots(hours).map(({ hourUtc, hour }) => (
            <li key={hourUtc} data-empty={hour === null}>
              {hour === null ? (
                <span className={styles.stack} title={`${hourUtc.slice(11, 16)}: no token`} />
              ) : (
                <Stack hour={hour} by={by} keys={keys} name={name} colour={colour} />
              )}
              <span className={styles.label}>{hourUtc.slice(11, 13)}</span>
            </li>
          ))}
        </ol>
      </div>
      <figcaption className={styles.caption}>
        Shares of each hour's tokens, as classified on arrival (UTC). Select a bar to open the map of its hour. A dashed
        outline is an hour without tokens.
      </figcaption>
    </figure>
  );
}

function Stack({ hour, by, keys, name, colour }: Omit<HourChartProps, "hours"> & { hour: ModelHour }) {
  const shares = sharesOf(hour, by);
  const said = keys.map((key) => `${name(key)} ${formatShare(shares.get(key) ?? 0)}`).join(", ");
  return (
    <ViewLink to={{ ...DEFAULT_MAP, hour: hour.hour_utc, colourBy: by }}>
      <span className={styles.stack} title={`${formatCount(hour.num_fingerprints)} tokens: ${said}`}>
        <span className="visually-hidden">
          {hour.hour_utc.slice(11, 16)}, {formatCount(hour.num_fingerprints)} tokens: {said}
        </span>
        {keys.map((key) => (
          <i key={key} style={{ height: `${100 * (shares.get(key) ?? 0)}%`, background: colour(key) }} />
        ))}
      </span>
    </ViewLink>
  );
}
