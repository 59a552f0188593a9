"""What a run saw when it was made, for those who watch how far the present has left it.

An optional file of the bundle, ``baseline.npz``: what the served classifier answered on rows that had no part in
fitting it. Only means and counts; a bundle without it is served just as well, and is not watched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from attn_core.errors import BundleError
from attn_core.features import FEATURES_VERSION, NUM_FEATURES

FILE_NAME = "baseline.npz"
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """c clusters as the served classifier saw them on held-out rows, in the feature space."""

    cluster_ids: I64
    """[c], stable ids, ascending."""
    num_claimed: I64
    """[c], held-out rows that each cluster claimed."""
    mean: F64
    """[c, 21], the mean of their features; zeros where there was none."""
    scatter: F64
    """[c], the mean squared distance from that mean."""
    num_rows: int
    """Held-out rows in all."""
    num_unclaimed: int
    """Of them, those that no cluster claimed."""

    def save(self, path: Path) -> None:
        """Write as npz; no object arrays, so nothing in it can run code."""
        np.savez(path, features_version=np.int32(FEATURES_VERSION), **vars(self))

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read and check; raises `BundleError` where it is no baseline or its arrays do not fit together."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version = int(file["features_version"])
                arrays = {name: file[name] for name in ("cluster_ids", "num_claimed", "mean", "scatter")}
                counts = {name: int(file[name]) for name in ("num_rows", "num_unclaimed")}
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise BundleError(f"{path.name} is not a baseline: {error}") from error
        num_clusters = len(arrays["cluster_ids"])
        shapes = {"num_claimed": (num_clusters,), "mean": (num_clusters, NUM_FEATURES), "scatter": (num_clusters,)}
        fits = all(arrays[name].shape == shape for name, shape in shapes.items())
        if version != FEATURES_VERSION or not fits or not 0 <= counts["num_unclaimed"] <= counts["num_rows"]:
            raise BundleError(f"{path.name}: its arrays do not fit together, or are of another features version")
        return cls(
            cluster_ids=arrays["cluster_ids"],
            num_claimed=arrays["num_claimed"],
            mean=arrays["mean"],
            scatter=arrays["scatter"],
            num_rows=counts["num_rows"],
            num_unclaimed=counts["num_unclaimed"],
        )


def baseline_from_answers(
    features: npt.NDArray[np.floating], answers: npt.NDArray[np.integer], *, cluster_ids: npt.NDArray[np.integer]
) -> Baseline:
    """From held-out features [m, 21] and the cluster that each was given, [m], -1 for none."""
    ids = np.sort(cluster_ids.astype(np.int64))
    mean, scatter = np.zeros((len(ids), NUM_FEATURES)), np.zeros(len(ids))
    counts = np.zeros(len(ids), dtype=np.int64)
    for row, cluster_id in enumerate(ids):
        members = features[answers == cluster_id].astype(np.float64)
        counts[row] = len(members)
        if len(members):
            mean[row] = members.mean(axis=0)
            scatter[row] = ((members - mean[row]) ** 2).sum(axis=1).mean()
    return Baseline(
        cluster_ids=ids,
        num_claimed=counts,
        mean=mean,
        scatter=scatter,
        num_rows=len(answers),
        num_unclaimed=int((~np.isin(answers, ids)).sum()),
    )
