"""Intervals of rates and means. Every function returns an ``Estimate`` that names how its interval was made.

Sources: Wilson (1927) for proportions; the cluster-robust variance of a mean with the small-sample factor
G/(G-1) and t quantiles on G-1 degrees of freedom (Cameron and Miller 2015, section VI).
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate


def wilson(k: int, n: int, *, level: float = 0.95, name: str = "rate", group: str = "") -> Estimate:
    """Return the proportion ``k/n`` with Wilson's score interval; ``UsageError`` unless 0 <= k <= n, n > 0."""
    check_level(level)
    if n < 1 or not 0 <= k <= n:
        raise UsageError(f"{name}: got {k} of {n}; expected 0 <= k <= n with at least one observation")
    low, high = score_interval(k / n, n, quantile(level))
    return Estimate(name=name, group=group, value=k / n, low=low, high=high, n=n, method="wilson")


def score_interval(p: float, n: float, z: float) -> tuple[float, float]:
    """Ends of Wilson's interval; ``n`` may be an effective number of observations."""
    z2 = z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # the ends are exact at 0 and 1, where rounding would leave 1e-17
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def mean_interval(
    values: Sequence[float],
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    name: str = "mean",
    group: str = "",
) -> Estimate:
    """Return the mean with Student's t interval; one value alone gets no width and says so.

    The interval is cut to ``bounds``, between which every possible value lies.
    """
    check_level(level)
    data = _finite(values, name)
    n, mean = len(data), _mean(data)
    if n == 1:
        return Estimate(
            name=name, group=group, value=mean, low=mean, high=mean, n=1, method="none (one value)"
        )
    half = quantile(level, n - 1) * float(np.std(data, ddof=1)) / math.sqrt(n)
    low, high = max(bounds[0], mean - half), min(bounds[1], mean + half)
    return Estimate(name=name, group=group, value=mean, low=low, high=high, n=n, method="t")


def cluster_interval(
    values_by_cluster: Mapping[Hashable, Sequence[float]],
    *,
    level: float = 0.95,
    name: str = "mean",
    group: str = "",
) -> Estimate:
    """Return the mean over all values with a cluster-robust t interval over the clusters (seeds, prompts).

    ``V = G/(G-1) sum_g (sum_i (y_gi - mean))^2 / N^2``, t on G-1 degrees of freedom. With one cluster, or
    clusters that do not differ at all, the items are taken as independent: Wilson if all values are 0 or 1,
    else t; ``method`` says so. The interval of 0/1 values is cut to [0, 1].
    """
    check_level(level)
    clusters = [_finite(values, name) for values in values_by_cluster.values() if len(values)]
    data = np.concatenate(clusters) if clusters else _finite([], name)
    mean, count, n = _mean(data), len(clusters), len(data)
    binary = bool(np.isin(data, (0.0, 1.0)).all())
    sums = np.array([math.fsum(cluster - mean) for cluster in clusters])
    # sums that are zero but for rounding: no information on how the clusters differ
    if count == 1 or float(np.abs(sums).max()) <= 1e-9 * max(1.0, float(np.abs(data).max())):
        why = "one cluster" if count == 1 else "clusters do not differ"
        items = (
            wilson(int(data.sum()), n, level=level, name=name, group=group)
            if binary
            else mean_interval(data.tolist(), level=level, name=name, group=group)
        )
        return items.model_copy(update={"method": f"{items.method} over items ({why})"})
    half = quantile(level, count - 1) * math.sqrt(count / (count - 1) * float(np.sum(sums**2))) / n
    low, high = mean - half, mean + half
    if binary:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(name=name, group=group, value=mean, low=low, high=high, n=n, method="cluster-t")


def difference_interval(
    first: Sequence[float],
    second: Sequence[float],
    *,
    level: float = 0.95,
    name: str = "difference",
    group: str = "",
) -> Estimate:
    """Return the difference of two independent samples' means, first less second, with Welch's t interval.

    A sample of one value tells nothing of its spread: the interval then has no width and says so.
    """
    check_level(level)
    one, two = _finite(first, name), _finite(second, name)
    value, n = _mean(one) - _mean(two), len(one) + len(two)
    if min(len(one), len(two)) == 1:
        return Estimate(
            name=name, group=group, value=value, low=value, high=value, n=n, method="none (one value)"
        )
    parts = [float(np.var(data, ddof=1)) / len(data) for data in (one, two)]
    error = math.sqrt(sum(parts))
    half = 0.0
    if error > 0:
        degrees = sum(parts) ** 2 / (parts[0] ** 2 / (len(one) - 1) + parts[1] ** 2 / (len(two) - 1))
        half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    return Estimate(
        name=name, group=group, value=value, low=value - half, high=value + half, n=n, method="welch-t"
    )


def quantile(level: float, degrees: float | None = None) -> float:
    """Two-sided quantile of the normal distribution, or of Student's t."""
    tail = (1 + level) / 2
    return float(stats.norm.ppf(tail) if degrees is None else stats.t.ppf(tail, degrees))


def _mean(data: NDArray[np.float64]) -> float:
    return math.fsum(data) / len(data)


def _finite(values: Sequence[float], name: str) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise UsageError(f"{name}: got no values; expected at least one")
    if not np.isfinite(data).all():
        raise UsageError(f"{name}: got a value that is not finite; leave missing values out")
    return data


def check_level(level: float) -> None:
    """Raise ``UsageError`` unless ``level`` is a confidence between 0 and 1."""
    if not 0 < level < 1:
        raise UsageError(f"level: got {level}; expected a confidence between 0 and 1, for example 0.95")
