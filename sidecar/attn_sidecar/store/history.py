"""Questions over many rows: hours, discovery runs, and samples of tokens to compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from attn_core.fingerprint import DIM
from attn_core.store import HOUR_US
from attn_core.zones import ZONES
from attn_sidecar.admission import LATEST_INSTANT_US
from attn_sidecar.store.reader import QUERY_S, Reader
from attn_sidecar.store.records import TEXTS_DECODER, Token, read_json

_OBJECT = msgspec.json.Decoder(dict[str, Any])

_WORDS_BEFORE, _WORDS_AFTER = 16, 6
_RUN_COLUMNS = (
    "run_id, status, started_at_us, ended_at_us, window_start_us, window_end_us, num_fingerprints, num_clusters, "
    "noise_share, parameters, metrics, error"
)


class HourCount(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one hour, model, zone and cluster."""

    hour_us: int
    model_id: str | None
    zone: str | None
    cluster_id: int | None
    num_fingerprints: int
    sum_confidence: float


def captured_range(reader: Reader) -> tuple[int, int] | None:
    """The first and the last instant of capture in the store, None where it is empty.

    What lies outside all instants was written by a foreign hand, and is in no hour.
    """
    bound = "FROM tokens WHERE captured_at_us >= 0 AND captured_at_us <= ?1"
    sql = f"SELECT (SELECT min(captured_at_us) {bound}), (SELECT max(captured_at_us) {bound})"
    first, last = reader.rows(sql, LATEST_INSTANT_US)[0]
    return None if first is None else (int(str(first)), int(str(last)))


def hour_counts(reader: Reader, *, from_us: int, to_us: int) -> list[HourCount]:
    """Tokens captured in [from_us, to_us), counted in one pass over the index of capture instants."""
    sql = """
        SELECT t.hour_us, m.label, z.label, t.cluster_id, t.num, t.confidence FROM (
            SELECT captured_at_us / ?1 * ?1 AS hour_us, model_no, zone_no, cluster_id, count(*) AS num,
                total(zone_confidence) AS confidence
            FROM tokens WHERE captured_at_us >= ?2 AND captured_at_us < ?3
            GROUP BY 1, 2, 3, 4
        ) AS t
        LEFT JOIN labels m ON m.label_no = t.model_no LEFT JOIN labels z ON z.label_no = t.zone_no
        ORDER BY t.hour_us, m.label, z.label, t.cluster_id
    """
    rows = reader.rows(sql, HOUR_US, from_us, to_us, within_s=QUERY_S)
    return [HourCount(**dict(zip(HourCount.__struct_fields__, row, strict=True))) for row in rows]  # type: ignore[arg-type]


def recorded_runs(reader: Reader, *, run_id: str | None = None) -> dict[str, dict[str, Any]]:
    """Rows of `discovery_runs` by run id: all of them, or this one where it was recorded."""
    where, values = ("", ()) if run_id is None else ("WHERE run_id = ?", (run_id,))
    found: dict[str, dict[str, Any]] = {}
    for row in reader.rows(f"SELECT {_RUN_COLUMNS} FROM discovery_runs {where}", *values):  # noqa: S608 - ours
        run: dict[str, Any] = dict(zip(_RUN_COLUMNS.split(", "), row, strict=True))
        for name in ("parameters", "metrics"):
            run[name] = read_json(run[name], _OBJECT) if run[name] is not None else None
        found[run["run_id"]] = run
    return found


def zone_labels(reader: Reader, *, run_id: str, cluster_id: int) -> list[dict[str, Any]]:
    """Score, margin and evidence of each zone for one cluster, best first; none where the run was not recorded here."""
    sql = (
        "SELECT zone, score, margin, evidence FROM zone_labels WHERE run_id = ? AND cluster_id = ? ORDER BY score DESC"
    )
    return [
        {"zone": zone, "score": score, "margin": margin, "evidence": read_json(str(evidence), _OBJECT) or {}}
        for zone, score, margin, evidence in reader.rows(sql, run_id, cluster_id)
    ]


@dataclass(frozen=True, kw_only=True)
class TokenInText:
    """A token, and the text around it where that is known."""

    token: Token
    text_before: str | None
    text_after: str | None


def token_in_text(reader: Reader, *, request_id: str, step: int) -> TokenInText | None:
    """One token with the words before it (of the answer, then of the prompt) and after it; None where it is gone."""
    condition = "request_id = ? AND step BETWEEN ? AND ? ORDER BY step"
    near = reader.tokens(condition, request_id, step - _WORDS_BEFORE, step + _WORDS_AFTER)
    token = next((one for one in near if one.step == step), None)
    if token is None:
        return None
    before = [one.token_text or "" for one in near if one.step < step]
    after = [one.token_text or "" for one in near if one.step > step]
    prompt: list[str] = []
    if len(before) < _WORDS_BEFORE:
        held = reader.rows("SELECT prompt_token_texts FROM requests WHERE request_id = ?", request_id)
        texts = (read_json(str(held[0][0]), TEXTS_DECODER) if held and held[0][0] is not None else None) or []
        prompt = texts[max(0, len(texts) - (_WORDS_BEFORE - len(before))) :]
    known = token.token_text is not None
    return TokenInText(
        token=token,
        text_before="".join([*prompt, *before]) if known else None,
        text_after="".join(after) if known else None,
    )


@dataclass(frozen=True, kw_only=True)
class TokenSample:
    """Tokens to compare: all that fit, or every k-th of them."""

    num_fingerprints: int
    """In the range, before the sampling and whatever their model."""
    every: int
    """1 where all were read."""
    request_no: npt.NDArray[np.int64]
    zone_codes: npt.NDArray[np.int8]
    """Index into `ZONES`, -1 where unknown: [m]."""
    cluster_ids: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.float32]
    """[m, 20]."""


def token_sample(
    reader: Reader, *, from_us: int | None, to_us: int | None, model_id: str | None, most: int
) -> TokenSample:
    """At most `most` tokens captured in [from_us, to_us) (None: no bound) by this model (None: any)."""
    low, high = 0 if from_us is None else from_us, 2**62 if to_us is None else to_us
    counted = reader.rows(
        "SELECT count(*) FROM tokens WHERE captured_at_us >= ? AND captured_at_us < ?", low, high, within_s=QUERY_S
    )
    num = int(str(counted[0][0]))
    every = max(1, -(-num // most))
    sql = """
        SELECT request_no, zone_no, coalesce(cluster_id, -1), vector FROM tokens
        WHERE captured_at_us >= ?1 AND captured_at_us < ?2 AND id % ?3 = 0
            AND (?4 IS NULL OR model_no = (SELECT label_no FROM labels WHERE label = ?4))
    """
    rows = reader.rows(sql, low, high, every, model_id, within_s=QUERY_S)
    codes = {zone: code for code, zone in enumerate(ZONES)}
    labels = {number: codes.get(str(text), -1) for number, text in reader.rows("SELECT label_no, label FROM labels")}
    request_no, zone_no, clusters, blobs = zip(*rows, strict=True) if rows else ((), (), (), ())
    return TokenSample(
        num_fingerprints=num,
        every=every,
        request_no=np.array(request_no, dtype=np.int64),
        zone_codes=np.array([labels.get(number, -1) for number in zone_no], dtype=np.int8),
        cluster_ids=np.array(clusters, dtype=np.int32),
        vectors=np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, DIM),
    )
