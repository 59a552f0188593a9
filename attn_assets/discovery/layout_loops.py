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
    """Move `positions` [s, 2] by one epoch; edge e is due once in `every[e]` epochs. Returns the next seed, not 0."""
    count, step, state = len(positions), np.float32(alpha), seed
    for edge in range(len(head)):
        if due[edge] > epoch:
            continue
        row, other = head[edge], tail[edge]
        x, y = positions[row, 0], positions[row, 1]
        dx, dy = x - positions[other, 0], y - positions[other, 1]
        force = _force(pull, dx * dx + dy * dy)
        to_x, to_y = step * _clipped(force * dx), step * _clipped(force * dy)
        x, y = x + to_x, y + to_y
        positions[other, 0] -= to_x
        positions[other, 1] -= to_y
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
            dx, dy = x - positions[drawn, 0], y - positions[drawn, 1]
            force = _force(push, dx * dx + dy * dy)
            x += step * _clipped(force * dx)
            y += step * _clipped(force * dy)
        negative_due[edge] += num_apart * apart
        positions[row, 0], positions[row, 1] = x, y
    return state
