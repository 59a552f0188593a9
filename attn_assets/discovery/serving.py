"""The served classifier's clusters: fitted to the offline labels, judged on rows that it has not seen.

Prototypes and radii come from 70% of the sample, the confidence of a cluster from 15%, the figures from the last 15%.
The offline label of a row is its HDBSCAN cluster. Zones need no fit here: served and offline zones are one formula.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.prototypes import Prototypes, tile_clusters
from attn_assets.discovery.quality import expected_calibration_error, reliability
from attn_assets.discovery.sample import split_rows
from attn_core.baseline import Baseline, baseline_from_answers
from attn_core.classify import NO_CLUSTER, UNPROVEN, Classified, Classifier, ClassifierArrays, no_clusters

SPLIT = (0.7, 0.15, 0.15)
LEAST_RADIUS = 1e-4
ROOM = 1.1
"""A cluster reaches this much past its farthest member: what lies beyond is of a kind that was not seen."""
NUM_KNOTS = 12
MIN_ROWS_PER_KNOT = 25
PRIOR_WEIGHT = 2.0
"""Rows' worth of belief in the overall accuracy that each knot of a confidence curve starts from."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """m sample rows with all that is known of them offline."""

    vectors: F32
    context_len: npt.NDArray[np.int64]
    sink_mass: F32
    features: F32
    labels: I32
    """Cluster number within the run, -1 for noise."""

    def rows(self, index: npt.NDArray[np.int64]) -> Labelled:
        """These rows only."""
        return Labelled(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How well a classifier does on rows that had no part in it; None where no row could tell."""

    cluster_agreement: float | None
    """Share of held-out rows in a cluster offline that are given that cluster."""
    noise_agreement: float | None
    """Share of held-out noise rows that no cluster claims."""
    cluster_ece: float | None
    """Expected calibration error of `cluster_confidence`."""
    num_judged: int
    reliability: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A classifier, its prototypes and its figures."""

    arrays: ClassifierArrays
    prototypes: Prototypes
    """`nearest_row` counts in the rows that were given to `fit`."""
    figures: Figures
    baseline: Baseline
    """What it answered on the rows that judged it."""


def fit(rows: Labelled, *, cluster_ids: I32, seed: int) -> Served:
    """The served classifier of clusters 0..c-1, whose stable ids these are."""
    fit_part, curve_part, judge_part = split_rows(len(rows.labels), shares=SPLIT, seed=seed)
    # A cluster must keep members to be tiled with: those of small clusters may all lie in the other parts.
    lacking = np.setdiff1d(np.arange(len(cluster_ids)), rows.labels[fit_part])
    if len(lacking):
        fit_part = np.union1d(fit_part, np.flatnonzero(np.isin(rows.labels, lacking)))
    fitting = rows.rows(fit_part)
    tiles = tile_clusters(fitting.features, fitting.labels, num_clusters=len(cluster_ids), seed=seed)
    arrays = ClassifierArrays(
        prototypes=tiles.points,
        prototype_start=tiles.start,
        cluster_ids=cluster_ids.astype(np.int32),
        cluster_radius=_radii(tiles, fitting.features, fitting.labels),
        cluster_curve=no_clusters().cluster_curve,
        unclaimed_prototypes=tiles.unclaimed,
    )
    arrays = _with_confidence(arrays, rows.rows(curve_part), cluster_ids=cluster_ids)
    judging = rows.rows(judge_part)
    answers = _classified(arrays, judging)
    return Served(
        arrays=arrays,
        prototypes=replace(tiles, nearest_row=fit_part[tiles.nearest_row].astype(np.int32)),
        figures=figures_of(answers, judging, cluster_ids=cluster_ids),
        baseline=baseline_from_answers(judging.features, answers.cluster_id, cluster_ids=cluster_ids),
    )


def figures_of(answers: Classified, rows: Labelled, *, cluster_ids: I32) -> Figures:
    """Agreement of these answers with the rows' offline labels, and how far the confidence is from it."""
    same, inside = answers.cluster_id == _offline(rows, cluster_ids), rows.labels >= 0
    return Figures(
        cluster_agreement=_share(same[inside]),
        noise_agreement=_share(same[~inside]),
        cluster_ece=expected_calibration_error(answers.cluster_confidence, same) if len(same) else None,
        num_judged=len(same),
        reliability=reliability(answers.cluster_confidence, same),
    )


def _classified(arrays: ClassifierArrays, rows: Labelled) -> Classified:
    return Classifier(arrays, run_id=None).classify(
        rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass
    )


def _offline(rows: Labelled, cluster_ids: I32) -> I32:
    """[m], the stable id of each row's cluster, -1 for noise."""
    return np.append(cluster_ids, NO_CLUSTER).astype(np.int32)[rows.labels]


def _share(right: npt.NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None


def _radii(tiles: Prototypes, features: F32, labels: I32) -> F32:
    """[c], how far a row may lie from the nearest prototype of each cluster to be of a kind that was seen there."""
    radii = np.full(len(tiles.start), LEAST_RADIUS, dtype=np.float32)
    ends = np.append(tiles.start[1:], len(tiles.points))
    for cluster in range(len(radii)):
        members = np.flatnonzero(labels == cluster)
        mine = Frame(tiles.points[tiles.start[cluster] : ends[cluster]])
        reach = float(mine.nearest(features[members], k=1).distance.max(initial=0.0))
        radii[cluster] = max(ROOM * reach, LEAST_RADIUS)
    return radii


def _with_confidence(arrays: ClassifierArrays, rows: Labelled, *, cluster_ids: I32) -> ClassifierArrays:
    """The curve from depth to the chance that the cluster is the offline one, and the chance of there being none."""
    # With depth as the confidence the classifier says how deep each row lies.
    plain = replace(arrays, cluster_curve=np.array([[0.0, 1.0], [0.0, 1.0]], dtype=np.float32))
    answers = _classified(plain, rows)
    right, claimed = answers.cluster_id == _offline(rows, cluster_ids), answers.cluster_id != NO_CLUSTER
    none_right = (right[~claimed].sum() + PRIOR_WEIGHT * UNPROVEN) / ((~claimed).sum() + PRIOR_WEIGHT)
    return replace(
        arrays,
        cluster_curve=confidence_curve(answers.cluster_confidence[claimed], right[claimed]),
        unclaimed_confidence=np.array([none_right], dtype=np.float32),
    )


def confidence_curve(score: F32, right: npt.NDArray[np.bool_]) -> F32:
    """[2, k]: ascending scores and the share of right answers near each, never falling (isotonic, binned).

    Few rows give few knots, each drawn towards the overall share; none give `UNPROVEN`.
    """
    if not len(score):
        return no_clusters().cluster_curve
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, int(np.clip(len(order) // MIN_ROWS_PER_KNOT, 1, NUM_KNOTS)))
    overall = (right.sum() + PRIOR_WEIGHT * UNPROVEN) / (len(right) + PRIOR_WEIGHT)
    weight = np.array([len(part) for part in parts], dtype=np.float64)
    height = np.array([(right[part].sum() + PRIOR_WEIGHT * overall) / (len(part) + PRIOR_WEIGHT) for part in parts])
    at = np.array([score[part].mean(dtype=np.float64) for part in parts])
    return np.vstack([at, never_falling(height, weight)]).astype(np.float32)


def never_falling(height: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pool adjacent violators: the closest ascending sequence in weighted squares."""
    blocks: list[tuple[float, float, int]] = []
    for value, mass in zip(height.tolist(), weight.tolist(), strict=True):
        blocks.append((value, mass, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (v1, m1, n1), (v2, m2, n2) = blocks[-2:]
            blocks[-2:] = [((v1 * m1 + v2 * m2) / (m1 + m2), m1 + m2, n1 + n2)]
    return np.repeat([value for value, _, _ in blocks], [count for _, _, count in blocks])
