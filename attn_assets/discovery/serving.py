"""The served classifier: fitted to the offline labels, judged on rows that it has not seen.

Prototypes and radii come from 60% of the sample, the confidence curves from 20%, the figures from the last 20%. The
offline label of a row is what the whole graph says of it: its HDBSCAN cluster, and its zone as the
calibration (or else the rules) and that cluster's lift weigh it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from attn_assets.discovery.prototypes import Prototypes, tile_clusters
from attn_assets.discovery.quality import expected_calibration_error, reliability
from attn_assets.discovery.sample import split_rows
from attn_core.baseline import Baseline, baseline_from_answers
from attn_core.classify import NO_CLUSTER, RULES_CONFIDENCE_CAP, Classifier, ClassifierArrays, no_clusters
from attn_core.zone_scorer import ZoneScorer

SPLIT = (0.6, 0.2, 0.2)
LEAST_RADIUS = 1e-4
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
    periodicity: F32
    features: F32
    labels: I32
    """Cluster number within the run, -1 for noise."""
    zone_index: npt.NDArray[np.int8]

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
    zone_agreement: float | None
    ece: float | None
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


def fit(
    rows: Labelled, *, cluster_ids: I32, cluster_zone_lift: F32, seed: int, scorer: ZoneScorer | None = None
) -> Served:
    """The served classifier of clusters 0..c-1, whose stable ids and zone lifts [c, 5] these are.

    `scorer` is the model's zone calibration, None where the rules score the zones.
    """
    fit_part, curve_part, judge_part = split_rows(len(rows.labels), shares=SPLIT, seed=seed)
    # A cluster must keep members to be tiled with: those of small clusters may all lie in the other parts.
    lacking = np.setdiff1d(np.arange(len(cluster_ids)), rows.labels[fit_part])
    if len(lacking):
        fit_part = np.union1d(fit_part, np.flatnonzero(np.isin(rows.labels, lacking)))
    fitting = rows.rows(fit_part)
    tiles = tile_clusters(fitting.features, fitting.labels, num_clusters=len(cluster_ids), seed=seed)
    plain = no_clusters()
    arrays = ClassifierArrays(
        prototypes=tiles.points,
        prototype_start=tiles.start,
        cluster_ids=cluster_ids.astype(np.int32),
        cluster_radius=_radii(tiles, fitting.features, fitting.labels),
        cluster_zone_lift=cluster_zone_lift.astype(np.float32),
        claimed_curve=plain.claimed_curve,
        unclaimed_curve=plain.unclaimed_curve,
    )
    arrays = _with_curves(arrays, rows.rows(curve_part), scorer)
    judging = rows.rows(judge_part)
    figures = judge(arrays, judging, cluster_ids=cluster_ids, scorer=scorer)
    prototypes = Prototypes(
        points=tiles.points, start=tiles.start, nearest_row=fit_part[tiles.nearest_row].astype(np.int32)
    )
    answers = Classifier(arrays, run_id=None, scorer=scorer).raw(
        judging.vectors,
        context_len=judging.context_len,
        sink_mass=judging.sink_mass,
        periodicity=judging.periodicity,
    )
    baseline = baseline_from_answers(judging.features, answers.cluster_id, cluster_ids=cluster_ids)
    return Served(arrays=arrays, prototypes=prototypes, figures=figures, baseline=baseline)


def judge(arrays: ClassifierArrays, rows: Labelled, *, cluster_ids: I32, scorer: ZoneScorer | None = None) -> Figures:
    """Agreement with the offline labels and calibration on these rows."""
    answer = Classifier(arrays, run_id=None, scorer=scorer).classify(
        rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass, periodicity=rows.periodicity
    )
    offline = np.append(cluster_ids, NO_CLUSTER)[rows.labels]
    same_cluster, same_zone = answer.cluster_id == offline, answer.zone_index == rows.zone_index
    inside = rows.labels >= 0
    return Figures(
        cluster_agreement=_share(same_cluster[inside]),
        noise_agreement=_share(same_cluster[~inside]),
        zone_agreement=_share(same_zone),
        ece=expected_calibration_error(answer.confidence, same_zone) if len(same_zone) else None,
        num_judged=len(same_zone),
        reliability=reliability(answer.confidence, same_zone),
    )


def _share(right: npt.NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None


def _radii(tiles: Prototypes, features: F32, labels: I32) -> F32:
    """[c], for each cluster the distance that best parts its members from the others nearest to its prototypes."""
    if not len(tiles.points):
        return np.zeros(0, dtype=np.float32)
    distance, nearest = cKDTree(tiles.points).query(features)
    claimant = tiles.cluster[nearest]
    radii = np.zeros(len(tiles.start), dtype=np.float32)
    for cluster in range(len(radii)):
        near = claimant == cluster
        if not near.any():
            # Every prototype of it lies on another cluster's, which answers there: it claims nothing.
            radii[cluster] = LEAST_RADIUS
            continue
        member, reach = labels[near] == cluster, distance[near]
        order = np.argsort(reach, kind="stable")
        # Right answers if the border lies just past each row in turn: members inside, others outside.
        right = np.cumsum(np.where(member[order], 1, -1))
        best = int(right.argmax())
        # Halfway to the next row, so that a prototype on top of its only member still has room.
        beyond = reach[order][best + 1] if best + 1 < len(order) else 1.1 * reach[order][best]
        radii[cluster] = max((reach[order][best] + beyond) / 2, LEAST_RADIUS)
    return radii


def _with_curves(arrays: ClassifierArrays, rows: Labelled, scorer: ZoneScorer | None) -> ClassifierArrays:
    raw = Classifier(arrays, run_id=None, scorer=scorer).raw(
        rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass, periodicity=rows.periodicity
    )
    right = raw.zone_index == rows.zone_index
    claimed = raw.cluster_id != NO_CLUSTER
    return ClassifierArrays(
        **{
            **vars(arrays),
            "claimed_curve": confidence_curve(raw.score[claimed], right[claimed]),
            "unclaimed_curve": confidence_curve(raw.score[~claimed], right[~claimed]),
        }
    )


def confidence_curve(score: F32, right: npt.NDArray[np.bool_]) -> F32:
    """[2, k]: ascending scores and the share of right answers near each, never falling (isotonic, binned).

    Few rows give few knots, each drawn towards the overall share; none give the caution of uncalibrated rules.
    """
    if not len(score):
        return no_clusters().unclaimed_curve
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, int(np.clip(len(order) // MIN_ROWS_PER_KNOT, 1, NUM_KNOTS)))
    overall = (right.sum() + PRIOR_WEIGHT * RULES_CONFIDENCE_CAP) / (len(right) + PRIOR_WEIGHT)
    weight = np.array([len(part) for part in parts], dtype=np.float64)
    height = np.array([(right[part].sum() + PRIOR_WEIGHT * overall) / (len(part) + PRIOR_WEIGHT) for part in parts])
    at = np.array([score[part].mean(dtype=np.float64) for part in parts])
    return np.vstack([at, _never_falling(height, weight)]).astype(np.float32)


def _never_falling(height: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pool adjacent violators: the closest ascending sequence in weighted squares."""
    blocks: list[tuple[float, float, int]] = []
    for value, mass in zip(height.tolist(), weight.tolist(), strict=True):
        blocks.append((value, mass, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (v1, m1, n1), (v2, m2, n2) = blocks[-2:]
            blocks[-2:] = [((v1 * m1 + v2 * m2) / (m1 + m2), m1 + m2, n1 + n2)]
    return np.repeat([value for value, _, _ in blocks], [count for _, _, count in blocks])
