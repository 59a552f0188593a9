import { useQuery } from "@tanstack/react-query";
import { Asked } from "../../components/Asked";
import { Notice } from "../../components/Notice";
import { DataTable, Sheet } from "../../components/Sheet";
import { ViewLink } from "../../components/ViewLink";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import type { CompareAnswer, Run, Share } from "../../lib/answers";
import { fetchComparison, fetchRuns } from "../../lib/discovery-api";
import { formatCount, formatShare } from "../../lib/format";
import { type CompareView, DEFAULT_RUNS } from "../../lib/url-state";
import { goTo } from "../../lib/use-view";
import { isZone } from "../../lib/zones";
import { runsToCompare } from "./choice";

const LISTED_RUNS = 200;

/** Two runs side by side: zone shares with intervals, and the features by effect. */
export function ComparePage({ view }: { view: CompareView }) {
  const runs = useQuery({ queryKey: ["runs", LISTED_RUNS], queryFn: ({ signal }) => fetchRuns(LISTED_RUNS, signal) });
  return (
    <Asked query={runs} label="Loading the runs">
      {(answer) => {
        const available = answer.runs.filter((run) => run.available);
        const pair = runsToCompare(available, view);
        return pair === null ? (
          <Notice title="There are no two runs to compare">
            <p>
              A comparison needs two published runs. <ViewLink to={DEFAULT_RUNS}>See the runs</ViewLink>
            </p>
          </Notice>
        ) : (
          <Compared runs={available} a={pair.a} b={pair.b} />
        );
      }}
    </Asked>
  );
}

function Compared({ runs, a, b }: { runs: readonly Run[]; a: string; b: string }) {
  const query = useQuery({ queryKey: ["compare", a, b], queryFn: ({ signal }) => fetchComparison(a, b, signal) });
  const choose = (side: "a" | "b", runId: string): void =>
    goTo({ page: "compare", a, b, [side]: runId }, { replace: true });
  const controls = (["a", "b"] as const).map((side) => (
    <label key={side}>
      {side}{" "}
      <select value={side === "a" ? a : b} onChange={(event) => choose(side, event.target.value)}>
        {[...new Set([...runs.map((run) => run.run_id), side === "a" ? a : b])].map((runId) => (
          <option key={runId}>{runId}</option>
        ))}
      </select>
    </label>
  ));
  return (
    <Sheet title="Compare" controls={controls}>
      <Asked query={query} label="Comparing">
        {(answer) => <Differences answer={answer} />}
      </Asked>
    </Sheet>
  );
}

function Differences({ answer }: { answer: CompareAnswer }) {
  const { a, b, zones, features } = answer;
  return (
    <>
      <p data-testid="compared">
        a: {formatCount(a.num_fingerprints)} tokens of {formatCount(a.num_requests)} requests; b:{" "}
        {formatCount(b.num_fingerprints)} of {formatCount(b.num_requests)}. Differences are b minus a, with 95%
        intervals.
      </p>
      <h3>Zones</h3>
      <DataTable label="Zone shares with intervals">
        <thead>
          <tr>
            <th scope="col">zone</th>
            <th scope="col">a</th>
            <th scope="col">b</th>
            <th scope="col">b − a, points</th>
          </tr>
        </thead>
        <tbody>
          {zones.map(({ zone, a: shareA, b: shareB, difference, low, high }) => (
            <tr key={zone}>
              <th scope="row">
                <ZoneSwatch zone={isZone(zone) ? zone : null} /> {zone}
              </th>
              <ShareCell share={shareA} />
              <ShareCell share={shareB} />
              <td>
                {signed(100 * difference, 1)}{" "}
                <small>
                  [{signed(100 * low, 1)}, {signed(100 * high, 1)}]
                </small>
              </td>
            </tr>
          ))}
        </tbody>
      </DataTable>
      <h3>Fingerprint features, largest effect first</h3>
      {features.length === 0 ? (
        <p>Too few vectors are still stored: each run needs at least two.</p>
      ) : (
        <DataTable label="Features by effect">
          <thead>
            <tr>
              <th scope="col">feature</th>
              <th scope="col">mean a</th>
              <th scope="col">mean b</th>
              <th scope="col">effect (sd)</th>
            </tr>
          </thead>
          <tbody>
            {features.map(({ name, mean_a, mean_b, effect, low, high }) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td>{mean_a.toFixed(3)}</td>
                <td>{mean_b.toFixed(3)}</td>
                <td>
                  {signed(effect, 2)}{" "}
                  <small>
                    [{signed(low, 2)}, {signed(high, 2)}]
                  </small>
                </td>
              </tr>
            ))}
          </tbody>
        </DataTable>
      )}
    </>
  );
}

function ShareCell({ share: { share, low, high } }: { share: Share }) {
  return (
    <td>
      {formatShare(share)}{" "}
      <small>
        [{formatShare(low)}, {formatShare(high)}]
      </small>
    </td>
  );
}

function signed(value: number, digits: number): string {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : value > 0 && Number(text) !== 0 ? `+${text}` : text;
}
