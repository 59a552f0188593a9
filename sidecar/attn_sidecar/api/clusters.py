"""`GET /clusters` and `GET /clusters/{id}`: what a run found, with exemplars in their text."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import Response

from attn_core.fingerprint import NAMES
from attn_sidecar.api.asked import RUN, run_asked
from attn_sidecar.api.delivery import not_modified, run_headers
from attn_sidecar.api.endpoint import Endpoint, Parameter, json_response, values_of
from attn_sidecar.api.problems import Problem
from attn_sidecar.discovery import Discovery, Served
from attn_sidecar.map.cluster_rows import Cluster
from attn_sidecar.store.history import TokenInText, token_in_text, zone_labels
from attn_sidecar.store.reader import Reader, ReadPool
from attn_sidecar.store.records import Token

MAX_EXEMPLARS = 32
_ID = Parameter(
    name="cluster_id", place="path", kind="integer", least=0, most=2**31 - 1, description="a `cluster_id`", example=3
)


class ClustersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All clusters of a run, as the bundle has them."""

    run_id: str | None
    clusters: list[Cluster]


class ZoneEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster's members score for one zone, and why."""

    zone: str
    score: float
    margin: float
    evidence: dict[str, Any]


class TypicalFingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of each number over the cluster's prototypes (real tokens, spread over it)."""

    names: list[str]
    p10: list[float]
    p50: list[float]
    p90: list[float]
    num_prototypes: int


class ExemplarInText(msgspec.Struct, frozen=True, kw_only=True):
    """An exemplar as the store still holds it: `token` null where it is gone, texts null in privacy mode."""

    request_id: str
    step: int
    token: Token | None
    text_before: str | None
    text_after: str | None


class ClusterAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster in full."""

    run_id: str
    cluster: Cluster
    zones: list[ZoneEvidence]
    """Best first; empty where the run was not recorded in this database."""
    typical: TypicalFingerprint | None
    exemplars: list[ExemplarInText]


def endpoints(discovery: Discovery, *, readers: ReadPool) -> list[Endpoint]:
    """The endpoints over the runs of this folder and the tokens of this store."""

    async def get_clusters(request: Request) -> Response:
        asked = values_of((RUN,), request)
        served = await run_asked(discovery, asked["run"])
        headers = run_headers(request, run_id=served.run_id)
        if (same := not_modified(request, headers)) is not None:
            return same
        return json_response(ClustersAnswer(run_id=served.run_id, clusters=served.clusters), headers=headers)

    async def get_cluster(request: Request) -> Response:
        asked = values_of((_ID, RUN), request)
        served = await run_asked(discovery, asked["run"])
        cluster = next((one for one in served.clusters if one.cluster_id == asked["cluster_id"]), None)
        if cluster is None:
            raise Problem(
                404,
                "cluster-unknown",
                title="No such cluster",
                detail=f"run {served.run_id} has no cluster {asked['cluster_id']}",
                mend="GET /clusters lists a run's clusters; ids last from run to run, clusters come and go",
            )
        typical = await asyncio.to_thread(_typical, served, cluster.cluster_id)
        run_id = str(served.run_id)
        zones, found = await readers.ask(lambda reader: _from_store(reader, run_id, cluster))
        exemplars = [
            ExemplarInText(
                request_id=one.request_id,
                step=one.step,
                token=None if held is None else held.token,
                text_before=None if held is None else held.text_before,
                text_after=None if held is None else held.text_after,
            )
            for one, held in zip(cluster.exemplars, found, strict=False)
        ]
        return json_response(
            ClusterAnswer(run_id=run_id, cluster=cluster, zones=zones, typical=typical, exemplars=exemplars)
        )

    return [
        Endpoint(
            method="GET",
            path="/clusters",
            handler=get_clusters,
            summary="The clusters of a run",
            answer=ClustersAnswer,
            statuses=(200, 304),
            parameters=(RUN,),
            problems=(404, 409),
        ),
        Endpoint(
            method="GET",
            path="/clusters/{cluster_id}",
            handler=get_cluster,
            summary="One cluster: its zones with evidence, its typical fingerprint, its exemplars in their text",
            answer=ClusterAnswer,
            parameters=(_ID, RUN),
            problems=(404, 409, 503),
        ),
    ]


def _from_store(reader: Reader, run_id: str, cluster: Cluster) -> tuple[list[ZoneEvidence], list[TokenInText | None]]:
    labels = zone_labels(reader, run_id=run_id, cluster_id=cluster.cluster_id)
    return msgspec.convert(labels, list[ZoneEvidence]), [
        token_in_text(reader, request_id=one.request_id, step=one.step) for one in cluster.exemplars[:MAX_EXEMPLARS]
    ]


def _typical(served: Served, cluster_id: int) -> TypicalFingerprint | None:
    if served.bundle is None:
        return None
    table = served.bundle.table("prototypes")
    if not {"cluster_id", "vector"} <= set(table.column_names):
        return None
    rows = table.filter(pc.equal(table.column("cluster_id"), cluster_id)).column("vector").combine_chunks()
    if not len(rows):
        return None
    vectors = np.asarray(rows.flatten().to_numpy(zero_copy_only=False)).reshape(len(rows), len(NAMES))
    p10, p50, p90 = (np.quantile(vectors, share, axis=0).tolist() for share in (0.1, 0.5, 0.9))
    return TypicalFingerprint(names=list(NAMES), p10=p10, p50=p50, p90=p90, num_prototypes=len(rows))
