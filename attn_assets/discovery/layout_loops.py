"""UMAP's layout as loops that give the same bytes on any number of threads.

umap-learn moves both ends of an edge as it comes to it, so its threads race. Here each row moves itself only, by its
own edges, and reads where the others were before: rows are taken in `GROUPS` groups, one after another, and those of a
group move at once. Every row draws its negative samples from numbers of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.compiled import compiled

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
GROUPS = 4
NEGATIVE_SAMPLES = 5
_CLIP = 4.0


@compiled
def _power(base: np.float32, exponent: np.float32) -> np.float32:
    return np.float32(np.exp(exponent * np.log(base)))


@compiled
def _clipped(value: np.float32) -> np.float32:
    return min(max(value, np.float32(-4.0)), np.float32(4.0))


@compiled
def move(
    rows: I32,
    first: int,
    last: int,
    edge_start: I64,
    tail: I32,
    every: F32,
    due: F32,
    negative_due: F32,
    states: U64,
    positions: F32,
    moved: F32,
    a: float,
    b: float,
    alpha: float,
    epoch: int,
) -> None:
    """Move rows[first:last] by one epoch: from `positions` [s, 2] into `moved`, at the rows' places in `rows`.

    Edge e of row i is due once in `every[e]` epochs, and pulls twice: once for each of its ends, as umap-learn counts.
    """
    count = len(positions)
    a32, b32, step = np.float32(a), np.float32(b), np.float32(alpha)
    pull, push = np.float32(-2.0 * a * b), np.float32(2.0 * b)
    for place in range(first, last):
        row = rows[place]
        x, y = positions[row, 0], positions[row, 1]
        state = states[row]
        for edge in range(edge_start[row], edge_start[row + 1]):
            if due[edge] > epoch:
                continue
            other = tail[edge]
            for _ in range(2):
                dx, dy = x - positions[other, 0], y - positions[other, 1]
                squared = dx * dx + dy * dy
                if squared > 0.0:
                    power = _power(squared, b32)
                    force = pull * power / (squared * (a32 * power + np.float32(1.0)))
                    x += step * _clipped(force * dx)
                    y += step * _clipped(force * dy)
            due[edge] += every[edge]
            apart = every[edge] / np.float32(NEGATIVE_SAMPLES)
            num_apart = int((np.float32(epoch) - negative_due[edge]) / apart)
            for _ in range(num_apart):
                # xorshift64: Marsaglia 2003.
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                other = np.int64((state >> np.uint64(33)) % np.uint64(count))
                if other == row:
                    continue
                dx, dy = x - positions[other, 0], y - positions[other, 1]
                squared = dx * dx + dy * dy
                if squared > 0.0:
                    force = push / ((np.float32(0.001) + squared) * (a32 * _power(squared, b32) + np.float32(1.0)))
                    x += step * _clipped(force * dx)
                    y += step * _clipped(force * dy)
            negative_due[edge] += num_apart * apart
        states[row] = state
        moved[place, 0], moved[place, 1] = x, y
