"""Which map a window gets: the last one followed, or a new frame, by a rule.

| event    | when                                                                                               |
|----------|----------------------------------------------------------------------------------------------------|
| first    | there is no earlier map                                                                            |
| followed | the map in its old frame is as trustworthy as when the frame was made, less `MAX_LOSS` at most     |
| renewed  | it is less, and a whole layout is better by `MIN_GAIN`: that one is taken, and starts a new frame  |
| kept     | it is less, but a whole layout is no better: the rows have changed, not the map; followed again    |
| resumed  | hardly a row of the last map is in the window: followed from where its anchors would place the rows |
| new_space | the last map rests on another matrix's sketches, or on the averages: its places say nothing here  |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.frame import MIN_SHARED, Anchors, follow, laid_over, started
from attn_assets.discovery.mapping import fit_map, place
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.quality import trustworthiness

MAX_LOSS = 0.01
MIN_GAIN = 0.01
MIN_JUDGED = 100
"""Of fewer rows trustworthiness says more about the rows than about the map: no frame is given up for it."""
F32 = npt.NDArray[np.float32]
Remember = Callable[[str, Callable[[], F32]], F32]
"""Gives what was made under a name before, or makes it and keeps it."""


@dataclass(frozen=True, kw_only=True)
class LastMap:
    """The map of the run before, as far as it speaks of this window's m rows."""

    positions: F32
    """[m, 2], where each row lay; NaN where it was not on it."""
    anchors: Anchors | None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The map of s rows, and in which frame it is."""

    positions: F32
    """[s, 2]"""
    event: str
    since_us: int
    """Names the frame: the newest capture of the window for which it was made."""
    trustworthiness: float
    """Of the map, 0..1; NaN with too few rows to say."""
    trustworthiness_at_birth: float
    """What later maps in this frame are held against."""

    @property
    def bounded(self) -> bool:
        """Whether rows of the last map moved by no more than `frame.MAX_STEP`."""
        return self.event in ("followed", "kept")

    def facts(self) -> dict[str, str | int | float | None]:
        """What the manifest says of the frame."""
        known = {"trustworthiness": self.trustworthiness, "trustworthiness_at_birth": self.trustworthiness_at_birth}
        return {
            "event": self.event,
            "since_us": self.since_us,
            **{name: None if np.isnan(value) else value for name, value in known.items()},
        }


def draw(search: Frame, *, known: F32, anchors: Anchors | None, now_us: int, seed: int, remember: Remember) -> Drawn:
    """The map of the rows of `search`. `known` [s, 2]: where they lay on the last map, NaN where they were not.

    The same input and seed give the same bytes, whatever `remember` had kept.
    """
    event, bounds = "followed", known
    if np.isfinite(known[:, 0]).sum() < MIN_SHARED:
        if anchors is None or not len(anchors.features):
            return _born("first", remember("map", lambda: fit_map(search, seed=seed)), search, now_us=now_us, seed=seed)
        event, known = "resumed", place(Frame(anchors.features), anchors.positions, search.features)
        bounds = np.full_like(known, np.nan)
    positions = remember("map", lambda: follow(search, known, bounds=bounds, seed=seed))
    trust = _trust(search, positions, seed=seed)
    since_us, birth = (anchors.since_us, anchors.trustworthiness) if anchors else (now_us, trust)
    # Not a number (too few rows to say, then or now) is no loss.
    if birth - trust > MAX_LOSS:
        whole = remember("map-renewed", lambda: laid_over(_whole(search, known, seed=seed), known))
        renewed = _born("renewed", whole, search, now_us=now_us, seed=seed)
        if renewed.trustworthiness - trust > MIN_GAIN:
            return renewed
        event, birth = ("kept" if event == "followed" else event), trust
    return Drawn(
        positions=positions,
        event=event,
        since_us=since_us,
        trustworthiness=trust,
        trustworthiness_at_birth=trust if np.isnan(birth) else birth,
    )


def _whole(search: Frame, known: F32, *, seed: int) -> F32:
    return fit_map(search, seed=seed, init=started(search, known))


def _born(event: str, positions: F32, search: Frame, *, now_us: int, seed: int) -> Drawn:
    trust = _trust(search, positions, seed=seed)
    return Drawn(
        positions=positions, event=event, since_us=now_us, trustworthiness=trust, trustworthiness_at_birth=trust
    )


def _trust(search: Frame, positions: F32, *, seed: int) -> float:
    if len(positions) < MIN_JUDGED:
        return float("nan")
    found = trustworthiness(search.features, positions, seed=seed)
    return float("nan") if found is None else found
