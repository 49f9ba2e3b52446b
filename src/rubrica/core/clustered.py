"""Means over arrays of values that are not independent: clusters of questions, and runs (training seeds) crossed with them.

Values are P questions by R runs of one recipe. With weights ``w_p`` (sum 1), means ``m`` within strata and influences
``u_pr = w_p (y_pr - m) / R``, the variance of a sum of means is

    V = V1 + sum over sides of max(0, V2 - V12)
    V1  = G/(G-1) sum_g (sum over sides of u_g.)^2        clusters of questions (Cameron and Miller 2015, section II)
    V2  = R/(R-1) sum_r u_.r^2                            runs of one side, where it has several
    V12 = G/(G-1) R/(R-1) sum_gr (u_gr doubly centred)^2  what V1 and V2 both count

that is, the components of variance of a crossed design (Searle, Casella and McCulloch 1992, chapter 4), with
Satterthwaite's degrees of freedom. A side with one run is taken as it is: nothing is said of other seeds. Where runs lack
values the same sums go over those that are there (Cameron, Gelbach and Miller 2011).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate
from rubrica.core.stats import check_level, quantile, score_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Side(NamedTuple):
    """Values of the same questions by one recipe."""

    values: Floats
    """P R; NaN where a run has no value for a question. Every question and every run has one."""
    clusters: Ints
    """P; numbers from 0 without gaps."""
    weights: Floats
    """P; their sum is 1."""
    strata: Ints
    """P; numbers from 0 without gaps. A value is held against the mean of its stratum."""


class Spread(NamedTuple):
    """Variance of an estimate and its degrees of freedom."""

    variance: float
    degrees: float


def side(
    values: Floats, clusters: Ints, *, weights: Floats | None = None, strata: Ints | None = None
) -> Side:
    """Return checked values (P, or P R with NaN where there is none). By default all weigh alike, in one stratum.

    ``UsageError`` for unequal lengths, a question or run without any value, an infinite one, or a weight that is not
    positive.
    """
    table = values[:, None] if values.ndim == 1 else values
    count = len(table)
    weight = np.ones(count) if weights is None else weights
    stratum = np.zeros(count, dtype=np.int64) if strata is None else strata
    if not (count == len(clusters) == len(weight) == len(stratum)) or table.size == 0:
        raise UsageError(
            f"got {count} values, {len(clusters)} clusters, {len(weight)} weights, {len(stratum)} strata; "
            "expected as many of each, at least one"
        )
    known = ~np.isnan(table)
    empty = not (known.any(axis=0).all() and known.any(axis=1).all())
    if empty or np.isinf(table).any() or not (np.isfinite(weight) & (weight > 0)).all():
        raise UsageError(
            "got a question or run without a finite value, or a weight that is not positive; leave them out"
        )
    return Side(table.astype(np.float64), numbered(clusters), weight / weight.sum(), numbered(stratum))


def numbered(codes: Ints) -> Ints:
    """Numbers from 0 without gaps."""
    return np.asarray(np.unique(codes, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def once_each(clusters: Ints) -> Floats:
    """Weights under which every cluster counts once, however many questions it holds."""
    codes = numbered(clusters)
    return np.asarray(1 / np.bincount(codes)[codes], dtype=np.float64)


def mean(one: Side) -> float:
    """Weighted mean over all values; of values that weigh alike exactly their sum over their number."""
    weights = one.weights[:, None] / one.weights.max() * ~np.isnan(one.values)
    return math.fsum((weights * np.nan_to_num(one.values)).flat) / math.fsum(weights.flat)


def size(one: Side) -> int:
    """Number of values."""
    return int(np.count_nonzero(~np.isnan(one.values)))


def spread(*sides: tuple[float, Side]) -> Spread:
    """Variance of a sum of means, each with a sign, and its degrees of freedom; (0, 0) where nothing varies."""
    clusters = sides[0][1].clusters
    parts = [
        sign * np.stack([np.bincount(clusters, column) for column in _influence(one).T], axis=1)
        for sign, one in sides
    ]
    groups = len(parts[0])
    if groups < 2:
        return Spread(0.0, 0.0)
    factor = groups / (groups - 1)
    total = factor * float(np.sum(sum(part.sum(axis=1) for part in parts) ** 2))
    doubt = total**2 / (groups - 1)
    for part in parts:
        runs = part.shape[1]
        if runs > 1:
            of_runs = runs / (runs - 1) * float(np.sum(part.sum(axis=0) ** 2))
            centred = part - part.mean(axis=0) - part.mean(axis=1)[:, None] + part.mean()
            shared = factor * runs / (runs - 1) * float(np.sum(centred**2))
            total += max(0.0, of_runs - shared)
            doubt += of_runs**2 / (runs - 1)
    # sums that are zero but for rounding
    return Spread(total, total**2 / doubt) if total > 1e-24 else Spread(0.0, 0.0)


def rate(one: Side, *, level: float = 0.95, name: str = "rate", group: str = "") -> Estimate:
    """Mean of one side: of 0 and 1 with Wilson's interval on the effective number of values, of others with t.

    ``n`` counts values.
    """
    check_level(level)
    value, found = mean(one), spread((1.0, one))
    if not binary(one):
        return by_t(value, found, level=level, n=size(one), name=name, group=group)
    value = min(1.0, max(0.0, value))
    observations, z = effective(value * (1 - value), found, level, one)
    low, high = score_interval(value, observations, z)
    method = "wilson" if independent(one) else "clustered wilson"
    return Estimate(name=name, group=group, value=value, low=low, high=high, n=size(one), method=method)


def rate_by_cluster(
    values: Mapping[Hashable, Sequence[float]], *, level: float = 0.95, name: str = "rate", group: str = ""
) -> Estimate:
    """:func:`rate` of values that are given by cluster; ``UsageError`` where there are none."""
    given = [np.asarray(each, dtype=np.float64) for each in values.values() if len(each)]
    if not given:
        raise UsageError(f"{name}: got no values; expected at least one")
    codes = np.repeat(np.arange(len(given)), list(map(len, given)))
    return rate(side(np.concatenate(given), codes), level=level, name=name, group=group)


def effective(simple: float, found: Spread, level: float, *sides: Side) -> tuple[float, float]:
    """Number of independent questions, each with the variance ``simple``, that tell as much; and the quantile for it.

    (Korn and Graubard 1998.) It is never more than the values there are. Where nothing varies every cluster counts as one.
    """
    groups = int(sides[0].clusters.max()) + 1
    if simple <= 1e-12 or found.variance <= 0 or all(map(independent, sides)):
        return float(groups), quantile(level)
    most = min(map(size, sides))
    return min(simple / found.variance, float(most)), quantile(level, found.degrees)


def independent(one: Side) -> bool:
    """Whether every value is an observation of its own, and weighs like all others."""
    alone = int(one.clusters.max()) + 1 == len(one.clusters)
    alike = float(np.ptp(one.weights)) <= 1e-9 * float(one.weights.max())
    return alone and alike and one.values.shape[1] == 1


def binary(one: Side) -> bool:
    """Whether all values are 0 or 1."""
    return bool((np.isin(one.values, (0.0, 1.0)) | np.isnan(one.values)).all())


def by_t(value: float, found: Spread, *, level: float, n: int, name: str, group: str) -> Estimate:
    """``value`` with Student's t interval; where nothing varies it has no width and says so."""
    method, half = "none (no variance)", 0.0
    if found.variance > 0:
        method, half = "cluster-t", quantile(level, found.degrees) * math.sqrt(found.variance)
    return Estimate(
        name=name, group=group, value=value, low=value - half, high=value + half, n=n, method=method
    )


def _shares(one: Side) -> Floats:
    """P R: what each value weighs; 0 where there is none."""
    shares = one.weights[:, None] * ~np.isnan(one.values)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _influence(one: Side) -> Floats:
    """P R: what each value adds to the error of the weighted mean."""
    shares, values = _shares(one), np.nan_to_num(one.values)
    weight, total = (np.bincount(one.strata, cells.sum(axis=1)) for cells in (shares, shares * values))
    return np.asarray(shares * (values - (total / weight)[one.strata][:, None]), dtype=np.float64)
