"""`GET /runs` and `GET /runs/{id}`: every discovery run, as the database and the discovery folder know it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_core.errors import BundleError
from attn_sidecar.api.asked import RUN_PATTERN
from attn_sidecar.api.endpoint import Endpoint, Parameter, json_response, values_of
from attn_sidecar.api.problems import Problem
from attn_sidecar.discovery import Discovery
from attn_sidecar.map.cluster_rows import Cluster
from attn_sidecar.store.history import recorded_runs
from attn_sidecar.store.reader import ReadPool

MAX_LIMIT = 1000
_LIMIT = Parameter(name="limit", kind="integer", least=1, most=MAX_LIMIT, default=50, description="runs an answer")
_BEFORE = Parameter(
    name="before", kind="string", pattern=RUN_PATTERN, description="a run id: only runs before it (`next_before`)"
)
_STATUS = Parameter(
    name="status",
    kind="string",
    choices=("running", "published", "failed", "interrupted"),
    description="only runs of this status",
)
_ID = Parameter(
    name="run_id", place="path", kind="string", pattern=RUN_PATTERN, description="a run id such as 2026-01-10T04-02-11",
    example="2026-01-10T04-02-11",
)  # fmt: skip


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A discovery run. Null: not known, as of a run that was published and never recorded in this database."""

    run_id: str
    status: str
    """``running``, ``published``, ``failed`` or ``interrupted``."""
    served: bool
    available: bool
    """Whether its bundle lies in the discovery folder, so that ``run=`` may name it."""
    started_at_us: int | None = None
    ended_at_us: int | None = None
    published_at_us: int | None = None
    window_start_us: int | None = None
    window_end_us: int | None = None
    """Exclusive."""
    num_fingerprints: int | None = None
    num_clusters: int | None = None
    noise_share: float | None = None
    parameters: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    error: str | None = None
    models: list[str] | None = None
    previous_run_id: str | None = None
    """The run whose cluster ids and map it carries on."""
    gone_cluster_ids: list[int] | None = None
    unreadable: list[str] = []
    """Fields whose recorded content is damaged or foreign: they are null."""


class RunsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    runs: list[Run]
    next_before: str | None
    """Ask with ``before=`` this for the next; null where these are the last."""


class ClusterLineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where one of a run's clusters comes from."""

    cluster_id: int
    cluster_label: str
    size: int
    zone: str
    event: str | None
    parents: list[int]
    overlap: float | None


class RunAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One run in full; `lineage`, `reliability` and `versions` are of its bundle, empty without it."""

    run: Run
    lineage: list[ClusterLineage]
    reliability: list[dict[str, Any]]
    versions: dict[str, str]
    problem: str | None
    """Why its bundle cannot be served."""


def endpoints(discovery: Discovery, *, readers: ReadPool) -> list[Endpoint]:
    """The endpoints over this folder and this store."""

    async def list_runs(request: Request) -> Response:
        asked = values_of((_LIMIT, _BEFORE, _STATUS), request)
        runs = await _all_runs(discovery, readers)
        found = [
            run
            for run in runs
            if (asked["before"] is None or run.run_id < asked["before"]) and asked["status"] in (None, run.status)
        ]
        shown = found[: asked["limit"]]
        return json_response(RunsAnswer(runs=shown, next_before=shown[-1].run_id if len(found) > len(shown) else None))

    async def get_run(request: Request) -> Response:
        run_id = values_of((_ID,), request)["run_id"]
        run = next((run for run in await _all_runs(discovery, readers) if run.run_id == run_id), None)
        if run is None:
            raise Problem(
                404,
                "run-unknown",
                title="No such run",
                detail=f"no run {run_id} is recorded or published",
                mend="GET /runs lists the runs",
            )
        return json_response(await asyncio.to_thread(_in_full, discovery, run))

    return [
        Endpoint(
            method="GET",
            path="/runs",
            handler=list_runs,
            summary="Discovery runs, newest first",
            answer=RunsAnswer,
            parameters=(_LIMIT, _BEFORE, _STATUS),
            problems=(503,),
        ),
        Endpoint(
            method="GET",
            path="/runs/{run_id}",
            handler=get_run,
            summary="One discovery run: figures, parameters, lineage of its clusters",
            answer=RunAnswer,
            parameters=(_ID,),
            problems=(404, 503),
        ),
    ]


async def _all_runs(discovery: Discovery, readers: ReadPool) -> list[Run]:
    recorded = await readers.ask(recorded_runs)
    published = await asyncio.to_thread(discovery.published)
    served = discovery.served.run_id
    names = set(Run.__struct_fields__) - {"run_id", "status", "served", "available", "unreadable"}
    runs = []
    for run_id in sorted({*recorded, *published}, reverse=True):
        manifest, row = published.get(run_id, {}), recorded.get(run_id, {})
        # The database says how it went, the manifest what only the bundle knows.
        known = {name: manifest[name] for name in names if manifest.get(name) is not None}
        known |= {name: row[name] for name in names if row.get(name) is not None}
        status = "published" if manifest else row["status"]
        readable = {name: value for name, value in known.items() if _fits(name, value)}
        runs.append(
            Run(
                **readable,
                run_id=run_id,
                status=status,
                served=run_id == served,
                available=bool(manifest),
                unreadable=sorted(known.keys() - readable.keys()),
            )
        )
    return runs


_TYPES = {field.name: field.type for field in msgspec.structs.fields(Run)}


def _fits(name: str, value: object) -> bool:
    """Whether a recorded or published value is what this field holds: an older or a foreign writer may differ."""
    try:
        msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError:
        return False
    return True


def _in_full(discovery: Discovery, run: Run) -> RunAnswer:
    lineage: list[ClusterLineage] = []
    manifest: dict[str, Any] = {}
    problem = None
    if run.available:
        try:
            served = discovery.run(run.run_id)
        except BundleError as error:
            problem = str(error)
        else:
            manifest = dict(served.bundle.manifest) if served.bundle is not None else {}
            lineage = [_lineage_of(one) for one in served.clusters]
    return RunAnswer(
        run=run,
        lineage=lineage,
        reliability=manifest.get("reliability") or [],
        versions=manifest.get("versions") or {},
        problem=problem,
    )


def _lineage_of(cluster: Cluster) -> ClusterLineage:
    said = cluster.lineage
    return ClusterLineage(
        cluster_id=cluster.cluster_id,
        cluster_label=cluster.cluster_label,
        size=cluster.size,
        zone=cluster.zone,
        event=None if said is None else said.event,
        parents=[] if said is None else said.parents,
        overlap=None if said is None else said.overlap,
    )
