"""Which model each row of a window is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Models:
    """Which model each of m rows is of."""

    names: Sequence[str | None]
    """[k], model ids as stored; None: not known."""
    of_row: npt.NDArray[np.int64]
    """[m], index into `names`."""

    @classmethod
    def from_column(cls, column: pa.ChunkedArray) -> Models:
        """From a column of model ids."""
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        return cls(names=encoded.dictionary.to_pylist(), of_row=np.asarray(encoded.indices, dtype=np.int64))
