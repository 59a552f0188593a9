"""The served classifier of a window: its landmarks, what their votes are worth, and how good they are.

A vote's worth is learned on the landmarks themselves, each asked as if it were none: with what chance its nearest
others give it the label that HDBSCAN gave it. Zones need no fit here: served and offline zones are one formula.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_assets.discovery.clustering import NOISE
from attn_assets.discovery.grouping import MAX_LANDMARKS, Votes, cells_of, others_near, votes
from attn_assets.discovery.learned_space import Coordinates, coordinates, own_sketches
from attn_assets.discovery.models import Models
from attn_assets.discovery.neighbours import Neighbours
from attn_assets.discovery.quality import expected_calibration_error, reliability
from attn_assets.discovery.sample import lasting_rows, split_rows
from attn_assets.discovery.window import Window
from attn_core.baseline import Baseline, baseline_from_answers
from attn_core.classify import Classifier, ClassifierArrays
from attn_core.landmarks import LEAST_SHARE, Landmarks
from attn_core.space import Space

UNPROVEN = 0.5
"""The chance where nothing is known."""
NUM_KNOTS = 12
MIN_ROWS_PER_KNOT = 25
PRIOR_WEIGHT = 2.0
"""Rows' worth of belief in the overall accuracy that each knot of a confidence curve starts from."""
_SEED = 0x6C616E646D61726B
"""Another one than the sample's, which landmarks are drawn from."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How often the nearest other landmarks find a landmark's own label; None where none could tell."""

    cluster_agreement: float | None
    """Of those in a cluster."""
    noise_agreement: float | None
    """Of those in none: share that no cluster claims."""
    cluster_ece: float | None
    """Expected calibration error of `cluster_confidence`, learned on half of the landmarks, judged on the others."""
    num_judged: int
    reliability: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class LandmarkRows:
    """l rows of a window that others are compared with."""

    row: I64
    """[l], places in the window, ascending."""
    at: Coordinates
    """Theirs."""
    position: F32
    """[l, 2], on the map."""
    averages_cell: I32
    sketch_cell: I32 | None

    @classmethod
    def chosen(
        cls,
        window: Window,
        models: Models,
        space: Space,
        *,
        in_sample: npt.NDArray[np.bool_],
        row_ids: I64,
        positions: F32,
    ) -> LandmarkRows:
        """At most `MAX_LANDMARKS` rows of the map's sample, the same ones from window to window."""
        sampled = np.flatnonzero(in_sample)
        rows = sampled[lasting_rows(row_ids[sampled], size=MAX_LANDMARKS, seed=_SEED)]
        at = coordinates(window, models, space, rows)
        return cls(
            row=rows,
            at=at,
            position=positions[rows],
            averages_cell=cells_of(at.averages, seed=0),
            sketch_cell=None if at.sketch is None else cells_of(at.sketch, seed=0),
        )

    def arrays(self, labels: I32, *, cluster_ids: I32) -> ClassifierArrays:
        """The classifier with these labels, int32 [l], places in `cluster_ids`, before its votes' worth is known."""
        found = {
            name: self._landmarks(name, labels, told)
            for name, told in self.votes(labels, num_clusters=len(cluster_ids)).items()
        }
        return ClassifierArrays(cluster_ids=cluster_ids.astype(np.int32), **found)

    def votes(self, labels: I32, *, num_clusters: int) -> dict[str, Votes]:
        """What each landmark's nearest others say of it, by their averages and, where there are any, their sketches."""
        return {name: votes(near, labels, num_clusters=num_clusters) for name, near in self._near.items()}

    @cached_property
    def _near(self) -> dict[str, Neighbours]:
        found = {"averages": others_near(self.at.averages)}
        return found if self.at.sketch is None else {**found, "sketch": others_near(self.at.sketch)}

    def _landmarks(self, name: str, labels: I32, told: Votes) -> Landmarks:
        points, cell = getattr(self.at, name), getattr(self, f"{name}_cell")
        order = np.argsort(cell, kind="stable")
        start = np.searchsorted(cell[order], np.arange(int(cell.max(initial=-1)) + 1))
        return replace(
            Landmarks.none(points.shape[1]),
            rows=np.ascontiguousarray(points[order]),
            label=labels[order].astype(np.int32),
            position=np.ascontiguousarray(self.position[order]),
            cell_start=start.astype(np.int32),
            reach=told.reach,
        )

    def table(self, labels: I32) -> pa.Table:
        """What `from_table` takes: a row a landmark."""
        none = pa.nulls(len(self.row), pa.int32())
        return pa.table(
            {
                "row": pa.array(self.row, pa.int64()),
                "label": pa.array(labels, pa.int32()),
                "averages_cell": pa.array(self.averages_cell, pa.int32()),
                "sketch_cell": none if self.sketch_cell is None else pa.array(self.sketch_cell, pa.int32()),
            }
        )

    @classmethod
    def from_table(
        cls, table: pa.Table, window: Window, models: Models, space: Space, *, positions: F32
    ) -> tuple[LandmarkRows, I32]:
        """The landmarks of `table` and their labels."""
        rows = table.column("row").to_numpy().astype(np.int64)
        at = coordinates(window, models, space, rows)
        cell = table.column("averages_cell").to_numpy().astype(np.int32)
        sketch_cell = None if at.sketch is None else table.column("sketch_cell").to_numpy().astype(np.int32)
        found = cls(row=rows, at=at, position=positions[rows], averages_cell=cell, sketch_cell=sketch_cell)
        return found, table.column("label").to_numpy().astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A classifier, its figures, and what it answered on the landmarks, each asked as if it were none."""

    arrays: ClassifierArrays
    figures: Figures
    baseline: Baseline


def served(landmarks: LandmarkRows, labels: I32, *, cluster_ids: I32) -> Served:
    """The served classifier of clusters 0..c-1, whose stable ids these are; `labels` int32 [l], -1 for noise."""
    arrays = landmarks.arrays(labels, cluster_ids=cluster_ids)
    found = landmarks.votes(labels, num_clusters=len(cluster_ids))
    for name, one in found.items():
        claimed, unclaimed = curves(one, labels)
        part = replace(getattr(arrays, name), claimed_curve=claimed, unclaimed_curve=unclaimed)
        arrays = replace(arrays, **{name: part})
    main = found.get("sketch", found["averages"])
    answers = np.append(cluster_ids, np.int32(NOISE))[main.answer]
    return Served(
        arrays=arrays,
        figures=figures_of(main, labels),
        baseline=baseline_from_answers(landmarks.at.averages, answers, cluster_ids=cluster_ids),
    )


def label_rows(
    window: Window, models: Models, space: Space, arrays: ClassifierArrays, rows: I64, *, threads: int
) -> I32:
    """int32 [r]: the cluster ids of these rows, as the sidecar would say."""
    classifier = Classifier(arrays, run_id=None, space=space)
    sketch, found = own_sketches(window, space), np.full(len(rows), NOISE, dtype=np.int32)
    for number, name in enumerate(models.names):
        mine = np.flatnonzero(models.of_row[rows] == number)
        chosen = rows[mine]
        found[mine], _ = classifier.clusters_of(
            window.vectors[chosen],
            context_len=window.given_context_len[chosen],
            sink_mass=window.given_sink_mass[chosen],
            head_sketch=sketch[chosen],
            head_projection=space.projection,
            model_id=name,
            threads=threads,
        )
    return found


def figures_of(found: Votes, labels: I32) -> Figures:
    """Agreement of these votes with the landmarks' own labels, and how far the confidence is from it."""
    same, inside = found.answer == labels, labels >= 0
    learned, judged = split_rows(len(labels), shares=(0.5, 0.5), seed=0)
    confidence = _confidence(found, *curves(found.rows(learned), labels[learned]))
    return Figures(
        cluster_agreement=_share(same[inside]),
        noise_agreement=_share(same[~inside]),
        cluster_ece=expected_calibration_error(confidence[judged], same[judged]) if len(judged) else None,
        num_judged=len(same),
        reliability=reliability(confidence[judged], same[judged]),
    )


def curves(found: Votes, labels: I32) -> tuple[F32, F32]:
    """`attn_core.landmarks.Landmarks.claimed_curve` and `.unclaimed_curve` from l votes and what was right."""
    claimed, right = found.answer >= 0, found.answer == labels
    of_none = np.where(found.share >= LEAST_SHARE - 1e-9, 0.0, found.share)[~claimed].astype(np.float32)
    none = confidence_curve(-of_none, right[~claimed])
    return confidence_curve(found.share[claimed], right[claimed]), np.array([-none[0, ::-1], none[1, ::-1]])


def confidence_curve(score: F32, right: npt.NDArray[np.bool_]) -> F32:
    """[2, k]: ascending scores and the share of right answers near each, never falling (isotonic, binned).

    Few rows give few knots, each drawn towards the overall share; none give `UNPROVEN`.
    """
    if not len(score):
        return np.array([[0.0], [UNPROVEN]], dtype=np.float32)
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


def _confidence(found: Votes, claimed: F32, unclaimed: F32) -> npt.NDArray[np.float64]:
    """[l], as `attn_core.row_loops` reads it from the curves."""
    share = found.share.astype(np.float64)
    of_none = np.where((found.answer < 0) & (share >= LEAST_SHARE - 1e-9), 0.0, share)
    return np.where(found.answer >= 0, np.interp(share, *claimed), np.interp(of_none, *unclaimed))


def _share(right: npt.NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
