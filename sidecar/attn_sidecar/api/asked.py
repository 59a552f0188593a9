"""Parameters that several endpoints take, each with one name and one meaning everywhere."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from attn_core.errors import BundleError
from attn_core.store import HOUR_US
from attn_sidecar.admission import LATEST_INSTANT_US
from attn_sidecar.api.discovery import not_available
from attn_sidecar.api.endpoint import Parameter
from attn_sidecar.api.problems import Problem
from attn_sidecar.discovery import Discovery, RunUnknown, Served

ARROW_STREAM = "application/vnd.apache.arrow.stream"
RUN_PATTERN = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d{1,6})?"
HOUR_PATTERN = r"\d{4}-\d\d-\d\dT\d\d(:00)?Z?"
RUN = Parameter(
    name="run",
    kind="string",
    pattern=RUN_PATTERN,
    description="a run id such as 2026-01-10T04-02-11 (default: the run that is served)",
)
HOUR = Parameter(
    name="hour",
    kind="string",
    pattern=HOUR_PATTERN,
    description="an hour of capture in UTC, such as 2026-01-10T04:00Z (an `hour_utc` of /zones/timeline)",
)
FROM_US, TO_US = (
    Parameter(name=name, kind="integer", least=0, most=LATEST_INSTANT_US, description=description)
    for name, description in (
        ("from_us", "first instant, UTC microseconds"),
        ("to_us", "end of the range, exclusive, UTC microseconds"),
    )
)
MODEL = Parameter(name="model", kind="string", description="a model's name, as `model_id` has it")


def query_invalid(detail: str, mend: str) -> Problem:
    """422 for values that are well formed each and cannot be used together."""
    return Problem(422, "query-invalid", title="A query parameter cannot be used", detail=detail, mend=mend)


def hour_range(text: str, *, name: str = "hour") -> tuple[int, int]:
    """[start, end) in UTC microseconds of an hour as `HOUR` takes it; raises `Problem` 422 where no clock shows it."""
    try:
        hour = datetime.strptime(text[:13], "%Y-%m-%dT%H").replace(tzinfo=UTC)
        start_us = int(hour.timestamp()) * 1_000_000
    except (ValueError, OverflowError) as error:
        raise query_invalid(f"{name}={text[:40]}", f"{name} is {HOUR.description}") from error
    return start_us, start_us + HOUR_US


def hour_utc(start_us: int) -> str:
    """The hour that begins at this instant, as the view `zones_per_hour` writes it."""
    return datetime.fromtimestamp(start_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:00Z")


async def run_asked(discovery: Discovery, run_id: str | None) -> Served:
    """The run of this id, None for the served one; raises `Problem` 404 or 409."""
    if run_id is None:
        if discovery.served.bundle is None:
            raise not_available(discovery)
        return discovery.served
    try:
        return await asyncio.to_thread(discovery.run, run_id)
    except RunUnknown as error:
        raise Problem(
            404,
            "run-unknown",
            title="No such run",
            detail=str(error),
            mend="GET /runs lists the runs; those with `available` true can be asked for",
        ) from error
    except BundleError as error:
        raise Problem(
            409,
            "bundle-refused",
            title="The run's bundle cannot be served",
            detail=str(error),
            mend="ask for another run of GET /runs, or run discovery again",
        ) from error


def chosen(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """These of the values."""
    return {name: values[name] for name in names}
