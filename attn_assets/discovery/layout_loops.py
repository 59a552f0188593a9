"""UMAP's layout as a loop: umap-learn's moves in umap-learn's order, its forces read from tables.

One thread, as umap-learn with a seed. A form in which each row moves itself alone, so that any number of threads give
the same bytes, was tried and lost 0.007 to 0.014 of trustworthiness (docs/decisions/0015).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.compiled import compiled

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
NEGATIVE_SAMPLES = 5
DROPPED_BITS = 17
"""Of a float32's 23 bits of mantissa: 64 steps an octave are left, a step of 1.6%."""
FIRST_OCTAVE, LAST_OCTAVE = -20, 16
FIRST_PLACE = (127 + FIRST_OCTAVE) << (23 - DROPPED_BITS)


def forces(a: float, b: float) -> tuple[F32, F32]:
    """Pull and push by squared distance, as tables that `_force` reads: the force over the distance's components.

    Each move waits for the one before it, so what a force takes is what the layout takes: a power and a division, or
    one look into a table that stays in the processor's first cache. The table is right within 0.8%.
    """
    places = np.arange((LAST_OCTAVE - FIRST_OCTAVE) << (23 - DROPPED_BITS), dtype=np.int32) + FIRST_PLACE
    # The middle of each step.
    squared = ((places << DROPPED_BITS) + (1 << (DROPPED_BITS - 1))).view(np.float32).astype(np.float64)
    pull = -2.0 * a * b * squared ** (b - 1.0) / (a * squared**b + 1.0)
    push = 2.0 * b / ((0.001 + squared) * (a * squared**b + 1.0))
    return pull.astype(np.float32), push.astype(np.float32)


@compiled
def _force(table: F32, squared: np.float32) -> np.float32:
    """The table's value at this squared distance: see `forces`."""
    place = int(np.float32(squared).view(np.int32) >> DROPPED_BITS) - FIRST_PLACE
    found: np.float32 = table[min(max(place, 0), len(table) - 1)]
    return found


@compiled
def _clipped(value: np.float32) -> np.float32:
    return min(max(value, np.float32(-4.0)), np.float32(4.0))


@compiled
def move(
    head: I32,
    tail: I32,
    every: F32,
    due: F32,
    negative_due: F32,
    positions: F32,
    pull: F32,
    push: F32,
    alpha: float,
    epoch: int,
    seed: np.uint64,
) -> np.uint64:
    """Move `positions` [s, d] by one epoch; edge e is due once in `every[e]` epochs. Returns the next seed, not 0."""
    count, dim, step, state = len(positions), positions.shape[1], np.float32(alpha), seed
    here = np.empty(dim, dtype=np.float32)
    for edge in range(len(head)):
        if due[edge] > epoch:
            continue
        row, other = head[edge], tail[edge]
        squared = np.float32(0.0)
        for d in range(dim):
            here[d] = positions[row, d]
            squared += (here[d] - positions[other, d]) ** 2
        force = _force(pull, squared)
        for d in range(dim):
            to = step * _clipped(force * (here[d] - positions[other, d]))
            here[d] += to
            positions[other, d] -= to
        due[edge] += every[edge]
        apart = every[edge] / np.float32(NEGATIVE_SAMPLES)
        num_apart = int((np.float32(epoch) - negative_due[edge]) / apart)
        for _ in range(num_apart):
            # xorshift64: Marsaglia 2003.
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            # Multiply and shift: a division would take longer than the force.
            drawn = np.int64(((state >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32))
            if drawn == row:
                continue
            squared = np.float32(0.0)
            for d in range(dim):
                squared += (here[d] - positions[drawn, d]) ** 2
            force = _force(push, squared)
            for d in range(dim):
                here[d] += step * _clipped(force * (here[d] - positions[drawn, d]))
        negative_due[edge] += num_apart * apart
        for d in range(dim):
            positions[row, d] = here[d]
    return state
