"""Examples that OpenAPI shows: what to send to each endpoint and what comes back. The tests send them all."""

from __future__ import annotations

from typing import Any

_VECTOR = [
    *(0.62, 0.27, 0.11, 2.1),
    *(0.2, 0.12, 0.1, 0.11, 0.15, 0.16, 0.1, 0.06),
    *(1.4, 1.9, 2.2, 2.4, 2.3, 2.0, 1.8, 1.6),
]
_KNOWN = {"context_len": 240, "sink_mass": 0.31, "periodicity": 0.2}
_SKETCH = {
    "head_sketch": [
        *(0.5, -0.25, 1.125, 0.0, -0.75, 0.25, 0.0, 0.125),
        *(-0.5, 0.375, 0.0, -0.125, 0.25, 0.0, 0.5, -1),
    ],
    "zone_evidence": [0.75, -0.5, 0.25, 0.0, -0.25],
    "head_projection": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
_MANIFOLD = {
    "zone": "semantic_bridge",
    "confidence": 0.85,
    "cluster_id": 3,
    "cluster_label": "Cluster 3",
    "cluster_confidence": 0.92,
    "characteristic": {"name": "mid_share", "value": 0.41, "usual": 0.22},
}
_RUN_ID = "2026-01-10T04-02-11"
_HOUR = "2026-01-10T04:00Z"
_REQUEST = {
    "request_id": "chatcmpl-1",
    "response_id": "chatcmpl-1",
    "model_id": "demo-model",
    "started_at_us": 1_768_017_731_000_000,
    "ended_at_us": 1_768_017_733_500_000,
    "prompt_len": 12,
    "num_output_tokens": 48,
    "finish_reason": "stop",
    "num_fingerprints": 48,
    "zone": "semantic_bridge",
    "zone_confidence": 0.85,
    "prompt_preview": "What is 2+2?",
}
_SIDE = {
    "run": None,
    "model": "demo-model",
    "hour": _HOUR,
    "num_fingerprints": 1200,
    "num_requests": 24,
    "num_vectors": 1200,
    "sampled_every": 1,
}

BODY_EXAMPLES: dict[str, Any] = {
    "/classify": {"vector": _VECTOR, **_KNOWN, **_SKETCH},
    "/fingerprint": {"request_id": "chatcmpl-1", "step": 1, "vector": _VECTOR, **_SKETCH},
    "/classify/batch": {"fingerprints": [{"vector": _VECTOR, **_KNOWN}, {"vector": _VECTOR}]},
    "/fingerprint/batch": {
        "fingerprints": [{"request_id": "chatcmpl-1", "step": step, "vector": _VECTOR, **_KNOWN} for step in (2, 3)]
    },
}
"""By path: what to send."""

QUERY_EXAMPLES: dict[str, dict[str, Any]] = {
    "/points": {"run": _RUN_ID, "max_points": 50_000, "columns": "x,y,zone,cluster_id,point"},
    "/points/density": {"run": _RUN_ID, "cells": 128},
    "/points/{point}": {"point": 0},
    "/clusters": {"run": _RUN_ID},
    "/clusters/{cluster_id}": {"cluster_id": 3},
    "/requests": {"limit": 20},
    "/requests/{request_id}": {"request_id": "chatcmpl-1", "from_step": 0},
    "/runs": {"limit": 10},
    "/runs/{run_id}": {"run_id": _RUN_ID},
    "/compare": {"a_run": _RUN_ID, "b_model": "demo-model"},
}
"""By path and parameter: what to ask."""

ANSWER_EXAMPLES: dict[str, Any] = {
    "/health": {"status": "ok", "version": "0.1.0", "reasons": []},
    "/classify": {"manifold": _MANIFOLD, "schema_version": 1, "run_id": _RUN_ID},
    "/fingerprint": {
        "stored": True,
        "request_id": "chatcmpl-1",
        "step": 1,
        "manifold": _MANIFOLD,
        "schema_version": 1,
        "run_id": _RUN_ID,
    },
    "/classify/batch": {"manifolds": [_MANIFOLD, _MANIFOLD], "invalid": [], "schema_version": 1, "run_id": _RUN_ID},
    "/fingerprint/batch": {
        "num_stored": 2,
        "stored": [True, True],
        "manifolds": [_MANIFOLD, _MANIFOLD],
        "invalid": [],
        "schema_version": 1,
        "run_id": _RUN_ID,
    },
    "/discovery/status": {"status": "ready", "run_id": _RUN_ID, "num_clusters": 3, "num_points": 1332},
    "/discovery/reload": {"status": "ready", "run_id": _RUN_ID, "num_clusters": 3, "num_points": 1332},
    "/points/{point}": {
        "run_id": _RUN_ID,
        "point": 0,
        "x": 1.25,
        "y": -0.5,
        "zone": "semantic_bridge",
        "cluster_id": 3,
        "confidence": 0.85,
        "context_len": 240,
        "captured_at_us": 1_768_017_731_000_000,
        "request_id": "chatcmpl-1",
        "step": 0,
        "token_text": " four",
        "model_id": "demo-model",
    },
    "/clusters": {
        "run_id": _RUN_ID,
        "clusters": [
            {"cluster_id": 3, "cluster_label": "Cluster 3", "size": 412, "zone": "semantic_bridge", "centroid": _VECTOR}
        ],
    },
    "/requests": {"requests": [_REQUEST], "next_cursor": None},
    "/runs": {
        "runs": [{"run_id": _RUN_ID, "status": "published", "served": True, "available": True}],
        "next_before": None,
    },
    "/zones/timeline": {
        "from_us": 1_768_017_600_000_000,
        "to_us": 1_768_021_200_000_000,
        "hours": [
            {
                "hour_utc": _HOUR,
                "hour_start_us": 1_768_017_600_000_000,
                "model_id": "demo-model",
                "num_fingerprints": 100,
                "mean_confidence": 0.81,
                "zones": [{"zone": "diffuse", "num_fingerprints": 100, "share": 1.0, "mean_confidence": 0.81}],
                "clusters": [{"cluster_id": 3, "num_fingerprints": 100, "share": 1.0}],
            }
        ],
    },
    "/compare": {"a": _SIDE, "b": _SIDE, "zones": [], "clusters": [], "features": []},
}
"""By path: what comes back. Each fits its endpoint's schema."""
