"""What `/stats` and `/metrics` show of `--online`."""

from __future__ import annotations

import msgspec


class OnlineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What `/stats` shows of the time since the served run was loaded. Null: cannot be told (yet), see `not_judged`."""

    run_id: str | None
    num_points: int
    """Points followed."""
    num_passed_over: int
    """Points left out because they came faster than they are followed."""
    novelty: float | None
    """Share of points that no cluster claims."""
    novelty_expected: float | None
    """The same share among the run's own held-out rows."""
    novelty_excess: float | None
    """Their difference: what the bound is held against, by the lower end of its interval."""
    novelty_excess_interval: tuple[float, float] | None
    """95%."""
    novelty_bound: float
    drift: float | None
    """How far the clusters' points have moved, in the clusters' root mean square radii."""
    drift_interval: tuple[float, float] | None
    """95%."""
    drift_bound: float
    followed_shift: float | None
    """Mean distance of the followed centres of the clusters from the served ones, in cluster radii."""
    half_life_points: int
    min_points: int
    not_judged: str | None
    """Why no bound is looked at at the moment."""
    early_run_asked_at_us: int | None
    early_run_reason: str | None
