"""Compiled loops over fingerprints: sink taken out, features, zone evidence, scores, nearest landmarks.

Every loop works through one row at a time and nothing is shared between rows: a row's answer has the same bytes alone
and in a batch, on one thread and on many. `attn_core.zones` says what the numbers mean, `attn_core.classify` is the
interface; tests hold these loops against the definition written out in NumPy. Imported only where rows are classified:
Numba takes about a second to load.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp, floor, inf, isnan, log, sqrt
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from attn_core.fingerprint import ENTROPY, HISTOGRAM_EDGES, LOCAL_END, MID_END, NUM_BINS, SINK_POSITIONS, SUM_TOLERANCE
from attn_core.landmarks import LEAST_SHARE, NUM_PLACED_BY, NUM_PROBED, NUM_VOTES
from attn_core.usual import KNOTS_LN_N, Z_CLIP
from attn_core.zones import (
    DECISIVE,
    EVENNESS,
    HEADS,
    LOCAL,
    LONG,
    LONG_LEAST_CONTEXT,
    LONG_LEAST_SHARE,
    MID,
    MUST,
    N_COLUMN,
    NUM_EVIDENCE,
    PERIODICITY,
    RANKS,
    RIPPLE_LEAST,
    SHARE_EDGE,
    USUAL,
    USUAL_CAPS,
    VALUES,
    Z_LIMIT,
    Z,
)

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Loop = TypeVar("Loop", bound=Callable[..., Any])

NUM_FEATURES = 21
LANES = 8
"""A cell's landmarks are padded to a multiple of this: so many are worked on at a time."""
_HISTOGRAM_0 = 4
_LAYER_0 = 12
_TINY = 1e-6
_MASS_EDGES = (0, LOCAL_END, MID_END)
_LEAST_MASS = 1e-3
"""Below this mass beyond the sink its shares are float32's rounding: the token looked at the sink alone."""
_SEEN = 1e-4
"""A distance class with more mass than this holds a position: the context reaches it."""
_NUM_LENGTHS, _NUM_SINKS = 3, 3
_SINK_PARTS = (0.7, 0.55, 0.2)
_SINK_WEIGHTS = (0.4, 0.4, 0.2)
"""What the sink could hold of the farthest class's mass where it is not known, and how likely each is."""
_TOLERANCE = 1e-6
_NUM_ZONES = 5
_FIRST_LN_N = float(KNOTS_LN_N[0])
_LN_N_STEP = float(KNOTS_LN_N[1] - KNOTS_LN_N[0])
_Z_CLIP = Z_CLIP
_NUM_VOTES, _NUM_PROBED, _NUM_PLACED_BY, _LEAST_SHARE = NUM_VOTES, NUM_PROBED, NUM_PLACED_BY, LEAST_SHARE - 1e-9
_PADDING = np.float32(3e38)
"""Farther than any landmark: what pads a cell."""


class Formula(NamedTuple):
    """The numbers of `attn_core.zones.ZoneFormula` as the loops take them."""

    first_ln_n: float
    ln_n_step: float
    mean: F64
    """[5, k] of each characteristic at the knots; shares as log-odds."""
    spread: F64
    slope: F64
    """[6], a row of `attn_core.zones.OWN` each."""
    hinge_slope: F64
    hinge: F64
    bias: F64
    head_slope: F64
    head_mean: F64
    """[5, k], of the heads' evidence at the knots; NaN where there is none."""
    head_spread: F64
    margin: F64
    """[t], ascending."""
    chance: F64


class Cells(NamedTuple):
    """The arrays of `attn_core.landmarks.Landmarks` as the loops take them; r landmarks with the padding, c cells."""

    centre: F32
    """[d, c], d padded likewise."""
    centre_half: F32
    """[c], half of each squared length."""
    first: I64
    """[c + 1], where each cell begins among the padded landmarks."""
    columns: F32
    """[r * d], d padded with zeros to a multiple of 4; cell by cell, within a cell column by column."""
    half: F32
    """[r], half of each squared length; infinite for padding."""
    label: I32
    """[r], place in the cluster ids, -1 for none."""
    position: F32
    """[r, 2]"""
    reach: F32
    """[clusters], squared and halved."""
    claimed: F64
    """[2, k], share of the votes to chance."""
    unclaimed: F64


class Comparing(NamedTuple):
    """How tokens of one model are brought into the space, and the landmarks there (`attn_core.classify`)."""

    ids: I32
    """[clusters], stable ids."""
    averages_mean: F64
    """[21, k], at the knots of `attn_core.usual`."""
    averages_spread: F64
    averages: Cells
    sketch_mean: F64
    """[16, k]; the spread is over the column's weight."""
    sketch_spread: F64
    sketch: Cells


def compiled(loop: Loop, *, fastmath: bool | set[str] = False, error_model: str = "numpy") -> Loop:
    """The loop as machine code that releases the interpreter's lock, kept on disk where that can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": error_model, "fastmath": fastmath}
    try:
        made: Any = numba.njit(cache=True, **options)(loop)
    except RuntimeError:
        # Numba finds no folder to write to: compiled anew in each process, then.
        made = numba.njit(**options)(loop)
    return cast(Loop, made)


def compiled_for_finite(loop: Loop) -> Loop:
    """The same for a loop that meets no NaN: products may be fused with sums, and minima found several at a time.

    Each row is still worked through by the same machine code, alone and in a batch.
    """
    return compiled(loop, fastmath={"contract", "nnan", "nsz"})


def writable(values: npt.ArrayLike, dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """The values as an array of this type that lies in one piece and may be written to.

    The loops write to none of them, but Numba compiles anew for an array that may not be written to.
    """
    return np.require(values, dtype=dtype, requirements=("C", "W"))


@compiled
def _take_sink(masses: F64, edges: tuple[int, ...], n: float, sink: float) -> float:
    """Remove the sink's mass from the classes that positions 0..3 fall into, farthest first, and renormalise in place.

    Returns the mass that was left; the classes are all 0 where that is rounding alone.
    """
    remaining = sink
    for position in range(SINK_POSITIONS):
        distance = n - 1 - position
        if distance < 0:
            break
        place = 0
        for k in range(1, len(edges)):
            if distance >= edges[k]:
                place = k
        take = min(remaining, masses[place])
        masses[place] -= take
        remaining -= take
    total = 0.0
    for k in range(len(masses)):
        total += masses[k]
    for k in range(len(masses)):
        masses[k] = masses[k] / total if total > _LEAST_MASS else 0.0
    return total


@compiled
def _evenness(entropy: float, n: float, sink: float) -> float:
    """Entropy beyond the sink over ln(n - 4), 0..1.

    Chain rule: H = h(s) + s H_sink + (1 - s) H_free, h the binary entropy. H_sink is close to 0 in the models seen
    (position 0 holds nearly all of the sink), so H_free is what remains, bounded by its maximum.
    """
    free = 1.0 - sink
    binary = -(sink * log(max(sink, _TINY)) + free * log(max(free, _TINY)))
    most = log(max(n - SINK_POSITIONS, 1.0))
    if most <= 0.0:
        return 0.0
    return min(max((entropy - binary) / max(free, _TINY), 0.0), most) / most


@compiled
def sink_free_row(vector: F32, n: float, sink: float, shares: F64, histogram: F64) -> tuple[float, float]:
    """Fill `shares` [3] and `histogram` [8] beyond the sink; returns the evenness and the mass beyond the sink."""
    for k in range(3):
        shares[k] = vector[k]
    for k in range(NUM_BINS):
        histogram[k] = vector[_HISTOGRAM_0 + k]
    left = _take_sink(shares, _MASS_EDGES, n, sink)
    _take_sink(histogram, HISTOGRAM_EDGES, n, sink)
    return _evenness(vector[ENTROPY], n, sink), left


@compiled
def features_row(vector: F32, n: float, sink: float, shares: F64, histogram: F64, evenness: float, out: F32) -> None:
    """Fill `out` [21] with the feature space of `attn_core.features`."""
    for k in range(3):
        out[k] = sqrt(min(max(shares[k], 0.0), 1.0))
    for k in range(NUM_BINS):
        out[3 + k] = sqrt(min(max(histogram[k], 0.0), 1.0))
    out[11] = sqrt(sink)
    out[12] = evenness
    ln_n = log(n) if n > 1.0 else 0.0
    for k in range(8):
        out[13 + k] = min(max(vector[_LAYER_0 + k] / ln_n, 0.0), 1.0) if ln_n > 0.0 else 0.0


@compiled
def features_rows(vectors: F32, context_len: F64, sink_mass: F64, out: F32) -> None:
    """`features_row` of m rows with all companions known: `out` is [m, 21]."""
    shares, histogram = np.empty(3), np.empty(NUM_BINS)
    for i in range(len(vectors)):
        n, sink = max(context_len[i], 1.0), min(max(sink_mass[i], 0.0), 1.0)
        evenness, _ = sink_free_row(vectors[i], n, sink, shares, histogram)
        features_row(vectors[i], n, sink, shares, histogram, evenness, out[i])


@compiled
def _knot_below(n: float, first_ln_n: float, ln_n_step: float, count: int) -> tuple[int, float]:
    """The knot below this context length and how far towards the next it lies, 0..1."""
    at = min(max((log(max(n, 1.0)) - first_ln_n) / ln_n_step, 0.0), float(count - 1))
    low = min(int(at), count - 2)
    return low, at - low


@compiled
def relative_row(values: F32, n: float, mean: F64, spread: F64, out: F32) -> None:
    """Fill `out` [d] with how far each value lies from the usual one at this length (`attn_core.usual`)."""
    low, part = _knot_below(n, _FIRST_LN_N, _LN_N_STEP, mean.shape[1])
    for c in range(len(values)):
        usual = mean[c, low] + (mean[c, low + 1] - mean[c, low]) * part
        z = (values[c] - usual) / (spread[c, low] + (spread[c, low + 1] - spread[c, low]) * part)
        out[c] = min(max(z, -_Z_CLIP), _Z_CLIP)


@compiled
def relative_rows(values: F32, context_len: F64, mean: F64, spread: F64, out: F32) -> None:
    """`relative_row` of m rows: `values` and `out` are [m, d]."""
    for i in range(len(values)):
        relative_row(values[i], context_len[i], mean, spread, out[i])


@compiled
def sink_free_rows(
    vectors: F32, context_len: F64, sink_mass: F64, shares: F64, histogram: F64, evenness: F64, left: F64
) -> None:
    """`sink_free_row` of m rows: `shares` [m, 3], `histogram` [m, 8], `evenness` and `left` [m]."""
    for i in range(len(vectors)):
        n, sink = max(context_len[i], 1.0), min(max(sink_mass[i], 0.0), 1.0)
        evenness[i], left[i] = sink_free_row(vectors[i], n, sink, shares[i], histogram[i])


@compiled
def _log_odds(share: float) -> float:
    inside = min(max(share, SHARE_EDGE), 1.0 - SHARE_EDGE)
    return float(log(inside / (1.0 - inside)))


@compiled
def _interpolated(x: float, xs: F64, ys: F64) -> float:
    """As `np.interp`: the ends hold beyond them."""
    if x <= xs[0]:
        return ys[0]
    last = len(xs) - 1
    if x >= xs[last]:
        return ys[last]
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        if xs[middle] <= x:
            low = middle
        else:
            high = middle
    return ys[low] + (ys[high] - ys[low]) * (x - xs[low]) / (xs[high] - xs[low])


@compiled
def _evidence_row(
    formula: Formula, n: float, shares: F64, evenness: float, left: float, period: float, out: F64
) -> None:
    """Fill `out` [NUM_EVIDENCE], but for the heads' columns. NaN for `period`: as usual."""
    low, part = _knot_below(n, formula.first_ln_n, formula.ln_n_step, formula.mean.shape[1])
    empty = left <= _LEAST_MASS
    for c in range(5):
        mean = formula.mean[c, low] + (formula.mean[c, low + 1] - formula.mean[c, low]) * part
        spread = formula.spread[c, low] + (formula.spread[c, low + 1] - formula.spread[c, low]) * part
        if c <= LONG:
            usual = 1.0 / (1.0 + exp(-mean))
            value = shares[c]
            z = (_log_odds(value) - mean) / spread
        else:
            usual = mean
            value = evenness if c == EVENNESS else period
            if (c == EVENNESS and empty) or isnan(value):
                value = usual
            z = (value - mean) / spread
        usual = min(usual, USUAL_CAPS[c])
        out[VALUES + c] = value
        out[USUAL + c] = usual
        out[Z + c] = min(max(z, -Z_LIMIT), Z_LIMIT)
    # Where every position is near, or there is nothing but the sink, the near share says nothing.
    if n - SINK_POSITIONS <= LOCAL_END or empty:
        out[Z + LOCAL] = 0.0
    if n - SINK_POSITIONS <= LOCAL_END:
        out[Z + MID] = -Z_LIMIT
    if n - SINK_POSITIONS <= MID_END:
        out[Z + LONG] = -Z_LIMIT
    out[N_COLUMN] = n


@compiled
def musts_row(evidence: F64, must: npt.NDArray[np.bool_]) -> None:
    """Fill `must` [5]: the zones that these values alone decide for (`attn_core.zones.MUST`)."""
    local, mid, far = evidence[VALUES + LOCAL], evidence[VALUES + MID], evidence[VALUES + LONG]
    even, period, n = evidence[VALUES + EVENNESS], evidence[VALUES + PERIODICITY], evidence[N_COLUMN]
    unrepeated = period <= evidence[USUAL + PERIODICITY] + _TOLERANCE
    must[0] = local >= MUST[0] - _TOLERANCE and even <= MUST[1] + _TOLERANCE
    must[1] = mid >= MUST[2] - _TOLERANCE and even <= MUST[3] + _TOLERANCE and unrepeated
    must[2] = period >= MUST[4] - _TOLERANCE
    must[3] = n >= MUST[5] and far >= MUST[6] - _TOLERANCE and even <= MUST[7] + _TOLERANCE and unrepeated
    must[4] = n >= MUST[8] and even >= MUST[9] - _TOLERANCE


@compiled
def _rise(formula: Formula, own: int, z: float) -> float:
    return formula.slope[own] * z + formula.hinge_slope[own] * max(0.0, z - formula.hinge[own])


@compiled
def scores_row(formula: Formula, evidence: F64, must: npt.NDArray[np.bool_], out: F64) -> tuple[int, float]:
    """Fill `out` [5] with the zones' scores, -inf where closed; returns the zone and its margin over the second."""
    local, mid, far = evidence[VALUES + LOCAL], evidence[VALUES + MID], evidence[VALUES + LONG]
    even, period = evidence[VALUES + EVENNESS], evidence[VALUES + PERIODICITY]
    out[0] = _rise(formula, 0, evidence[Z + LOCAL]) + _rise(formula, 1, -evidence[Z + EVENNESS])
    out[1] = _rise(formula, 2, evidence[Z + MID])
    out[2] = _rise(formula, 3, evidence[Z + PERIODICITY])
    out[3] = _rise(formula, 4, evidence[Z + LONG])
    out[4] = _rise(formula, 5, evidence[Z + EVENNESS])
    for zone in range(_NUM_ZONES):
        out[zone] += formula.bias[zone] + formula.head_slope[zone] * evidence[HEADS + zone]
        if must[zone]:
            out[zone] += DECISIVE * RANKS[zone]
    sharp = local >= evidence[USUAL + LOCAL] - _TOLERANCE or even <= evidence[USUAL + EVENNESS] + _TOLERANCE
    # Attention that lies elsewhere is not near, however sharp: else a sharper look there would take the zone away.
    if not sharp or mid >= MUST[2] - _TOLERANCE or far >= MUST[6] - _TOLERANCE:
        out[0] = -inf
    if period < evidence[USUAL + PERIODICITY] - _TOLERANCE or period < RIPPLE_LEAST - _TOLERANCE:
        out[2] = -inf
    if evidence[N_COLUMN] <= LONG_LEAST_CONTEXT or far < LONG_LEAST_SHARE - _TOLERANCE:
        out[3] = -inf
    if even < evidence[USUAL + EVENNESS] - _TOLERANCE:
        out[4] = -inf
    best, top, second = 0, -inf, -inf
    for zone in range(_NUM_ZONES):
        if out[zone] > top:
            best, second, top = zone, top, out[zone]
        elif out[zone] > second:
            second = out[zone]
    return best, top - second


@compiled
def _longest_seen(vector: F32) -> tuple[float, float, float]:
    """The least and the largest context that fit the vector, and the mass of the farthest class that holds any."""
    entropy = vector[ENTROPY]
    for k in range(8):
        entropy = max(entropy, vector[_LAYER_0 + k])
    least, most, far = 1.0, 4.0, 0.0
    for k in range(NUM_BINS):
        if vector[_HISTOGRAM_0 + k] > _SEEN:
            least = HISTOGRAM_EDGES[k] + 1.0
            far = vector[_HISTOGRAM_0 + k]
            most = HISTOGRAM_EDGES[k + 1] + 0.0 if k + 1 < NUM_BINS else 4.0 * HISTOGRAM_EDGES[k]
    if vector[2] > _SEEN:
        least = max(least, MID_END + 1.0)
    elif vector[1] > _SEEN:
        least, most = max(least, LOCAL_END + 1.0), min(most, MID_END + 0.0)
    else:
        most = min(most, LOCAL_END + 0.0)
    least = max(least, ceil(exp(max(entropy - SUM_TOLERANCE, 0.0))) + 0.0)
    return least, max(most, least), far


@compiled
def _heads_row(formula: Formula, n: float, heads: F32, out: F64) -> None:
    """Fill the heads' columns of `out`: how far from usual their evidence lies; 0 where there is none."""
    low, part = _knot_below(n, formula.first_ln_n, formula.ln_n_step, formula.head_mean.shape[1])
    for zone in range(_NUM_ZONES):
        mean = formula.head_mean[zone, low] + (formula.head_mean[zone, low + 1] - formula.head_mean[zone, low]) * part
        spread = formula.head_spread[zone, low]
        spread += (formula.head_spread[zone, low + 1] - formula.head_spread[zone, low]) * part
        z = (heads[zone] - mean) / spread
        out[HEADS + zone] = 0.0 if isnan(z) else min(max(z, -Z_LIMIT), Z_LIMIT)


@compiled
def _zone_row(
    formula: Formula,
    vector: F32,
    n: float,
    sink: float,
    period: float,
    heads: F32,
    shares: F64,
    histogram: F64,
    one: F64,
    evidence: F64,
    must: npt.NDArray[np.bool_],
    musts: npt.NDArray[np.bool_],
    scores: F64,
    given: F64,
) -> tuple[int, float]:
    """Zone and confidence; fills `evidence`. The other arrays are to work in.

    A context length below 1, a NaN sink mass and a NaN periodicity mean unknown: the evidence is then the mean over
    their plausible values, and the confidence falls by the share of these that would give another zone.
    """
    known_n, known_sink = n >= 1.0, not isnan(sink)
    least, most, far = (n, n, 0.0) if known_n and known_sink else _longest_seen(vector)
    num_lengths = 1 if known_n or least == most else _NUM_LENGTHS
    num_sinks = 1 if known_sink else _NUM_SINKS
    for k in range(NUM_EVIDENCE):
        evidence[k] = 0.0
    for zone in range(_NUM_ZONES):
        musts[zone] = True
        given[zone] = 0.0
    for a in range(num_lengths):
        of_n = n
        if not known_n:
            of_n = least * (most / least) ** (a / (num_lengths - 1)) if num_lengths > 1 else least
        for b in range(num_sinks):
            of_sink = min(max(sink, 0.0), 1.0) if known_sink else _SINK_PARTS[b] * far
            weight = (1.0 if known_sink else _SINK_WEIGHTS[b]) / num_lengths
            even, left = sink_free_row(vector, of_n, of_sink, shares, histogram)
            _evidence_row(formula, of_n, shares, even, left, period, one)
            _heads_row(formula, of_n, heads, one)
            musts_row(one, must)
            if num_lengths * num_sinks > 1:
                own, _ = scores_row(formula, one, must, scores)
                given[own] += weight
            for zone in range(_NUM_ZONES):
                musts[zone] = musts[zone] and must[zone]
            for k in range(NUM_EVIDENCE):
                evidence[k] += weight * one[k]
    zone, margin = scores_row(formula, evidence, musts, scores)
    confidence = _interpolated(margin, formula.margin, formula.chance)
    if num_lengths * num_sinks > 1:
        confidence *= given[zone]
    return zone, confidence


@compiled
def _likeliest(vector: F32, n: float, sink: float) -> tuple[float, float]:
    """The context length and the sink mass, each as given or, where unknown, its likeliest value."""
    if n >= 1.0 and not isnan(sink):
        return n, min(max(sink, 0.0), 1.0)
    least, most, far = _longest_seen(vector)
    of_n = n if n >= 1.0 else floor(sqrt(least * most))
    return of_n, _SINK_PARTS[0] * far if isnan(sink) else min(max(sink, 0.0), 1.0)


@compiled
def likeliest_rows(vectors: F32, context_len: F64, sink_mass: F64) -> None:
    """Fill in, in place, what is unknown (a context length below 1, a NaN sink mass) of m rows."""
    for i in range(len(vectors)):
        context_len[i], sink_mass[i] = _likeliest(vectors[i], context_len[i], sink_mass[i])


class _Work(NamedTuple):
    """What a search works in; made once for many rows."""

    values: F32
    """Distances, room for the longest cells that can be probed and `_TILE` more."""
    blocks: F32
    """The least of each `LANES` values."""
    tiles: F32
    """The least of each `LANES` blocks."""
    probed: I64
    """[NUM_PROBED], cells."""
    least: F32
    """[NUM_PROBED]"""
    begin: I64
    """[NUM_PROBED + 1], where each probed cell begins among the values."""


_TILE = LANES * LANES


@compiled
def _work_for(averages: Cells, sketch: Cells) -> _Work:
    room = max(len(averages.centre_half), len(sketch.centre_half))
    room = max(room, _NUM_PROBED * max(_longest_cell(averages), _longest_cell(sketch))) + 2 * _TILE
    return _Work(
        np.empty(room, dtype=np.float32),
        np.empty(room // LANES + 1, dtype=np.float32),
        np.empty(room // _TILE + 1, dtype=np.float32),
        np.empty(_NUM_PROBED, dtype=np.int64),
        np.empty(_NUM_PROBED, dtype=np.float32),
        np.empty(_NUM_PROBED + 1, dtype=np.int64),
    )


@compiled_for_finite
def _smallest(work: _Work, count: int, places: I64, out: F32) -> int:
    """Fill `places` and `out` [k] with the least of `work.values[:count]`, ascending; returns how many there are.

    The values are spent. A heap would be asked whether each value belongs into it, and each answer is a branch that
    the processor cannot foretell; the least of eight needs none.
    """
    values, blocks, tiles = work.values, work.blocks, work.tiles
    num_tiles = (count + _TILE - 1) // _TILE
    for place in range(count, num_tiles * _TILE):
        values[place] = np.float32(inf)
    for block in range(num_tiles * LANES):
        blocks[block] = _least_of(values[block * LANES : (block + 1) * LANES])
    for tile in range(num_tiles):
        tiles[tile] = _least_of(blocks[tile * LANES : (tile + 1) * LANES])
    for k in range(len(places)):
        tile, low = 0, np.float32(inf)
        for one in range(num_tiles):
            low = min(low, tiles[one])
        if not low < _PADDING:
            return k
        for one in range(num_tiles - 1, -1, -1):
            tile = one if tiles[one] == low else tile
        block = tile * LANES + _lane_of(blocks[tile * LANES : (tile + 1) * LANES], low)
        part = values[block * LANES : (block + 1) * LANES]
        lane = _lane_of(part, low)
        places[k], out[k] = block * LANES + lane, low
        part[lane] = np.float32(inf)
        blocks[block] = _least_of(part)
        tiles[tile] = _least_of(blocks[tile * LANES : (tile + 1) * LANES])
    return len(places)


@compiled_for_finite
def _least_of(part: F32) -> np.float32:
    """The least of `LANES` values."""
    a, b = min(part[0], part[1]), min(part[2], part[3])
    c, d = min(part[4], part[5]), min(part[6], part[7])
    found: np.float32 = min(min(a, b), min(c, d))
    return found


@compiled_for_finite
def _lane_of(part: F32, low: np.float32) -> int:
    """Which of `LANES` values this is, the first where several are."""
    lane = 7
    for one in range(6, -1, -1):
        lane = one if part[one] == low else lane
    return lane


@compiled_for_finite
def _nearest_landmarks(cells: Cells, x: F32, work: _Work, found: I64, nearest: F32) -> int:
    """Fill `found` and `nearest` [k] with the nearest landmarks that are looked at; returns how many there are.

    `nearest` is ascending: |x - y|^2 / 2 less |x|^2 / 2, which is the same for every landmark y: its half squared
    length less x . y. `x` is padded with zeros, as the columns are.
    """
    num_cells, dim = len(cells.centre_half), len(x)
    _half_distances(cells.centre_half, cells.centre, x, work.values)
    num_probed = _smallest(work, num_cells, work.probed, work.least)
    count = 0
    for i in range(num_probed):
        first, last = cells.first[work.probed[i]], cells.first[work.probed[i] + 1]
        work.begin[i] = count
        block = cells.columns[first * dim : last * dim].reshape((dim, last - first))
        _half_distances(cells.half[first:last], block, x, work.values[count : count + last - first])
        count += last - first
    count = _smallest(work, count, found, nearest)
    for k in range(count):
        place, probe = found[k], 0
        for i in range(1, num_probed):
            probe = i if work.begin[i] <= place else probe
        found[k] = cells.first[work.probed[probe]] + place - work.begin[probe]
    return count


@compiled_for_finite
def _half_distances(half: F32, columns: F32, x: F32, out: F32) -> None:
    """Fill `out` with `half` less the products of x and the columns [d, len(half)]."""
    count = len(half)
    for p in range(count):
        out[p] = half[p]
    for d in range(0, len(x), 4):
        x0, x1, x2, x3 = x[d], x[d + 1], x[d + 2], x[d + 3]
        c0, c1, c2, c3 = columns[d], columns[d + 1], columns[d + 2], columns[d + 3]
        for p in range(count):
            out[p] -= x0 * c0[p] + x1 * c1[p] + x2 * c2[p] + x3 * c3[p]


@compiled
def _vote(cells: Cells, found: I64, nearest: F32, own: float, count: int) -> tuple[int, float]:
    """The label that most of these landmarks have (of equally many the nearer one's), -1 where too few agree or the
    nearest that does is too far, and the chance that this is right. `own` is half the point's squared length."""
    best, most, at = -1, 0, 0
    for i in range(count):
        label = cells.label[found[i]]
        if label < 0:
            continue
        votes = 0
        for j in range(count):
            if cells.label[found[j]] == label:
                votes += 1
        if votes > most:
            best, most, at = label, votes, i
    share = most / max(count, 1)
    if share < _LEAST_SHARE:
        return -1, _interpolated(share, cells.unclaimed[0], cells.unclaimed[1])
    if nearest[at] + own > cells.reach[best]:
        # Of a kind that was not seen: none of the few that it is nearest to speaks for it.
        return -1, _interpolated(0.0, cells.unclaimed[0], cells.unclaimed[1])
    return best, _interpolated(share, cells.claimed[0], cells.claimed[1])


@compiled
def _placed(cells: Cells, found: I64, nearest: F32, own: float, count: int, position: F32) -> None:
    """Fill `position` [2] from the nearest landmarks' places: weights fall off as in UMAP's own graph."""
    near = min(count, _NUM_PLACED_BY)
    least = sqrt(max(2.0 * (nearest[0] + own), 0.0))
    excess = 0.0
    for i in range(near):
        excess += sqrt(max(2.0 * (nearest[i] + own), 0.0)) - least
    scale = max(excess / near, _TINY)
    total, x, y = 0.0, 0.0, 0.0
    for i in range(near):
        weight = exp(-(sqrt(max(2.0 * (nearest[i] + own), 0.0)) - least) / scale)
        total += weight
        x += weight * cells.position[found[i], 0]
        y += weight * cells.position[found[i], 1]
    position[0], position[1] = x / total, y / total


@compiled
def padded(num_columns: int) -> int:
    """How many columns landmarks are kept in: four are worked on at a time."""
    return (num_columns + 3) // 4 * 4


@compiled
def _longest_cell(cells: Cells) -> int:
    longest = 1
    for cell in range(len(cells.centre_half)):
        longest = max(longest, cells.first[cell + 1] - cells.first[cell])
    return longest


@compiled
def compare_rows(
    comparing: Comparing,
    vectors: F32,
    context_len: F64,
    sink_mass: F64,
    sketch: F32,
    first: int,
    last: int,
    cluster_id: I32,
    cluster_confidence: F32,
    position: F32,
) -> None:
    """Cluster, its confidence and, where `position` is [m, 2] and not [0, 2], the place of rows first..last.

    `sketch` is [m, 16] of the space's matrix, or [1, 16] of NaN where no row has one: such a row, and every row of a
    space without a sketch, is compared by its averages.
    """
    shares, histogram = np.empty(3), np.empty(NUM_BINS)
    features = np.empty(NUM_FEATURES, dtype=np.float32)
    averages = np.zeros(padded(NUM_FEATURES), dtype=np.float32)
    sketched = np.zeros(padded(sketch.shape[1]), dtype=np.float32)
    work = _work_for(comparing.averages, comparing.sketch)
    found, nearest = np.empty(_NUM_VOTES, dtype=np.int64), np.empty(_NUM_VOTES, dtype=np.float32)
    has_sketches = len(comparing.sketch.centre_half) > 0
    for i in range(first, last):
        n, sink = _likeliest(vectors[i], context_len[i], sink_mass[i])
        own_sketch = sketch[min(i, len(sketch) - 1)]
        by_sketch = has_sketches
        for d in range(len(own_sketch)):
            by_sketch = by_sketch and not isnan(own_sketch[d])
        if by_sketch:
            cells = comparing.sketch
            relative_row(own_sketch, n, comparing.sketch_mean, comparing.sketch_spread, sketched[: len(own_sketch)])
            x = sketched
        else:
            cells = comparing.averages
            even, _ = sink_free_row(vectors[i], n, sink, shares, histogram)
            features_row(vectors[i], n, sink, shares, histogram, even, features)
            relative_row(features, n, comparing.averages_mean, comparing.averages_spread, averages[:NUM_FEATURES])
            x = averages
        count = _nearest_landmarks(cells, x, work, found, nearest)
        own = 0.0
        for d in range(len(x)):
            own += x[d] * x[d]
        own *= 0.5
        label, chance = _vote(cells, found, nearest, own, count)
        cluster_id[i] = comparing.ids[label] if label >= 0 else -1
        cluster_confidence[i] = chance
        if len(position):
            if count == 0:
                position[i, 0], position[i, 1] = np.float32(np.nan), np.float32(np.nan)
                continue
            _placed(cells, found, nearest, own, count, position[i])


@compiled
def zone_rows(
    formula: Formula,
    vectors: F32,
    context_len: F64,
    sink_mass: F64,
    periodicity: F64,
    heads: F32,
    first: int,
    last: int,
    zone_index: npt.NDArray[np.int8],
    confidence: F32,
    evidence: F32,
) -> None:
    """Zones of rows first..last of m; `heads` is [m, 5] or [1, 5], NaN for none; `evidence` [m, NUM_EVIDENCE] or
    [0, 0]."""
    shares, histogram = np.empty(3), np.empty(NUM_BINS)
    one, mean, scores, given = (
        np.empty(NUM_EVIDENCE),
        np.empty(NUM_EVIDENCE),
        np.empty(_NUM_ZONES),
        np.empty(_NUM_ZONES),
    )
    must, musts = np.empty(_NUM_ZONES, dtype=np.bool_), np.empty(_NUM_ZONES, dtype=np.bool_)
    for i in range(first, last):
        zone, chance = _zone_row(
            formula, vectors[i], context_len[i], sink_mass[i], periodicity[i], heads[min(i, len(heads) - 1)],
            shares, histogram, one, mean, must, musts, scores, given,
        )  # fmt: skip
        zone_index[i] = zone
        confidence[i] = chance
        if len(evidence):
            for k in range(NUM_EVIDENCE):
                evidence[i, k] = mean[k]


@compiled
def score_rows(formula: Formula, evidence: F64, zone_index: npt.NDArray[np.int8], confidence: F32, scores: F64) -> None:
    """The same formula on the means of evidence, [r, NUM_EVIDENCE]: of a request, of a sentence."""
    must = np.empty(_NUM_ZONES, dtype=np.bool_)
    for i in range(len(evidence)):
        musts_row(evidence[i], must)
        zone, margin = scores_row(formula, evidence[i], must, scores[i])
        zone_index[i] = zone
        confidence[i] = _interpolated(margin, formula.margin, formula.chance)
