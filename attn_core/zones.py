"""The five manifold zones, scored by rules that need no calibration.

Each zone is scored on what its name says, beyond the sink and relative to what is usual at this context length: the
yardstick is attention that falls off as 1/(distance + 1), so that a long context does not by itself make a token
`long_range`, nor a short one `syntax_floor`.

| zone             | what raises its score                                            |
|------------------|------------------------------------------------------------------|
| syntax_floor     | share within 10 tokens above the yardstick, low entropy          |
| semantic_bridge  | share at distances 10..99 above the yardstick                    |
| structure_ripple | periodicity of the attended positions                            |
| long_range       | share at distances of 100 and more above the yardstick           |
| diffuse          | entropy near its maximum                                         |

The probabilities are a softmax of these scores: an order, not yet a calibrated chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.sinkfree import SinkFree, sink_free

ZONES: tuple[str, ...] = ("syntax_floor", "semantic_bridge", "structure_ripple", "long_range", "diffuse")
RULES_VERSION = 1

EVIDENCE: tuple[str, ...] = ("local_lift", "mid_lift", "long_lift", "evenness", "periodicity")
"""What the rules look at, in the order of `zone_features`' columns."""

_MAX_LIFT = 3.0
_TEMPERATURE = 0.5


@dataclass(frozen=True)
class _Typical:
    """Where the demo model's tokens lie: a score counts from here, in units of the spread.

    Measured on answers of SmolLM2-135M-Instruct to the demo's prompts; rough for any other model, which is why a
    calibration per model is the better way where there is one.
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]


_TYPICAL = _Typical(centre=(-0.75, 0.5, 0.5, 0.80, 0.23), spread=(0.35, 0.46, 0.60, 0.047, 0.08))


def zone_features(
    vectors: npt.NDArray[np.floating],
    *,
    context_len: npt.NDArray[np.integer],
    sink_mass: npt.NDArray[np.floating],
    periodicity: npt.NDArray[np.floating],
) -> npt.NDArray[np.float64]:
    """The columns of `EVIDENCE`: float64 [m, 5].

    A lift is the log-odds of a share beyond the sink minus the log-odds that attention falling off as 1/(d + 1) has.
    """
    return _evidence(sink_free(vectors, context_len=context_len, sink_mass=sink_mass), periodicity)


def _evidence(free: SinkFree, periodicity: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    usual = _usual_shares(free.context_len)
    lifts = np.clip(_logit(free.shares) - _logit(usual), -_MAX_LIFT, _MAX_LIFT)
    # A distance class that this context cannot hold, or a token that saw only the sink, shows no lift at all.
    lifts = np.where((usual > 0) & (free.shares.sum(axis=1, keepdims=True) > 0), lifts, -_MAX_LIFT)
    # At short contexts everything is local: no information, so no lift.
    lifts[:, 0] = np.where(usual[:, 1] > 0, lifts[:, 0], 0.0)
    period = np.clip(np.asarray(periodicity, dtype=np.float64), 0.0, 1.0)
    return np.column_stack([lifts, free.evenness, period])


def zone_probabilities(
    vectors: npt.NDArray[np.floating],
    *,
    context_len: npt.NDArray[np.integer],
    sink_mass: npt.NDArray[np.floating],
    periodicity: npt.NDArray[np.floating],
) -> npt.NDArray[np.float32]:
    """How much each token belongs to each zone of `ZONES`: float32 [m, 5], rows sum to 1."""
    free = sink_free(vectors, context_len=context_len, sink_mass=sink_mass)
    return zone_probabilities_from_sink_free(free, periodicity=periodicity)


def zone_probabilities_from_sink_free(
    free: SinkFree, *, periodicity: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """The same from fingerprints whose sink is taken out already."""
    evidence = _evidence(free, periodicity)
    centre, spread = np.array(_TYPICAL.centre), np.array(_TYPICAL.spread)
    local, mid, far, even, period = ((evidence - centre) / spread).T
    scores = np.column_stack(
        [
            0.7 * local - 0.7 * even,
            mid,
            period,
            far,
            even,
        ]
    )
    scores = scores / _TEMPERATURE
    scores -= scores.max(axis=1, keepdims=True)
    weights = np.exp(scores)
    probabilities: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def weigh_with_cluster(
    own: npt.NDArray[np.floating], cluster_lift: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """Zone probabilities [m, 5] of tokens from their own [m, 5] and their clusters' lift [m, 5] over the usual token.

    Bayes with the cluster as a second witness: own probability times how much more often the cluster's members are of
    the zone than all tokens are. A cluster of one kind decides; one that holds a bit of everything changes nothing.
    """
    # The floor keeps a witness with no doubt at all from silencing the other.
    joint = np.maximum(np.asarray(own, dtype=np.float64), 1e-6) * cluster_lift + 1e-12
    weighed: npt.NDArray[np.float32] = (joint / joint.sum(axis=1, keepdims=True)).astype(np.float32)
    return weighed


def _usual_shares(n: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shares of distances [0, 10), [10, 100), [100, n - 4) under a 1/(d + 1) fall-off: [m, 3]."""

    def harmonic(k: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # ln(k + 1/2) + gamma is within 1% of the harmonic number for every k >= 1.
        value: npt.NDArray[np.float64] = np.where(k >= 1, np.log(np.maximum(k, 1) + 0.5) + 0.5772156649, 0.0)
        return value

    reach = np.maximum(n - 4, 1.0)
    total = harmonic(reach)
    up_to_local = harmonic(np.minimum(reach, 10.0))
    up_to_mid = harmonic(np.minimum(reach, 100.0))
    return np.column_stack([up_to_local, up_to_mid - up_to_local, total - up_to_mid]) / total[:, None]


def _logit(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    inside = np.clip(p, 1e-3, 1 - 1e-3)
    value: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return value
