"""Drift of the newest hour, beside what chance gives."""

from __future__ import annotations

import numpy as np
import pytest

from attn_assets.discovery.drift import HIGH, MIN_REQUESTS, Drift, drift_of
from attn_core.store import HOUR_US

TOKENS = 30
END_US = 24 * HOUR_US
FIGURES = ("distance", "zones", "clusters", "outliers")


def day(
    *, seed: int, num_requests: int = 120, shift: float = 0.0, newest: int = 10, noise_in_newest: float = 0.1
) -> dict[str, np.ndarray]:
    """A day of requests that each have a manner of their own; the `newest` ones came in the last hour, and shifted."""
    rng = np.random.default_rng(seed)
    manner = rng.normal(size=(num_requests, 3))
    manner[-newest:, 0] += shift
    zone = rng.integers(0, 5, num_requests)
    zone[-newest:] = np.where(rng.random(newest) < min(abs(shift), 1.0), 2, zone[-newest:])
    request_no = np.repeat(np.arange(num_requests), TOKENS)
    at = np.sort(rng.uniform(0, END_US - HOUR_US, num_requests)).astype(np.int64)
    at[-newest:] = END_US - HOUR_US + np.arange(newest)
    share = np.where(np.arange(num_requests) >= num_requests - newest, noise_in_newest, 0.1)
    outlier = rng.random(len(request_no)) < share[request_no]
    return {
        "features": (manner[request_no] + 0.3 * rng.normal(size=(len(request_no), 3))).astype(np.float32),
        "zone_index": zone[request_no].astype(np.int8),
        "cluster_ids": np.where(outlier, -1, zone[request_no]).astype(np.int32),
        "request_no": request_no,
        "captured_at_us": at[request_no],
    }


def drift(**changes: object) -> Drift:
    found = drift_of(**day(**changes), end_us=END_US, seed=0)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_planted_shift_is_beyond_chance_in_every_figure_and_larger_shifts_give_more():
    quiet, moved, far = (drift(seed=4, shift=shift) for shift in (0.0, 1.5, 3.0))
    for name in ("distance", "zones", "clusters"):
        values = [getattr(one, name).value for one in (quiet, moved, far)]
        assert not getattr(quiet, name).beyond_chance
        assert getattr(far, name).beyond_chance
        assert values[0] < values[2]
    assert quiet.distance.value < moved.distance.value < far.distance.value


def test_more_outliers_in_the_newest_hour_are_told():
    loud = drift(seed=2, noise_in_newest=0.6)
    assert loud.outliers.beyond_chance
    assert loud.outliers.value == pytest.approx(0.5, abs=0.1)
    assert loud.outlier_share == pytest.approx(0.6, abs=0.1)
    assert not drift(seed=2).outliers.beyond_chance


def test_hours_without_a_cause_are_seldom_beyond_chance_though_requests_differ():
    """40 quiet days: at the quantile `HIGH` each figure may pass in 1 of 100; 4 of 40 have a chance of 1 in 2,000."""
    quiet = [drift(seed=seed, num_requests=60, newest=5) for seed in range(40)]
    for name in FIGURES:
        assert sum(getattr(one, name).beyond_chance for one in quiet) <= 3, (name, HIGH)


def test_the_distance_is_that_of_two_known_distributions():
    """Two normals one standard deviation apart: W1 is 1 along the shift; over directions |cos| is 1/2 in the mean."""
    rng = np.random.default_rng(0)
    count, per = 400, 50
    request_no = np.repeat(np.arange(count), per)
    new = np.arange(count) >= count // 2
    features = rng.normal(size=(count * per, 3))
    features[:, 0] += new[request_no]
    found = drift_of(
        features.astype(np.float32),
        zone_index=np.zeros(len(features), np.int8),
        cluster_ids=np.zeros(len(features), np.int32),
        request_no=request_no,
        captured_at_us=np.where(new, END_US - 1, 0)[request_no],
        end_us=END_US,
        seed=0,
    )
    assert found is not None
    # All directions together: a pooled variance of 1 + 1/4 along the shift, so 1 + 1/12 in the mean.
    assert found.distance.value == pytest.approx(0.5 / np.sqrt(1 + 1 / 12), rel=0.15)
    assert found.zones.value == pytest.approx(0.0, abs=1e-9)


def test_stability_index_of_two_known_shares():
    request_no = np.repeat(np.arange(100), TOKENS)
    new = np.arange(100) >= 50
    rng = np.random.default_rng(0)
    zone = (rng.random(len(request_no)) < np.where(new, 0.5, 0.2)[request_no]).astype(np.int8)
    found = drift_of(
        rng.normal(size=(len(request_no), 3)).astype(np.float32),
        zone_index=zone,
        cluster_ids=np.zeros(len(zone), np.int32),
        request_no=request_no,
        captured_at_us=np.where(new, END_US - 1, 0)[request_no],
        end_us=END_US,
        seed=0,
    )
    assert found is not None
    assert found.zones.value == pytest.approx(0.3 * np.log(0.5 / 0.2) + 0.3 * np.log(0.8 / 0.5), rel=0.2)
    assert found.zones.beyond_chance


def test_too_few_requests_say_nothing():
    assert drift_of(**day(seed=0, newest=MIN_REQUESTS - 1), end_us=END_US, seed=0) is None  # type: ignore[arg-type]
    assert drift_of(**day(seed=0, num_requests=5, newest=4), end_us=END_US, seed=0) is None  # type: ignore[arg-type]


def test_the_same_window_gives_the_same_figures():
    assert drift(seed=3) == drift(seed=3)
