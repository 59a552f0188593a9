"""Whether zones are what they say: each zone's own characteristic among its members and the rest, limits, shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.zones import (
    EVENNESS,
    LONG,
    LONG_LEAST_SHARE,
    OWN,
    USUAL,
    VALUES,
    ZONES,
    Z,
)

F64 = npt.NDArray[np.float64]
LEAST_AUC = 0.85
LEAST_SHARE, LARGEST_SHARE = 0.05, 0.60


@dataclass(frozen=True, kw_only=True)
class ZoneQuality:
    """Figures of the five zones over m tokens."""

    shares: F64
    """[5], of the tokens."""
    auc: F64
    """[5], of the zone's own characteristics relative to the usual (their mean), members against the rest; NaN where
    a zone has no member or no rest."""
    auc_of_values: F64
    """[5], the same of the plain value: for syntax_floor of the local share."""
    num_long_range_without: int
    """`long_range` tokens with less than 5% of their attention beyond 100 positions."""
    num_diffuse_below_usual: int
    """`diffuse` tokens less even than usual at their length."""

    def broken(self) -> list[str]:
        """What does not hold of a mix of all kinds of work, in words; empty where all holds."""
        found = []
        for zone, share, auc in zip(ZONES, self.shares.tolist(), self.auc.tolist(), strict=True):
            if not LEAST_SHARE <= share <= LARGEST_SHARE:
                found.append(
                    f"{zone} holds {share:.0%} of the tokens, expected {LEAST_SHARE:.0%} to {LARGEST_SHARE:.0%}"
                )
            if not auc >= LEAST_AUC:
                found.append(f"{zone} has an AUC of its own characteristic of {auc:.2f}, expected {LEAST_AUC} or more")
        if self.num_long_range_without or self.num_diffuse_below_usual:
            found.append("a zone was given where it is closed")
        return found

    def figures(self) -> dict[str, float]:
        """Plain numbers for metadata."""
        return {f"auc_{zone}": float(auc) for zone, auc in zip(ZONES, self.auc, strict=True) if np.isfinite(auc)}


def zone_quality(zone_index: npt.NDArray[np.integer], evidence: npt.NDArray[np.floating]) -> ZoneQuality:
    """Figures of zones [m] and the evidence that they were given on, [m, NUM_EVIDENCE]."""
    num_zones = len(ZONES)
    shares = np.bincount(zone_index, minlength=num_zones) / max(len(zone_index), 1)
    auc, of_values = np.full(num_zones, np.nan), np.full(num_zones, np.nan)
    for zone in range(num_zones):
        own = [direction * evidence[:, Z + c] for z, c, direction in OWN if z == zone]
        member = zone_index == zone
        auc[zone] = auc_of(np.mean(own, axis=0), member)
        first = next(c for z, c, _ in OWN if z == zone)
        of_values[zone] = auc_of(evidence[:, VALUES + first], member)
    far, even = zone_index == ZONES.index("long_range"), zone_index == ZONES.index("diffuse")
    below_usual = evidence[even, VALUES + EVENNESS] - evidence[even, USUAL + EVENNESS]
    return ZoneQuality(
        shares=shares,
        auc=auc,
        auc_of_values=of_values,
        num_long_range_without=int((evidence[far, VALUES + LONG] < LONG_LEAST_SHARE - 1e-5).sum()),
        num_diffuse_below_usual=int((below_usual < -1e-5).sum()),
    )


def auc_of(values: npt.NDArray[np.floating], member: npt.NDArray[np.bool_]) -> float:
    """The chance that a member has the higher value than one of the rest, ties by half; NaN without either."""
    num_members, num_rest = int(member.sum()), int((~member).sum())
    if not num_members or not num_rest:
        return float("nan")
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    ranks = rankdata(values)[member].sum()
    return float((ranks - num_members * (num_members + 1) / 2) / (num_members * num_rest))
