"""The rows of a bundle's ``clusters.parquet``, typed when the bundle is loaded."""

from __future__ import annotations

import msgspec
import pyarrow as pa


class Exemplar(msgspec.Struct, frozen=True, kw_only=True):
    """A token that is typical of its cluster."""

    request_id: str
    step: int


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cluster comes from: ``kept``, ``returned``, ``split``, ``born`` or ``merged``.

    `attn_assets.discovery.lineage` says when which.
    """

    event: str
    parents: list[int]
    overlap: float | None


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the bundle's ``clusters.parquet``; null where the run did not say."""

    cluster_id: int
    cluster_label: str
    size: int
    zone: str
    zone_score: float | None = None
    zone_margin: float | None = None
    centroid: list[float]
    """Mean fingerprint: 20 numbers."""
    centroid_x: float | None = None
    centroid_y: float | None = None
    stability: float | None = None
    exemplars: list[Exemplar] = []
    lineage: Lineage | None = None


def clusters_from_table(table: pa.Table) -> list[Cluster]:
    """A `Cluster` for each row; raises `msgspec.ValidationError` where one is not what it should be."""
    return msgspec.convert(table.to_pylist(), list[Cluster])
