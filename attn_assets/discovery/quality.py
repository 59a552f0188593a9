"""How good a run is, in numbers that Dagster can plot and checks can compare."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.distinct import distinct_rows

F32 = npt.NDArray[np.float32]
JUDGED_ROWS = 2_000
"""Trustworthiness takes all pairwise distances: on a sample of this size."""
NUM_NEIGHBOURS = 10
NUM_BINS = 10


def trustworthiness(features: F32, positions: F32, *, seed: int) -> float | None:
    """Share (0..1) of map neighbours that are neighbours in the features too; None with too few rows to say.

    Equal rows are one. Venna and Kaski 2001, on at most `JUDGED_ROWS` seeded rows of [m, d] and [m, 2].
    """
    first = distinct_rows(features).first
    features, positions = features[first], positions[first]
    size = len(features)
    if size < 2 * NUM_NEIGHBOURS + 2:
        return None
    from sklearn.manifold import trustworthiness as judge

    rows = np.random.default_rng(seed).permutation(size)[:JUDGED_ROWS]
    return float(judge(features[rows], positions[rows], n_neighbors=NUM_NEIGHBOURS))


def expected_calibration_error(confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_]) -> float:
    """ECE: mean over ten confidence bins of |mean confidence - share correct|, weighted by rows; 0 without rows.

    Naeini, Cooper, Hauskrecht 2015.
    """
    return float(
        sum(abs(row["confidence"] - row["correct"]) * row["share"] for row in reliability(confidence, correct))
    )


def reliability(confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """The reliability table: for each of ten bins that holds rows its mean confidence, share correct, share of rows."""
    bins = np.clip((np.asarray(confidence) * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    table = []
    for which in np.unique(bins):
        there = bins == which
        table.append(
            {
                "confidence": float(np.mean(confidence[there], dtype=np.float64)),
                "correct": float(np.mean(correct[there])),
                "share": float(np.mean(there)),
            }
        )
    return table
