"""The fingerprint: 20 numbers that say how far and how sharply one decode step looked back.

For output token ``step`` k of a request, the query at position ``i = prompt_len + k - 1`` attends to keys
``j = 0..i``; ``d = i - j`` is the distance and ``n = i + 1`` the context length (`context_len`). ``p[l, h, j]`` is the
softmax probability exactly as the model used it, over all ``n`` positions, for captured layer ``l`` and head ``h``;
``P[l, j]`` its mean over heads and ``P[j]`` the mean of that over the captured layers.

| index | name              | definition                                        | unit        |
|-------|-------------------|---------------------------------------------------|-------------|
| 0     | local_mass        | sum of P[j], 0 <= d < 10                          | probability |
| 1     | mid_mass          | sum of P[j], 10 <= d < 100                        | probability |
| 2     | long_mass         | sum of P[j], d >= 100                             | probability |
| 3     | entropy           | -sum P[j] ln P[j]                                 | nats        |
| 4-11  | histogram_0..7    | mass of P in the bins of HISTOGRAM_EDGES          | probability |
| 12-19 | layer_entropy_0..7| mean over heads of -sum_j p ln p, shallow to deep | nats        |

Carried beside the vector: `context_len`, `sink_mass` (mass of P on positions 0..3), `prompt_mass` (mass of P on the
prompt's positions beyond the sink; the numerator of the lookback ratio, arXiv 2407.07071) and `periodicity`
(0..1, defined in `attn_kernels.reference`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log

import numpy as np
import numpy.typing as npt

from attn_core.errors import InvalidFingerprint

FINGERPRINT_VERSION = 1
DIM = 20
NUM_CAPTURED_LAYERS = 8
LOCAL_END = 10
"""First distance that is no longer local."""
MID_END = 100
"""First distance that is no longer mid-range."""
HISTOGRAM_EDGES: tuple[int, ...] = (0, 1, 2, 4, 8, 32, 128, 512)
"""Lower edges of the distance bins; the last bin is open."""
NUM_BINS = len(HISTOGRAM_EDGES)
SINK_POSITIONS = 4
"""Positions 0..3 count as the attention sink."""

MASSES = slice(0, 3)
ENTROPY = 3
HISTOGRAM = slice(4, 12)
LAYER_ENTROPY = slice(12, 20)

NAMES: tuple[str, ...] = (
    "local_mass",
    "mid_mass",
    "long_mass",
    "entropy",
    *(f"histogram_{k}" for k in range(NUM_BINS)),
    *(f"layer_entropy_{k}" for k in range(NUM_CAPTURED_LAYERS)),
)

SUM_TOLERANCE = 1e-3
"""How far masses and histogram may be from summing to 1, and entropies from ln n."""
MAX_CONTEXT_LEN = 2**24
"""More positions than any context has. It bounds the entropies where the context length is not known."""

Vectors = npt.NDArray[np.float32]


def captured_layers(full_attention_layers: Sequence[int], count: int = NUM_CAPTURED_LAYERS) -> tuple[int, ...]:
    """The layers whose attention makes the fingerprint, spread evenly from first to last.

    `full_attention_layers` are the model's layer numbers with full attention, ascending. With fewer than `count` of
    them numbers repeat, so that the vector always has its 20 places. Rounding is half to even, as Python's `round`.
    """
    if not full_attention_layers:
        raise InvalidFingerprint("no full-attention layer to capture: pass at least one layer number")
    last = len(full_attention_layers) - 1
    if count == 1:
        return (full_attention_layers[last],)
    return tuple(full_attention_layers[round(k * last / (count - 1))] for k in range(count))


def why_invalid(
    vectors: npt.NDArray[np.floating], context_len: npt.NDArray[np.integer] | None = None
) -> list[str | None]:
    """For each row of float [m, 20] the first invariant it breaks, or None where it holds them all.

    `context_len` is int [m]; values below 1 mean unknown, and then entropies may be up to ln `MAX_CONTEXT_LEN`.
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.shape[1] != DIM:
        raise InvalidFingerprint(f"expected vectors of shape [m, {DIM}], got {list(rows.shape)}")
    if len(rows) == 1 and _clearly_valid(rows[0].tolist(), 0 if context_len is None else context_len[0]):
        return [None]
    ok = _fast_check(rows, context_len)
    reasons: list[str | None] = [None] * len(rows)
    for i in np.flatnonzero(~ok):
        n = int(context_len[i]) if context_len is not None else 0
        reasons[i] = _first_broken(rows[i].astype(np.float64), n)
    return reasons


def valid_rows(
    vectors: npt.NDArray[np.floating], context_len: npt.NDArray[np.integer] | None = None
) -> npt.NDArray[np.bool_]:
    """Which rows of float [m, 20] hold every invariant: bool [m]. The vectorised form of `why_invalid`."""
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.shape[1] != DIM:
        raise InvalidFingerprint(f"expected vectors of shape [m, {DIM}], got {list(rows.shape)}")
    return _fast_check(rows, context_len)


def _clearly_valid(row: list[float], n: int | np.integer) -> bool:
    """Whether one row holds every invariant with room to spare, in 3 us: NumPy's calls for one row take ten times that.

    A hair stricter than the definition, so that rounding never decides differently here and there.
    """
    within = 0.99 * SUM_TOLERANCE
    masses, histogram, entropies = row[MASSES], row[HISTOGRAM], (row[ENTROPY], *row[LAYER_ENTROPY])
    return (
        # First, for NaN compares false with everything.
        isfinite(sum(row))
        and min(masses) >= 0
        and min(histogram) >= 0
        and abs(sum(masses) - 1) <= within
        and abs(sum(histogram) - 1) <= within
        and min(entropies) >= 0
        and max(entropies) <= log(n if n >= 1 else MAX_CONTEXT_LEN) + within
    )


def _fast_check(rows: npt.NDArray[np.floating], context_len: npt.NDArray[np.integer] | None) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore", over="ignore"):
        shares = np.concatenate([rows[:, MASSES], rows[:, HISTOGRAM]], axis=1)
        entropies = np.concatenate([rows[:, ENTROPY : ENTROPY + 1], rows[:, LAYER_ENTROPY]], axis=1)
        ok: npt.NDArray[np.bool_] = np.isfinite(rows).all(axis=1)
        ok &= ((shares >= 0) & (shares <= 1 + SUM_TOLERANCE)).all(axis=1)
        ok &= np.abs(rows[:, MASSES].sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE
        ok &= np.abs(rows[:, HISTOGRAM].sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE
        ok &= (entropies >= 0).all(axis=1)
        n = np.zeros(len(rows), dtype=np.int64) if context_len is None else np.asarray(context_len)
        limit = np.log(np.where(n >= 1, n, MAX_CONTEXT_LEN)) + SUM_TOLERANCE
        ok &= (entropies <= limit[:, None]).all(axis=1)
    return ok


def _first_broken(row: npt.NDArray[np.float64], n: int) -> str | None:
    bad = np.flatnonzero(~np.isfinite(row))
    if bad.size:
        return f"{NAMES[bad[0]]} (index {bad[0]}) is {row[bad[0]]}: every number must be finite"
    for k in (*range(3), *range(4, 12)):
        if not 0 <= row[k] <= 1 + SUM_TOLERANCE:
            return f"{NAMES[k]} (index {k}) is {row[k]:.6g}: a mass lies between 0 and 1"
    for name, part in (("the masses (indices 0-2)", row[MASSES]), ("the histogram (indices 4-11)", row[HISTOGRAM])):
        if abs(part.sum() - 1) > SUM_TOLERANCE:
            return f"{name} sum to {part.sum():.6g}: they must sum to 1 within {SUM_TOLERANCE}"
    most = n if n >= 1 else MAX_CONTEXT_LEN
    for k in (ENTROPY, *range(12, 20)):
        if not 0 <= row[k] <= np.log(most) + SUM_TOLERANCE:
            bound = f"between 0 and ln {most} = {np.log(most):.4f}"
            return f"{NAMES[k]} (index {k}) is {row[k]:.6g} nats: an entropy here is {bound}"
    return None


def blob_from_vector(vector: npt.ArrayLike) -> bytes:
    """The 80 bytes that the store and the wire hold: float32[20], little-endian."""
    row = np.asarray(vector, dtype="<f4")
    if row.shape != (DIM,):
        raise InvalidFingerprint(f"expected {DIM} numbers, got shape {list(row.shape)}")
    return row.tobytes()


def vectors_from_blobs(blobs: Sequence[bytes]) -> Vectors:
    """float32 [m, 20] from m blobs of 80 bytes."""
    joined = b"".join(blobs)
    if len(joined) != len(blobs) * DIM * 4:
        raise InvalidFingerprint(f"a stored vector is not {DIM * 4} bytes long: the database is damaged or foreign")
    return np.frombuffer(joined, dtype="<f4").reshape(-1, DIM).astype(np.float32, copy=False)
