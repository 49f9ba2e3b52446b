"""Two recipes on the same questions: the difference of their means, second less first, with interval and p-value.

The interval of a difference of shares is Tango's score interval (1998) on the effective number of pairs, as
:func:`rubrica.core.clustered.rate` is Wilson's: it has a width also where the sides never differ. Other values get
the cluster-robust t interval of :mod:`rubrica.core.clustered`, whose variance both use.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from rubrica.core.clustered import (
    Floats,
    Ints,
    Side,
    binary,
    by_t,
    effective,
    independent,
    mean,
    side,
    spread,
)
from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate
from rubrica.core.stats import check_level


class Pairs(NamedTuple):
    """Two sides with the same questions, clusters, weights and strata."""

    first: Side
    second: Side


def pairs(
    first: Floats,
    second: Floats,
    clusters: Ints,
    *,
    weights: Floats | None = None,
    strata: Ints | None = None,
) -> Pairs:
    """Return two sides of the same questions (P, or P R with each side's own runs), without a gap.

    Errors are those of ``side``.
    """
    if np.isnan(first).any() or np.isnan(second).any():
        raise UsageError("got a pair without a value on one side; leave it out of both")
    one = side(first, clusters, weights=weights, strata=strata)
    return Pairs(one, side(second, clusters, weights=weights, strata=strata))


def difference(two: Pairs, *, level: float = 0.95, name: str = "difference", group: str = "") -> Estimate:
    """Mean of the second side less that of the first; ``n`` counts pairs."""
    check_level(level)
    first, second = two
    n, value = len(first.values), mean(second) - mean(first)
    found = spread((-1.0, first), (1.0, second))
    if not (binary(first) and binary(second)):
        return by_t(value, found, level=level, n=n, name=name, group=group)
    lost, gained = discordance(two)
    size, z = effective(lost + gained - (gained - lost) ** 2, found, level, first, second)
    low, high = tango(gained * size, lost * size, size, z)
    method = "tango" if independent(first) and independent(second) else "clustered tango"
    return Estimate(
        name=name,
        group=group,
        value=value,
        low=min(value, low),
        high=max(value, high),
        n=n,
        method=method,
    )


def robust_p(two: Pairs) -> float | None:
    """Two-sided p-value of the cluster-robust t test that there is no difference; None where nothing varies."""
    first, second = two
    found = spread((-1.0, first), (1.0, second))
    if found.variance <= 0:
        return None
    distance = abs(mean(second) - mean(first)) / math.sqrt(found.variance)
    return float(2 * stats.t.sf(distance, found.degrees))


def discordance(two: Pairs) -> tuple[float, float]:
    """Weighted shares of pairs of 0 and 1 that are 1 for the first alone, and for the second alone.

    With several runs: the mean over all combinations of a run of one side with a run of the other.
    """
    first, second = (one.values.mean(axis=1) for one in two)
    weights = two.first.weights
    return float(weights @ (first * (1 - second))), float(weights @ (second * (1 - first)))


def tango(gained: float, lost: float, n: float, z: float) -> tuple[float, float]:
    """The differences ``d`` that Tango's score test (1998) does not reject, from discordant counts of n pairs.

    ``|gained - lost - n d| = z sqrt(n (2 q + d (1 - d)))``, with ``q`` the likeliest share of lost pairs under ``d``.
    """
    value = (gained - lost) / n

    def beyond(d: float) -> float:
        b = -gained - lost + (2 * n - gained + lost) * d
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * d * (1 - d))) - b) / (4 * n)
        return (gained - lost - n * d) ** 2 - z * z * n * max(0.0, 2 * q + d * (1 - d))

    def end(limit: float) -> float:
        if abs(value - limit) < 1e-12:
            return limit
        # without a discordant pair, ``value`` itself solves the equation, and is not the end
        inside = value + 1e-9 * (limit - value)
        return float(optimize.brentq(beyond, *sorted((inside, limit)), xtol=1e-12))

    return end(-1.0), end(1.0)
