"""Made-up attention with the shape of the real thing, for working on the explorer without a model server.

The fingerprint is computed from the made-up distribution exactly as the contract defines it, so what the page shows adds up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ZONES = ("syntax_floor", "semantic_bridge", "structure_ripple", "long_range", "diffuse")
EDGES = (0, 1, 2, 4, 8, 32, 128, 512)
TOP_K = 32
Weights = npt.NDArray[np.float64]


def attention(rng: np.random.Generator, *, context_len: int, kind: int) -> Weights:
    """float64 [n]: one decode step's attention over its context; `kind` is the index of the zone it should look like."""
    distance = np.arange(context_len)[::-1].astype(np.float64)
    local = np.exp(-distance / (1.5, 6, 4, 5, 30)[kind])
    uniform = rng.gamma(0.4, size=context_len)
    sink = np.zeros(context_len)
    sink[:4] = (1.0, 0.08, 0.04, 0.02)[: min(4, context_len)]
    peaks = np.zeros(context_len)
    low = 0 if kind == 3 else max(0, context_len - 90)
    high = max(low + 1, context_len - (110 if kind == 3 else 8))
    peaks[rng.integers(low, high, size=6)] = rng.gamma(1.0, size=6)
    ripple = (np.cos(distance * (2 * np.pi / 7)) > 0.9) * np.exp(-distance / 60)
    parts = [sink, local, peaks, ripple, uniform]
    shares = rng.dirichlet(
        60
        * np.array(
            [
                (0.22, 0.70, 0.02, 0.02, 0.04),
                (0.30, 0.22, 0.40, 0.02, 0.06),
                (0.25, 0.20, 0.05, 0.44, 0.06),
                (0.30, 0.15, 0.47, 0.01, 0.07),
                (0.20, 0.10, 0.05, 0.02, 0.63),
            ][kind]
        )
    )
    weights = sum(share * part / max(part.sum(), 1e-12) for share, part in zip(shares, parts, strict=True))
    return np.asarray(weights / np.sum(weights))


def token_row(
    rng: np.random.Generator, *, prompt_len: int, step: int, kind: int, asks_top_k: bool
) -> dict[str, object]:
    """The stored fields of one token, as `/events` sends them, without its identity."""
    n = prompt_len + step
    weights = attention(rng, context_len=n, kind=kind)
    distance = np.arange(n)[::-1]
    entropy = float(-(weights * np.log(np.maximum(weights, 1e-300))).sum())
    histogram = np.histogram(distance, bins=[*EDGES, 1 << 30], weights=weights)[0]
    depth = np.linspace(0.25, -0.2, 8) + rng.normal(0, 0.08, 8)
    layers = np.clip(entropy * (0.82 + depth), 0, np.log(n))
    masses = [
        weights[distance < 10].sum(),
        weights[(distance >= 10) & (distance < 100)].sum(),
        weights[distance >= 100].sum(),
    ]
    top = np.argsort(-weights)[:TOP_K]
    return {
        "context_len": n,
        "sink_mass": round(float(weights[:4].sum()), 6),
        "prompt_mass": round(float(weights[4:prompt_len].sum()), 6),
        "periodicity": round(float(rng.beta(6, 4) if kind == 2 else rng.beta(2, 9)), 4),
        "vector": [round(float(v), 6) for v in [*masses, entropy, *histogram, *layers]],
        "topk_positions": top.tolist() if asks_top_k else None,
        "topk_probs": [round(float(p), 7) for p in weights[top]] if asks_top_k else None,
        "residual_mass": round(float(1 - weights[top].sum()), 7) if asks_top_k else None,
        "zone": ZONES[kind],
        "confidence": round(float(rng.beta(7, 2.2)), 3),
        "cluster_id": int(kind * 2 + rng.integers(0, 2)) if rng.random() > 0.12 else -1,
    }


def embedding(rng: np.random.Generator, *, num_points: int, has_clusters: bool) -> dict[str, npt.NDArray[np.generic]]:
    """x, y, cluster_id, zone index and confidence of a made-up map: curved clouds that overlap a little."""
    cluster = rng.choice(10, size=num_points, p=np.array([14, 6, 17, 9, 12, 5, 10, 8, 11, 8]) / 100)
    t = rng.beta(1.6, 1.6, size=num_points) * 2 - 1
    angle = cluster * 0.66 + t * (0.5 + 0.05 * cluster)
    radius = 4.2 + 1.1 * np.sin(cluster * 2.1) + rng.normal(0, 0.33, num_points)
    x = radius * np.cos(angle) + rng.normal(0, 0.22, num_points)
    y = 0.72 * radius * np.sin(angle * 1.15) + rng.normal(0, 0.22, num_points)
    is_noise = rng.random(num_points) < 0.11
    x[is_noise] += rng.normal(0, 1.2, is_noise.sum())
    y[is_noise] += rng.normal(0, 1.2, is_noise.sum())
    ids = np.where(is_noise, -1, cluster) if has_clusters else np.full(num_points, -1)
    return {
        "x": x.astype(np.float32),
        "y": y.astype(np.float32),
        "cluster_id": ids.astype(np.int32),
        "zone": (cluster // 2).astype(np.int8),
        "confidence": rng.beta(7, 2.2, num_points).astype(np.float32),
    }
