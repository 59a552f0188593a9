"""Hourly partitions in UTC, the running hour included, and the window of hours that a run looks at."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime

import dagster as dg

from attn_assets.settings import HOUR_FORMAT
from attn_core.store import HOUR_US


def hourly(first_hour: str) -> dg.HourlyPartitionsDefinition:
    """A partition an hour from `first_hour` up to and including the hour that is still running."""
    return dg.HourlyPartitionsDefinition(start_date=first_hour, fmt=HOUR_FORMAT, timezone="UTC", end_offset=1)


def last_hours(window_hours: int) -> dg.TimeWindowPartitionMapping:
    """An hour's window: it and the hours before it, `window_hours` in all."""
    with warnings.catch_warnings():
        # Dagster calls the allowance beta at each start; the first day's windows need it, and our pin is exact.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.TimeWindowPartitionMapping(
            start_offset=1 - window_hours, end_offset=0, allow_nonexistent_upstream_partitions=True
        )


def key_from_us(at_us: int) -> str:
    """The partition that holds this instant, in UTC microseconds."""
    return datetime.fromtimestamp(at_us // HOUR_US * HOUR_US / 1e6, UTC).strftime(HOUR_FORMAT)


def us_from_key(key: str) -> int:
    """The first instant of a partition, in UTC microseconds."""
    return int(datetime.strptime(key, HOUR_FORMAT).replace(tzinfo=UTC).timestamp()) * 1_000_000
