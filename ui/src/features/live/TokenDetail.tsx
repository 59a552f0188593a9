import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { Button } from "../../components/Button";
import { Tooltip } from "../../components/Tooltip";
import { ZoneSwatch } from "../../components/ZoneSwatch";
import { ZoneTip } from "../../components/ZoneTip";
import { fetchPlace } from "../../lib/api";
import { type RequestState, tokenAt } from "../../lib/feed";
import { type Attended, attendedPositions } from "../../lib/fingerprint";
import { formatCount, formatShare } from "../../lib/format";
import { tokenLabel } from "../../lib/token-text";
import { DEFAULT_MAP } from "../../lib/url-state";
import { goTo } from "../../lib/use-view";
import type { Token } from "../../lib/wire";
import { CHARACTERISTIC_WORDS } from "../../lib/zones";
import { ContextStrip } from "./ContextStrip";
import { FingerprintPicture } from "./FingerprintPicture";
import { ASK_FOR_TOP_K } from "./how-to-ask";
import { placeOfPosition, textAtPosition } from "./request-text";
import styles from "./TokenDetail.module.css";

const FIRST_ROWS = 8;

interface TokenDetailProps {
  request: RequestState;
  token: Token;
  isPinned: boolean;
  onUnpin: () => void;
  onFlash: (position: number | null) => void;
}

/** One output token: its zone, what it looked back at, its fingerprint. */
export function TokenDetail({ request, token, isPinned, onUnpin, onFlash }: TokenDetailProps) {
  return (
    <div className={styles.detail} data-testid="token-detail" data-step={token.step}>
      <header className={styles.head}>
        <code className={styles.name}>{tokenLabel(token.token_text, token.token_id)}</code>
        {isPinned ? <Button onClick={onUnpin}>Unpin</Button> : null}
        <span className={styles.place}>
          token {formatCount(token.step)}
          {token.context_len !== null ? `, looking back over ${formatCount(token.context_len)} positions` : ""}
        </span>
      </header>
      <ZoneLine token={token} />
      <LookedAt request={request} token={token} onFlash={onFlash} />
      <PlaceOnMap key={`${token.request_id}/${token.step}`} token={token} />
      <FingerprintPicture vector={token.vector} contextLen={token.context_len} title="Fingerprint" />
      <section className={styles.section}>
        <h2>Beside it</h2>
        <dl className={styles.facts}>
          <Fact name="sink_mass" value={token.sink_mass} says="Attention on positions 0 to 3, the attention sink" />
          <Fact name="prompt_mass" value={token.prompt_mass} says="Attention on the prompt beyond the sink" />
          <Fact
            name="periodicity"
            value={token.periodicity}
            says="Strength of the strongest period in the attended positions, 0 to 1"
          />
          <div title="Positions attended over, n">
            <dt>context_len</dt>
            <dd>{token.context_len === null ? "–" : formatCount(token.context_len)}</dd>
          </div>
        </dl>
      </section>
    </div>
  );
}

/** Where the token falls on the served map: asked for when wanted, since few tokens are. */
function PlaceOnMap({ token }: { token: Token }) {
  const place = useMutation({
    mutationFn: () => fetchPlace(token),
    onSuccess: (found) => {
      if (found !== null) goTo({ ...DEFAULT_MAP, colourBy: "cluster", at: { x: found.x, y: found.y } });
    },
  });
  if (token.vector === null) return null;
  return (
    <p className={styles.hint}>
      <Button onClick={() => place.mutate()}>Show on the map</Button> {place.isError ? place.error.message : null}
      {place.isSuccess && place.data === null ? "There is no map yet: run discovery first." : null}
    </p>
  );
}

function ZoneLine({ token }: { token: Token }) {
  const { zone, confidence, characteristic, cluster_id } = token;
  return (
    <>
      <p className={styles.zone}>
        <ZoneSwatch zone={zone} />
        {zone === null ? (
          "not classified"
        ) : (
          <Tooltip content={<ZoneTip zone={zone} />}>
            {(describedBy) => (
              <button type="button" className={styles.term} aria-describedby={describedBy}>
                {zone}
              </button>
            )}
          </Tooltip>
        )}
        <span title="How often other heads of the model would give the same zone">
          {confidence === null ? "" : `${formatShare(confidence)} confident`}
        </span>
        <span>{cluster_id === null || cluster_id < 0 ? "no cluster" : `Cluster ${cluster_id}`}</span>
      </p>
      {characteristic === null ? null : (
        <p className={styles.because} data-testid="characteristic">
          because, beyond the sink: {CHARACTERISTIC_WORDS[characteristic.name] ?? characteristic.name}{" "}
          {characteristic.value.toFixed(2)}, usual at this length {characteristic.usual.toFixed(2)}
        </p>
      )}
    </>
  );
}

function Fact({ name, value, says }: { name: string; value: number | null; says: string }) {
  return (
    <div title={says}>
      <dt>{name}</dt>
      <dd>{value === null ? "–" : value.toFixed(3)}</dd>
    </div>
  );
}

interface LookedAtProps {
  request: RequestState;
  token: Token;
  onFlash: (position: number | null) => void;
}

function LookedAt({ request, token, onFlash }: LookedAtProps) {
  const [showsAll, setShowsAll] = useState(false);
  const { topk_positions, topk_probs, context_len, residual_mass } = token;
  if (topk_positions === null || topk_probs === null || context_len === null) {
    return (
      <section className={styles.section}>
        <h2>Looked back at</h2>
        <p className={styles.hint}>
          This request did not ask for its attended positions, so only the fingerprint was kept. Ask with{" "}
          <code>{ASK_FOR_TOP_K}</code>.
        </p>
      </section>
    );
  }
  const attended = attendedPositions(topk_positions, topk_probs, context_len);
  const rows = showsAll ? attended : attended.slice(0, FIRST_ROWS);
  const unlisted = attended.slice(rows.length).reduce((sum, { probability }) => sum + probability, 0);
  const top = attended[0]?.probability ?? 1;
  return (
    <section className={styles.section}>
      <h2>Looked back at</h2>
      <ContextStrip attended={attended} contextLen={context_len} promptLen={request.prompt_len} />
      <table className={styles.table}>
        <thead>
          <tr>
            <th scope="col">token</th>
            <th scope="col">in</th>
            <th scope="col">back</th>
            <th scope="col">probability</th>
          </tr>
        </thead>
        <tbody onPointerLeave={() => onFlash(null)}>
          {rows.map((item) => (
            <AttendedRow key={item.position} item={item} request={request} top={top} onFlash={onFlash} />
          ))}
        </tbody>
        <tfoot>
          {unlisted > 0 ? (
            <tr>
              <td colSpan={3}>
                <button type="button" className={styles.more} onClick={() => setShowsAll(true)}>
                  {attended.length - rows.length} more positions
                </button>
              </td>
              <td>{formatShare(unlisted)}</td>
            </tr>
          ) : null}
          <tr data-testid="residual">
            <td colSpan={3}>everywhere else, not shown</td>
            <td>{residual_mass === null ? "–" : formatShare(residual_mass)}</td>
          </tr>
        </tfoot>
      </table>
    </section>
  );
}

interface AttendedRowProps {
  item: Attended;
  request: RequestState;
  top: number;
  onFlash: (position: number | null) => void;
}

function AttendedRow({ item, request, top, onFlash }: AttendedRowProps) {
  const text = textAtPosition(item.position, request, (step) => tokenAt(request, step)?.token_text ?? null);
  return (
    <tr onPointerEnter={() => onFlash(item.position)}>
      <td>
        <button
          type="button"
          className={styles.attended}
          onFocus={() => onFlash(item.position)}
          onBlur={() => onFlash(null)}
          onClick={() => onFlash(item.position)}
          title={`Position ${item.position}`}
        >
          {text === null ? `position ${item.position}` : tokenLabel(text)}
        </button>
      </td>
      <td>{item.isSink ? "sink" : placeOfPosition(item.position, request)}</td>
      <td>{formatCount(item.distance)}</td>
      <td>
        <span className={styles.bar} style={{ width: `${(item.probability / top) * 100}%` }} aria-hidden="true" />
        {formatShare(item.probability)}
      </td>
    </tr>
  );
}
