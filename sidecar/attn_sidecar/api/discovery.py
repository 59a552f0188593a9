"""`GET /discovery/status` and `POST /discovery/reload`: which run is served, and why none is."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_sidecar.api.endpoint import Endpoint, json_response
from attn_sidecar.api.problems import Problem
from attn_sidecar.discovery import Discovery

NOT_AVAILABLE = "discovery not available"
WHAT_TO_DO = [
    "Run the discovery job first",
    "Ensure --discovery-dir points to correct directory",
    "Check that latest symlink exists in discovery directory",
]


class DiscoveryStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`status` is ``ready`` or ``unavailable``; `problem` says why a newer bundle is not served.

    `failure` is the run that failed since the last one was published: `run_id`, `stage`, `reason`, `failed_at_us`.
    """

    status: str
    run_id: str | None = None
    num_clusters: int | None = None
    num_points: int | None = None
    metrics: dict[str, Any] | None = None
    window: dict[str, Any] | None = None
    detail: str | None = None
    what_to_do: list[str] | None = None
    problem: str | None = None
    failure: dict[str, Any] | None = None
    discovery_dir: str | None = None
    note: str | None = None
    """What a person should know of the run, as that its clusters were not clear and none is shown."""
    missing_hours: list[str] = []
    """Hours of the window that the database has rows of and this map has none (UTC, such as 2026-01-10-04:00)."""


def status_of(discovery: Discovery) -> DiscoveryStatus:
    """What is served now."""
    served = discovery.served
    failure = None if discovery.failure is None else asdict(discovery.failure)
    if served.bundle is None:
        return DiscoveryStatus(
            status="unavailable",
            detail=NOT_AVAILABLE,
            what_to_do=WHAT_TO_DO,
            problem=discovery.problem,
            failure=failure,
            discovery_dir=str(discovery.folder),
        )
    manifest = served.bundle.manifest
    missing = manifest.get("missing_hours")
    metrics, window = manifest.get("metrics"), manifest.get("window")
    return DiscoveryStatus(
        status="ready",
        run_id=served.run_id,
        num_clusters=len(served.clusters),
        num_points=served.num_points,
        metrics=metrics if isinstance(metrics, dict) else None,
        window=window if isinstance(window, dict) else None,
        note=note if isinstance(note := manifest.get("note"), str) else None,
        missing_hours=[one for one in missing if isinstance(one, str)] if isinstance(missing, list) else [],
        problem=discovery.problem,
        failure=failure,
        discovery_dir=str(discovery.folder),
    )


def not_available(discovery: Discovery) -> Problem:
    """404 for what only a discovery run can answer."""
    return Problem(
        404,
        "discovery-not-available",
        title="Discovery not available",
        detail=NOT_AVAILABLE,
        mend=f"{'; '.join(WHAT_TO_DO)} (--discovery-dir is {discovery.folder})",
        what_to_do=WHAT_TO_DO,
    )


def endpoints(discovery: Discovery) -> list[Endpoint]:
    """The endpoints over this discovery folder."""

    async def get_status(_: Request) -> Response:
        return json_response(status_of(discovery))

    async def reload(_: Request) -> Response:
        loaded = await asyncio.to_thread(discovery.reload)
        if not loaded and discovery.problem is None:
            raise not_available(discovery)
        if not loaded:
            raise Problem(
                409,
                "bundle-refused",
                title="The newest bundle cannot be served",
                detail=discovery.problem or NOT_AVAILABLE,
                mend="run discovery again; what was served before is still served",
            )
        return json_response(status_of(discovery))

    return [
        Endpoint(
            method="GET",
            path="/discovery/status",
            handler=get_status,
            summary="The discovery run that is served",
            answer=DiscoveryStatus,
        ),
        Endpoint(
            method="POST",
            path="/discovery/reload",
            handler=reload,
            summary="Look at `latest` now",
            answer=DiscoveryStatus,
            problems=(404, 409),
        ),
    ]
