"""What a model usually does at each context length, and how far a token is from it.

Most numbers of a fingerprint grow or fall with the context: with more positions there is more to look at. Compared as
they are, tokens sort by their context's length and by little else. So each number is taken relative to what is usual at
that length: ``(value - mean(n)) / spread(n)``, mean and spread against ln n being learned from a window's own tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

KNOTS_LN_N = np.arange(6, 49) * 0.25
"""Context lengths (4.5 to 163,000) at which usual values are kept, as ln n: lines between them, the ends beyond."""
BANDWIDTH_LN_N = 0.25
PRIOR_TOKENS = 20.0
"""What mean and spread over all lengths weigh at each length, in tokens."""
LEAST_SPREAD = 0.05
"""Of the spread over all lengths: a length at which all tokens agree is no magnifying glass."""
Z_CLIP = 8.0
"""No token is farther from usual than this, in spreads: one odd value must not outweigh the rest."""
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Usual:
    """Mean and spread of d numbers against the context length."""

    mean: F64
    """[d, k], at `KNOTS_LN_N`."""
    spread: F64
    """[d, k], standard deviations, above 0."""

    def fits(self, num_columns: int) -> bool:
        """Whether these are usable values of so many numbers."""
        shape = (num_columns, len(KNOTS_LN_N))
        values_fit = all(a.shape == shape and np.isfinite(a).all() for a in (self.mean, self.spread))
        return values_fit and bool((self.spread > 0).all())

    def learned_from(
        self,
        values: npt.NDArray[np.floating],
        context_len: npt.NDArray[np.integer],
        *,
        least_spread: F64,
        prior_tokens: float,
        told: npt.NDArray[np.bool_] | None = None,
    ) -> Usual:
        """The usual values of these tokens, with the present ones as what is believed before.

        `values` is [m, d], `context_len` int [m], `least_spread` [d]; `told` [m, d], where given, is False where a
        value says nothing. Kernel regression of the difference from the present values on ln n (Nadaraya 1964; a
        Gaussian of `BANDWIDTH_LN_N`), the belief weighing `prior_tokens` tokens at each knot. A length of which no
        tokens were seen is shifted by as much as the others are in the mean.
        """
        if not len(values):
            return self
        ln_n = ln_of(context_len)
        # Tokens of one length weigh alike: one kernel value for all of them.
        lengths, of_token = np.unique(ln_n, return_inverse=True)
        of_length = _places(lengths)
        weights = np.exp(-0.5 * ((KNOTS_LN_N[:, None] - lengths) / BANDWIDTH_LN_N) ** 2)  # [k, lengths]
        mean, spread = np.empty_like(self.mean), np.empty_like(self.spread)
        for c in range(len(mean)):
            column = np.asarray(values[:, c], dtype=np.float64)
            there = None if told is None else told[:, c]
            weight = np.bincount(of_token, weights=there, minlength=len(lengths)).astype(np.float64)
            difference = column - _between(self.mean[c], of_length)[of_token]
            if there is not None:
                difference = np.where(there, difference, 0.0)
            summed = np.bincount(of_token, weights=difference, minlength=len(lengths))
            total = weights @ weight + prior_tokens
            shift = float(summed.sum() / (weight.sum() + prior_tokens))
            mean[c] = self.mean[c] + shift + (weights @ (summed - shift * weight)) / total
            left = (column - _between(mean[c], of_length)[of_token]) ** 2
            if there is not None:
                left = np.where(there, left, 0.0)
            squares = np.bincount(of_token, weights=left, minlength=len(lengths))
            expected = float((weight * _between(self.spread[c], of_length) ** 2).sum())
            ratio = float(squares.sum()) / max(expected, 1e-12) if weight.sum() > prior_tokens else 1.0
            variance = (weights @ squares + prior_tokens * ratio * self.spread[c] ** 2) / total
            spread[c] = np.maximum(np.sqrt(variance), least_spread[c])
        return Usual(mean=mean, spread=spread)

    def mean_at(self, context_len: npt.NDArray[np.integer]) -> F64:
        """float64 [m, d]: the usual values at these context lengths."""
        places = _places(ln_of(context_len))
        return np.column_stack([_between(knots, places) for knots in self.mean])

    def relative(self, values: npt.NDArray[np.floating], context_len: npt.NDArray[np.number]) -> F32:
        """float32 [m, d]: how many spreads each value lies from the usual one, within `Z_CLIP`."""
        from attn_core import row_loops

        rows = row_loops.writable(values, np.float32)
        found = np.empty(rows.shape, dtype=np.float32)
        row_loops.relative_rows(rows, row_loops.writable(context_len, np.float64), self.mean, self.spread, found)
        return found


def usual_of(values: npt.NDArray[np.floating], context_len: npt.NDArray[np.integer]) -> Usual:
    """What is usual of [m, d] values at their context lengths, where nothing is believed before.

    Each length starts from mean and spread over all lengths. Learned twice, the second time from what the first has
    left over (twicing, Tukey 1977): at the ends of the lengths, and where few tokens were, the first pass lags behind.
    """
    shape = (values.shape[1], len(KNOTS_LN_N))
    mean = values.mean(axis=0, dtype=np.float64) if len(values) else np.zeros(shape[0])
    spread = np.maximum(values.std(axis=0, dtype=np.float64) if len(values) else np.ones(shape[0]), 1e-3)
    flat = Usual(
        mean=np.broadcast_to(mean[:, None], shape).copy(), spread=np.broadcast_to(spread[:, None], shape).copy()
    )
    found = flat
    for _ in range(2):
        found = found.learned_from(values, context_len, least_spread=LEAST_SPREAD * spread, prior_tokens=PRIOR_TOKENS)
    return found


def ln_of(context_len: npt.NDArray[np.integer] | npt.NDArray[np.floating]) -> F64:
    """ln n, of at least one position."""
    return np.log(np.maximum(np.asarray(context_len, dtype=np.float64), 1.0))


def _places(ln_n: F64) -> tuple[npt.NDArray[np.int64], F64]:
    """For each ln n the knot below and how far towards the next it lies, 0..1."""
    at = np.clip((ln_n - KNOTS_LN_N[0]) / (KNOTS_LN_N[1] - KNOTS_LN_N[0]), 0.0, len(KNOTS_LN_N) - 1.0)
    low = np.minimum(at.astype(np.int64), len(KNOTS_LN_N) - 2)
    return low, at - low


def _between(knots: F64, places: tuple[npt.NDArray[np.int64], F64]) -> F64:
    low, part = places
    return knots[low] + (knots[low + 1] - knots[low]) * part
