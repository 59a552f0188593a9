"""The rows of a window as arrays: what the algorithms take, from the Arrow tables that the assets hand on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from attn_assets.discovery.companions import fill_companions
from attn_core.features import features_from_vectors
from attn_core.fingerprint import DIM
from attn_core.zone_scorer import ZoneScorer
from attn_core.zones import zone_features, zone_probabilities

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Window:
    """m rows: vectors, their companions with nothing missing, and the feature space."""

    vectors: F32
    context_len: npt.NDArray[np.int64]
    sink_mass: F32
    periodicity: F32
    features: F32
    num_filled: int
    """Rows whose companions were missing and had to be assumed."""

    def zone_probabilities(self, scorer: ZoneScorer | None = None) -> F32:
        """Each token's probability of each zone, by itself alone, of the calibration or else of the rules: [m, 5]."""
        if scorer is not None:
            return scorer.token_probabilities(self.zone_inputs(scorer))
        return zone_probabilities(
            self.vectors, context_len=self.context_len, sink_mass=self.sink_mass, periodicity=self.periodicity
        )

    def zone_inputs(self, scorer: ZoneScorer) -> npt.NDArray[np.float64]:
        """What the calibration looks at: [m, 25]."""
        return scorer.inputs(self.features, context_len=self.context_len, periodicity=self.periodicity)

    def zone_features(self) -> npt.NDArray[np.float64]:
        """What the rules look at: [m, 5]."""
        return zone_features(
            self.vectors, context_len=self.context_len, sink_mass=self.sink_mass, periodicity=self.periodicity
        )


def window_from_table(table: pa.Table) -> Window:
    """The arrays of a table with the columns vector, context_len, sink_mass and periodicity."""
    vectors = vectors_from_table(table)
    companions = fill_companions(
        vectors,
        context_len=_floats(table, "context_len"),
        sink_mass=_floats(table, "sink_mass"),
        periodicity=_floats(table, "periodicity"),
    )
    return Window(
        vectors=vectors,
        context_len=companions.context_len,
        sink_mass=companions.sink_mass,
        periodicity=companions.periodicity,
        features=features_from_vectors(vectors, context_len=companions.context_len, sink_mass=companions.sink_mass),
        num_filled=companions.num_filled,
    )


def vectors_from_table(table: pa.Table) -> F32:
    """float32 [m, 20] of the `vector` column."""
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(table.num_rows, DIM)


def numbered(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """[m], a number from 0 on for each of a column's values, in the order of their first appearance."""
    codes = column.combine_chunks().dictionary_encode()
    return np.asarray(codes.indices, dtype=np.int64)


def rows_between(table: pa.Table, *, start_us: int, end_us: int, max_id: int | None) -> pa.Table:
    """Rows captured in [start_us, end_us), with an id of at most `max_id` where given, by instant and id."""
    at = table.column("captured_at_us")
    keep = pc.and_(pc.greater_equal(at, start_us), pc.less(at, end_us))
    if max_id is not None:
        keep = pc.and_(keep, pc.less_equal(table.column("id"), max_id))
    return table.filter(keep).sort_by([("captured_at_us", "ascending"), ("id", "ascending")])


def _floats(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    column = pc.cast(table.column(name), pa.float64())
    return np.asarray(pc.fill_null(column, float("nan")).to_numpy(), dtype=np.float64)
