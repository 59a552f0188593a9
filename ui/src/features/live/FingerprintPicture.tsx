import {
  bars,
  binIsReachable,
  binLabel,
  fingerprintFromVector,
  linePoints,
  maxEntropyNats,
  stack,
} from "../../lib/fingerprint";
import { formatNats, formatShare } from "../../lib/format";
import styles from "./FingerprintPicture.module.css";

interface FingerprintPictureProps {
  vector: readonly number[] | null;
  /** Null where many contexts are averaged. */
  contextLen: number | null;
  title: string;
}

const WIDTH = 340;
const MASS_HEIGHT = 18;
const PLOT_HEIGHT = 64;
const LABEL_HEIGHT = 16;
const VALUE_HEIGHT = 13;
const GAP = 6;

/** The 20 numbers as a picture: three masses, eight distances, eight layers. */
export function FingerprintPicture({ vector, contextLen, title }: FingerprintPictureProps) {
  const fingerprint = fingerprintFromVector(vector);
  if (fingerprint === null) return null;
  const { localMass, midMass, longMass, entropyNats, histogram, layerEntropyNats } = fingerprint;
  const highest = Math.max(entropyNats, ...layerEntropyNats);
  const top = contextLen === null ? Math.ceil(highest) || 1 : Math.max(maxEntropyNats(contextLen), highest, 0.1);
  return (
    <section className={styles.picture} aria-label={title}>
      <h2>{title}</h2>
      <Masses masses={[localMass, midMass, longMass]} />
      <h3>Attention by distance back, in tokens</h3>
      <Histogram histogram={histogram} contextLen={contextLen} />
      <h3>
        Entropy by layer, nats <span className={styles.aside}>all layers together {formatNats(entropyNats)}</span>
      </h3>
      <LayerEntropy values={layerEntropyNats} top={top} isBound={contextLen !== null} />
    </section>
  );
}

const MASS_NAMES = ["local 0–9", "mid 10–99", "long 100+"] as const;

function Masses({ masses }: { masses: readonly number[] }) {
  const spans = stack(masses, WIDTH);
  return (
    <figure>
      <svg viewBox={`0 0 ${WIDTH} ${MASS_HEIGHT}`} role="img">
        <title>{`Masses: ${MASS_NAMES.map((name, k) => `${name} ${formatShare(masses[k] ?? 0)}`).join(", ")}`}</title>
        {spans.map(({ x, width }, k) => (
          <rect key={MASS_NAMES[k]} x={x} y={0} width={Math.max(0, width - 1)} height={MASS_HEIGHT} data-mass={k} />
        ))}
      </svg>
      <figcaption className={styles.masses}>
        {MASS_NAMES.map((name, k) => (
          <span key={name}>
            <i data-mass={k} aria-hidden="true" />
            {name} <b>{formatShare(masses[k] ?? 0)}</b>
          </span>
        ))}
      </figcaption>
    </figure>
  );
}

function Histogram({ histogram, contextLen }: { histogram: readonly number[]; contextLen: number | null }) {
  const top = Math.max(0.25, ...histogram);
  const boxes = bars(histogram, { width: WIDTH, height: PLOT_HEIGHT, gap: GAP, top });
  return (
    <svg
      viewBox={`0 0 ${WIDTH} ${VALUE_HEIGHT + PLOT_HEIGHT + LABEL_HEIGHT}`}
      role="img"
      className={styles.plot}
      data-testid="histogram"
    >
      <title>{histogram.map((mass, bin) => `${binLabel(bin)}: ${formatShare(mass)}`).join(", ")}</title>
      {boxes.map((box, bin) => {
        const centre = box.x + box.width / 2;
        const mass = histogram[bin] ?? 0;
        const isReachable = binIsReachable(bin, contextLen);
        return (
          <g key={binLabel(bin)} className={isReachable ? undefined : styles.beyond}>
            <rect {...box} y={VALUE_HEIGHT + box.y} className={styles.column} />
            <line x1={box.x} x2={box.x + box.width} y1={VALUE_HEIGHT + PLOT_HEIGHT} y2={VALUE_HEIGHT + PLOT_HEIGHT} />
            <text x={centre} y={VALUE_HEIGHT + box.y - 3}>
              {isReachable ? formatShare(mass) : "–"}
            </text>
            <text x={centre} y={VALUE_HEIGHT + PLOT_HEIGHT + 12} className={styles.axis}>
              {binLabel(bin)}
            </text>
          </g>
        );
      })}
    </svg>
  );
}

function LayerEntropy({ values, top, isBound }: { values: readonly number[]; top: number; isBound: boolean }) {
  const points = linePoints(values, { width: WIDTH, height: PLOT_HEIGHT, top });
  const y = (point: { y: number }): number => VALUE_HEIGHT + point.y;
  return (
    <svg viewBox={`0 0 ${WIDTH} ${VALUE_HEIGHT + PLOT_HEIGHT + LABEL_HEIGHT}`} role="img" className={styles.plot}>
      <title>{`Entropy of 8 layers, shallow to deep, in nats: ${values.map(formatNats).join(", ")}`}</title>
      <line x1={0} x2={WIDTH} y1={VALUE_HEIGHT} y2={VALUE_HEIGHT} className={styles.bound} />
      <text x={WIDTH} y={VALUE_HEIGHT - 3} className={styles.axisEnd}>
        {isBound ? `at most ln n = ${formatNats(top)}` : formatNats(top)}
      </text>
      <line x1={0} x2={WIDTH} y1={VALUE_HEIGHT + PLOT_HEIGHT} y2={VALUE_HEIGHT + PLOT_HEIGHT} />
      <polyline points={points.map((point) => `${point.x},${y(point)}`).join(" ")} className={styles.line} />
      {points.map((point, k) => (
        <g key={k}>
          <circle cx={point.x} cy={y(point)} r={2.5} className={styles.dot} />
          <text x={point.x} y={y(point) < VALUE_HEIGHT + 14 ? y(point) + 13 : y(point) - 6}>
            {formatNats(values[k] ?? 0)}
          </text>
        </g>
      ))}
      <text x={0} y={VALUE_HEIGHT + PLOT_HEIGHT + 12} className={styles.axisStart}>
        shallow
      </text>
      <text x={WIDTH} y={VALUE_HEIGHT + PLOT_HEIGHT + 12} className={styles.axisEnd}>
        deep
      </text>
    </svg>
  );
}
