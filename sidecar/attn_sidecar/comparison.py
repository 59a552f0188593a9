"""Two samples of tokens held against each other: shares with intervals, and how far their fingerprints differ.

Tokens of one answer resemble one another, so a million tokens of ten answers tell little more than ten answers would.
Every interval here is therefore cluster-robust, a request being the cluster: the variance of a share or mean is that of
a ratio of request totals (Taylor linearisation), and a share's Wilson interval is taken at the effective number of
tokens, the one at which independent tokens would have that variance (Korn and Graubard 1998). The interval of a
difference of shares is Newcombe's (1998, method 10) of the two Wilson intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import msgspec
import numpy as np
import numpy.typing as npt

from attn_core.fingerprint import NAMES

Z = 1.959963984540054
"""Of a 95% interval."""
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A share with its 95% interval."""

    num_fingerprints: int
    share: float
    low: float
    high: float


class ShareDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One zone or cluster on both sides; `difference` is b minus a."""

    a: Share
    b: Share
    difference: float
    low: float
    high: float


class FeatureDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One of the 20 numbers on both sides. `effect` is (mean_b - mean_a) over the pooled standard deviation."""

    name: str
    mean_a: float
    mean_b: float
    sd_a: float
    sd_b: float
    effect: float
    low: float
    high: float
    """95% interval of `effect`."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """m tokens: the request each is of, and its label (a zone's or cluster's number)."""

    requests: I64
    labels: I64


def share_of(tokens: Labelled, label: int) -> tuple[Share, int]:
    """The share of `label` with its interval, and how often it occurs."""
    m = len(tokens.labels)
    hit = tokens.labels == label
    count = int(hit.sum())
    if m == 0:
        return Share(num_fingerprints=0, share=0.0, low=0.0, high=1.0), 0
    share = count / m
    low, high = wilson(share, effective_num(hit.astype(np.float64), tokens.requests))
    return Share(num_fingerprints=count, share=_r(share), low=_r(low), high=_r(high)), count


def share_difference(a: Share, b: Share) -> ShareDifference:
    """Newcombe's interval of b - a from the two shares' own."""
    difference = b.share - a.share
    low = difference - sqrt((b.share - b.low) ** 2 + (a.high - a.share) ** 2)
    high = difference + sqrt((b.high - b.share) ** 2 + (a.share - a.low) ** 2)
    return ShareDifference(a=a, b=b, difference=_r(difference), low=_r(max(low, -1.0)), high=_r(min(high, 1.0)))


def wilson(share: float, num: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share seen in `num` (effective) independent trials."""
    if num <= 0:
        return 0.0, 1.0
    z2 = Z * Z
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z / (1 + z2 / num) * sqrt(share * (1 - share) / num + z2 / (4 * num * num))
    # Rounding must not push the interval off its own estimate.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def effective_num(values: F64, requests: I64) -> float:
    """How many independent tokens would know the mean of `values` [m] as well as these do, given their requests [m].

    Where nothing varies the data say nothing of how alike the tokens of a request are: then it is the number of
    requests.
    """
    m = len(values)
    variance = float(values.var())
    of_mean, num_requests = mean_variance(values[:, None], requests)
    if variance <= 1e-12 or of_mean[0] <= 1e-18:
        return float(num_requests)
    return float(min(max(variance / of_mean[0], 1.0), m))


def mean_variance(values: F64, requests: I64) -> tuple[F64, int]:
    """Cluster-robust variance of the mean of each column of [m, c], and the number of requests."""
    m = len(values)
    _, place = np.unique(requests, return_inverse=True)
    num = int(place.max()) + 1 if m else 0
    if num < 2:
        # A single request: no way to tell, so as if its tokens were one.
        return values.var(axis=0) if m else np.zeros(values.shape[1]), num
    residual = values - values.mean(axis=0)
    totals = np.zeros((num, values.shape[1]))
    np.add.at(totals, place, residual)
    variance: F64 = num / (num - 1) * (totals**2).sum(axis=0) / m**2
    return variance, num


def feature_differences(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], *, requests_a: I64, requests_b: I64
) -> list[FeatureDifference]:
    """The 20 numbers by size of effect, largest first; [m, 20] each, both with at least two rows."""
    sides = [(rows.astype(np.float64), requests) for rows, requests in ((a, requests_a), (b, requests_b))]
    (mean_a, mean_b), (sd_a, sd_b) = ([f(rows) for rows, _ in sides] for f in (_mean, _sd))
    var_a, var_b = (mean_variance(rows, requests)[0] for rows, requests in sides)
    df_a, df_b = len(a) - 1, len(b) - 1
    pooled = np.sqrt((df_a * sd_a**2 + df_b * sd_b**2) / (df_a + df_b))
    # A number that does not vary at all has no scale to be measured on.
    scale = np.where(pooled > 1e-9, pooled, np.inf)
    effect, half = (mean_b - mean_a) / scale, Z * np.sqrt(var_a + var_b) / scale
    found = [
        FeatureDifference(
            name=name,
            mean_a=_r(mean_a[k]), mean_b=_r(mean_b[k]), sd_a=_r(sd_a[k]), sd_b=_r(sd_b[k]),
            effect=_r(effect[k]), low=_r(effect[k] - half[k]), high=_r(effect[k] + half[k]),
        )
        for k, name in enumerate(NAMES)
    ]  # fmt: skip
    return sorted(found, key=lambda one: -abs(one.effect))


def labels_in(sides: Sequence[Labelled]) -> list[int]:
    """Every label that occurs on a side, ascending."""
    return sorted({int(label) for side in sides for label in np.unique(side.labels)})


def _mean(rows: F64) -> F64:
    value: F64 = rows.mean(axis=0)
    return value


def _sd(rows: F64) -> F64:
    value: F64 = rows.std(axis=0, ddof=1)
    return value


def _r(value: float) -> float:
    return round(float(value), 6)
