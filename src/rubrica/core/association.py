"""How much two columns have to do with each other: rank correlation, Cramér's V, agreement of two partitions.

Intervals: Fisher's z with the standard error of Bonett and Wright (2000) for Spearman's coefficient; the percentile
bootstrap for what depends on a table of counts alone, since resampling items is then one multinomial draw of cells.
"""

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.stats import check_level, quantile

Floats = NDArray[np.float64]
RESAMPLES = 1000
"""Bootstrap samples of an interval."""


def spearman(
    one: Sequence[float],
    two: Sequence[float],
    *,
    level: float = 0.95,
    name: str = "spearman",
    group: str = "",
) -> Estimate | Unmeasured:
    """Return Spearman's rank correlation; Unmeasured below 4 items or where a side does not vary."""
    check_level(level)
    n = _same_length(one, two, name)
    if n < 4:
        return Unmeasured(name=name, group=group, n=n, reason="needs 4 items or more")
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return Unmeasured(name=name, group=group, n=n, reason="one of the two does not vary")
    value = max(-1.0, min(1.0, float(stats.spearmanr(one, two).statistic)))
    low = high = value
    method = "none (perfect correlation)"
    if abs(value) < 1 - 1e-12:
        half = quantile(level) * math.sqrt((1 + value**2 / 2) / (n - 3))
        low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
        method = "fisher-z (Bonett-Wright)"
    return Estimate(name=name, group=group, value=value, low=low, high=high, n=n, method=method)


def cramers_v(
    one: Sequence[Hashable],
    two: Sequence[Hashable],
    *,
    level: float = 0.95,
    seed: int = 0,
    name: str = "cramers-v",
    group: str = "",
) -> Estimate | Unmeasured:
    """Return Cramér's V of two categorical columns, corrected for bias (Bergsma 2013), in [0, 1].

    The plain V of independent columns with many categories is far above 0. Unmeasured where a column holds one
    category only.
    """
    counts = _table(one, two, name)
    if min(counts.shape) < 2:
        n = int(counts.sum())
        return Unmeasured(name=name, group=group, n=n, reason="one of the two has a single category")
    return _bootstrap(counts, _corrected_v, level, seed, name, group)


def independence(one: Sequence[Hashable], two: Sequence[Hashable]) -> float:
    """Return the p-value of Pearson's chi-square test of independence, 1 where a column holds one category only."""
    counts = _table(one, two, "independence")
    return float(stats.chi2_contingency(counts, correction=False).pvalue) if min(counts.shape) > 1 else 1.0


def macro_f1(
    one: Sequence[Hashable],
    two: Sequence[Hashable],
    *,
    level: float = 0.95,
    seed: int = 0,
    name: str = "macro-f1",
    group: str = "",
) -> Estimate:
    """Return the mean over classes of ``2 n_cc / (n_c. + n_.c)``, the same whichever column counts as the truth."""
    classes = list(dict.fromkeys([*one, *two]))
    _same_length(one, two, name)
    index = {label: i for i, label in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, ([index[label] for label in one], [index[label] for label in two]), 1.0)
    return _bootstrap(counts, _macro_f1, level, seed, name, group)


def _same_length(one: Sequence[object], two: Sequence[object], name: str) -> int:
    if len(one) != len(two) or not len(one):
        raise UsageError(
            f"{name}: got {len(one)} and {len(two)} items; expected the same number, at least one"
        )
    return len(one)


def _table(one: Sequence[Hashable], two: Sequence[Hashable], name: str) -> Floats:
    _same_length(one, two, name)
    rows, columns = ({label: i for i, label in enumerate(dict.fromkeys(side))} for side in (one, two))
    counts = np.zeros((len(rows), len(columns)))
    np.add.at(counts, ([rows[label] for label in one], [columns[label] for label in two]), 1.0)
    return counts


def _bootstrap(
    counts: Floats, statistic: Callable[[Floats], float], level: float, seed: int, name: str, group: str
) -> Estimate:
    check_level(level)
    value, n = statistic(counts), int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=RESAMPLES)
    found = [statistic(draw.reshape(counts.shape).astype(np.float64)) for draw in draws]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Estimate(
        name=name,
        group=group,
        value=value,
        low=min(value, low),
        high=max(value, high),
        n=n,
        method="bootstrap",
    )


def _corrected_v(counts: Floats) -> float:
    """Bergsma (2013): ``phi2 - (r-1)(c-1)/(n-1)`` over the least of the corrected numbers of rows and columns less 1."""
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    n, (rows, columns) = float(counts.sum()), counts.shape
    if min(rows, columns) < 2 or n < 2:
        return 0.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    phi2 = float(((counts - expected) ** 2 / expected).sum()) / n
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    rest = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return min(1.0, math.sqrt(phi2 / rest)) if rest > 0 else 0.0


def _macro_f1(counts: Floats) -> float:
    """A class that neither column holds, in a resample, is left out of the mean."""
    size = counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.mean(2 * np.diag(counts)[size > 0] / size[size > 0]))
