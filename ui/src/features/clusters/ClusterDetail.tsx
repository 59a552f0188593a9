import { useQuery } from "@tanstack/react-query";
import { Asked } from "../../components/Asked";
import { DataTable } from "../../components/Sheet";
import { ViewLink } from "../../components/ViewLink";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import type { ClusterAnswer, ExemplarInText, TypicalFingerprint, ZoneEvidence } from "../../lib/answers";
import { fetchCluster } from "../../lib/discovery-api";
import { formatCount } from "../../lib/format";
import { CHARACTERISTIC_WORDS, isZone } from "../../lib/zones";
import styles from "./ClusterDetail.module.css";
import { evidenceRows, lineageText } from "./lineage-text";

/** One cluster in full. */
export function ClusterDetail({ clusterId, run }: { clusterId: number; run: string | null }) {
  const query = useQuery({
    queryKey: ["cluster-table", run, clusterId],
    queryFn: ({ signal }) => fetchCluster(clusterId, run, signal),
  });
  return (
    <Asked query={query} label="Loading the cluster">
      {(answer) => <Loaded answer={answer} />}
    </Asked>
  );
}

function Loaded({ answer }: { answer: ClusterAnswer }) {
  const { cluster, zones, typical, exemplars } = answer;
  return (
    <article className={styles.detail} data-testid="cluster-detail" aria-label={cluster.cluster_label}>
      <h3 className={styles.name}>
        {cluster.cluster_label} · {formatCount(cluster.size)} tokens · {lineageText(cluster.lineage)}
      </h3>
      <section className={styles.part}>
        <h3>Exemplars in their text</h3>
        <ul className={styles.exemplars}>
          {exemplars.map((one) => (
            <Exemplar key={`${one.request_id}/${one.step}`} exemplar={one} />
          ))}
        </ul>
      </section>
      <section className={styles.part}>
        <h3>Zones by score</h3>
        {zones.length === 0 ? <p>This database has no record of the run, so the scores are not available.</p> : null}
        {zones.length > 0 ? <Zones zones={zones} /> : null}
      </section>
      <section className={styles.part}>
        <h3>Typical fingerprint</h3>
        {typical === null ? <p>The run holds no prototypes of this cluster.</p> : <Typical typical={typical} />}
      </section>
    </article>
  );
}

function Exemplar({ exemplar }: { exemplar: ExemplarInText }) {
  const { request_id, step, token, text_before, text_after } = exemplar;
  return (
    <li>
      {token === null ? (
        <span className={styles.quiet}>no longer stored</span>
      ) : token.token_text === null ? (
        <span className={styles.quiet}>text not stored</span>
      ) : (
        <span className={styles.text}>
          {text_before?.trimStart()}
          <mark>{token.token_text}</mark>
          {text_after}
        </span>
      )}{" "}
      {token === null ? null : <ViewLink to={{ page: "live", requestId: request_id, step }}>open step {step}</ViewLink>}
    </li>
  );
}

function Zones({ zones }: { zones: readonly ZoneEvidence[] }) {
  const best = zones[0];
  return (
    <>
      <DataTable label="Zones by score">
        <thead>
          <tr>
            <th scope="col">zone</th>
            <th scope="col">score</th>
            <th scope="col">margin</th>
          </tr>
        </thead>
        <tbody>
          {zones.map(({ zone, score, margin }) => (
            <tr key={zone}>
              <th scope="row">
                <ZoneSwatch zone={isZone(zone) ? zone : null} /> {zone}
              </th>
              <td>{score.toFixed(3)}</td>
              <td>{margin.toFixed(3)}</td>
            </tr>
          ))}
        </tbody>
      </DataTable>
      {best === undefined ? null : (
        <dl className={styles.evidence} aria-label={`Evidence for ${best.zone}`}>
          {evidenceRows(best.evidence).map(({ name, mean, usual, lift }) => (
            <div key={name}>
              <dt>{CHARACTERISTIC_WORDS[name] ?? name}</dt>
              <dd>
                {mean.toFixed(2)}
                {usual === null ? "" : `, usual ${usual.toFixed(2)}`} ({lift > 0 ? "+" : ""}
                {lift.toFixed(1)} spreads)
              </dd>
            </div>
          ))}
        </dl>
      )}
    </>
  );
}

function Typical({ typical }: { typical: TypicalFingerprint }) {
  const { names, p10, p50, p90, num_prototypes } = typical;
  // Entropies are in nats, everything else is a share: each has its own scale.
  const topNats = Math.max(1, ...names.map((name, k) => (name.includes("entropy") ? (p90[k] ?? 0) : 0)));
  const percent = (name: string, value: number): number => (100 * value) / (name.includes("entropy") ? topNats : 1);
  return (
    <>
      <DataTable label="Typical fingerprint with its spread">
        <thead>
          <tr>
            <th scope="col">feature</th>
            <th scope="col" data-text>
              10% to 90%, median marked
            </th>
            <th scope="col">10%</th>
            <th scope="col">median</th>
            <th scope="col">90%</th>
          </tr>
        </thead>
        <tbody>
          {names.map((name, k) => {
            const [low, mid, high] = [p10[k] ?? 0, p50[k] ?? 0, p90[k] ?? 0];
            return (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td>
                  <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" className={styles.spread}>
                    <rect x={percent(name, low)} y={3} width={percent(name, high - low)} height={4} />
                    <rect x={Math.min(99, percent(name, mid))} y={0} width={1} height={10} className={styles.median} />
                  </svg>
                </td>
                <td>{low.toFixed(2)}</td>
                <td>{mid.toFixed(2)}</td>
                <td>{high.toFixed(2)}</td>
              </tr>
            );
          })}
        </tbody>
      </DataTable>
      <p className={styles.quiet}>
        Over {formatCount(num_prototypes)} prototypes. Masses and histogram on 0 to 1, entropies on 0 to{" "}
        {topNats.toFixed(1)} nats.
      </p>
    </>
  );
}
