"""A window's map: fitted on a seeded sample, the rest placed in batches, each finished piece handed to a keeper.

A keeper remembers finished pieces between attempts, so that a run that was interrupted takes up where it stopped. What
it gives back is bit for bit what was put in, so the result does not depend on whether there was an interruption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.distinct import distinct_rows
from attn_assets.discovery.frame import MAX_STEP, width, within
from attn_assets.discovery.learned_space import Coordinates
from attn_assets.discovery.mapping import place
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.renewal import Drawn, LastMap, draw
from attn_assets.discovery.sample import lasting_rows, sample_rows

F32 = npt.NDArray[np.float32]
Report = Callable[[int, int], None]
"""Told (rows done, rows in all)."""


class Keeper(Protocol):
    """Remembers arrays by name."""

    def recall(self, name: str) -> F32 | None:
        """The array put in under this name, or None."""

    def keep(self, name: str, array: F32) -> None:
        """Remember the array, durably where the keeper is durable."""


class NoKeeper:
    """Remembers nothing."""

    def recall(self, name: str) -> F32 | None:
        """Nothing."""
        return None

    def keep(self, name: str, array: F32) -> None:
        """Forget."""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Where each of m rows lies on the map."""

    positions: F32
    """[m, 2]"""
    in_sample: npt.NDArray[np.bool_]
    """[m], whether the map was fitted on the row (else it was placed)."""
    drawn: Drawn | None = None
    """Of the sample's map: its frame, where it is known."""


def embed(
    features: F32,
    *,
    sample_size: int,
    batch_size: int,
    seed: int,
    keeper: Keeper,
    report: Report,
    row_ids: npt.NDArray[np.int64] | None = None,
    last: LastMap | None = None,
    now_us: int = 0,
) -> Embedding:
    """The map of float32 [m, d]: UMAP on at most `sample_size` rows, the rest in batches of `batch_size`.

    Equal rows are one point: they lie at one place, and the first of them stands for all in the sample.

    With `last` it is drawn in the frame of that map (`renewal`); `row_ids` [m] makes the sample last from window to
    window; `now_us`, the window's newest capture, names a frame that begins here.
    """
    distinct = distinct_rows(features)
    first = distinct.first
    if len(first) < len(features):
        found = embed(
            features[first],
            sample_size=sample_size,
            batch_size=batch_size,
            seed=seed,
            keeper=keeper,
            report=lambda done, total: report(len(features) - total + done, len(features)),
            row_ids=None if row_ids is None else row_ids[first],
            last=None if last is None else replace(last, positions=last.positions[first]),
            now_us=now_us,
        )
        in_sample = np.zeros(len(features), dtype=np.bool_)
        in_sample[first] = found.in_sample
        return Embedding(positions=found.positions[distinct.kind], in_sample=in_sample, drawn=found.drawn)
    num_rows = len(features)
    if row_ids is None:
        chosen = sample_rows(num_rows, size=sample_size, seed=seed)
    else:
        chosen = lasting_rows(row_ids, size=sample_size, seed=seed)
    report(0, num_rows)
    frame = Frame(features[chosen]) if num_rows else None
    positions = np.zeros((num_rows, 2), dtype=np.float32)
    in_sample = np.zeros(num_rows, dtype=np.bool_)
    in_sample[chosen] = True
    if frame is None:
        return Embedding(positions=positions, in_sample=in_sample)
    known = np.full((num_rows, 2), np.nan, dtype=np.float32) if last is None else last.positions
    drawn = draw(
        frame,
        known=known[chosen],
        anchors=None if last is None else last.anchors,
        now_us=now_us,
        seed=seed,
        remember=lambda name, make: _remembered(keeper, name, make),
    )
    frame_map = drawn.positions
    limit = MAX_STEP * width(known[np.isfinite(known[:, 0])])
    positions[chosen] = frame_map
    done = len(chosen)
    report(done, num_rows)
    rest = np.flatnonzero(~in_sample)
    for start in range(0, len(rest), batch_size):
        batch = rest[start : start + batch_size]
        # Bound to a name now: a lambda in a loop would see the next batch.
        queries = features[batch]
        positions[batch] = _remembered(
            keeper,
            f"placed-{start:012d}",
            lambda q=queries: place(frame, frame_map, q),  # type: ignore[misc]
        )
        if drawn.bounded:
            positions[batch] = within(positions[batch], known[batch], limit=limit)
        done += len(batch)
        report(done, num_rows)
    return Embedding(positions=positions, in_sample=in_sample, drawn=drawn)


def embed_all(
    at: Coordinates,
    *,
    sample_size: int,
    batch_size: int,
    seed: int,
    keeper: Keeper,
    report: Report,
    row_ids: npt.NDArray[np.int64],
    last: LastMap | None,
    now_us: int,
) -> Embedding:
    """The map of m rows by what it rests on (`embed`); rows without that are placed by their averages."""
    there = np.flatnonzero(at.in_main)
    found = embed(
        at.main[there],
        sample_size=sample_size,
        batch_size=batch_size,
        seed=seed,
        keeper=keeper,
        report=lambda done, total: report(done, len(at.averages)),
        row_ids=row_ids[there],
        last=None if last is None else replace(last, positions=last.positions[there]),
        now_us=now_us,
    )
    rest = np.flatnonzero(~at.in_main)
    if not len(rest):
        return found
    positions, in_sample = np.zeros((len(at.averages), 2), np.float32), np.zeros(len(at.averages), np.bool_)
    positions[there], in_sample[there] = found.positions, found.in_sample
    sampled = np.flatnonzero(in_sample)
    frame = Frame(at.averages[sampled])
    for start in range(0, len(rest), batch_size):
        batch = rest[start : start + batch_size]
        positions[batch] = place(frame, positions[sampled], at.averages[batch])
        if last is not None and found.drawn is not None and found.drawn.bounded:
            known = last.positions
            limit = MAX_STEP * width(known[np.isfinite(known[:, 0])])
            positions[batch] = within(positions[batch], known[batch], limit=limit)
        report(len(there) + start + len(batch), len(at.averages))
    return Embedding(positions=positions, in_sample=in_sample, drawn=found.drawn)


def _remembered(keeper: Keeper, name: str, make: Callable[[], F32]) -> F32:
    known = keeper.recall(name)
    if known is not None:
        return known
    made = make()
    keeper.keep(name, made)
    return made
