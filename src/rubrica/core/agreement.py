"""Agreement of raters beyond chance, and rates corrected for a judge's errors.

Cohen's kappa (1960; weighted 1968) and Krippendorff's alpha (2004, chapter 11) are both ``1 - D_o / D_e``:
disagreement seen, over disagreement expected by chance. Both counts are sums over texts, so resampling whole
texts is a product of a matrix of draws and the texts' tables: the percentile bootstrap by cluster costs no loop.
With ``strata`` (one for each question) chance is taken within a stratum and both disagreements are summed.

What does not exist is :class:`~rubrica.core.records.Unmeasured` with its reason: a kappa of raters who gave one
label throughout is neither 0 nor 1.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.stats import check_level, quantile, wilson

Weights = Literal["linear", "quadratic"]
Metric = Literal["nominal", "ordinal", "interval"]
RESAMPLES = 1000
"""Bootstrap samples of an interval."""
CORRECTED = ", corrected"
"""Behind the name of a rate that is corrected for the errors of its judge."""
_CELLS = 4_000_000
"""Numbers that one block of bootstrap samples may hold."""

Floats = NDArray[np.float64]
Disagreement = tuple[Floats, Floats]
"""Seen and expected by chance, each per item and at most 1."""


class _Tables(NamedTuple):
    """Counts of label pairs, ``[cluster, stratum, label, label]``, and how many items they hold."""

    counts: Floats
    n: int


def agreement(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    level: float = 0.95,
    name: str = "agreement",
    group: str = "",
) -> Estimate:
    """Return the share of items that two raters label alike, with Wilson's interval."""
    _check_pairs(first, second, name)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return wilson(same, len(first), level=level, name=name, group=group)


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    labels: Sequence[Hashable] | None = None,
    weights: Weights | None = None,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
    name: str = "kappa",
    group: str = "",
) -> Estimate | Unmeasured:
    """Return Cohen's kappa of two raters with a bootstrap interval.

    ``labels`` gives the order that ``weights`` need (disagreement by distance in rank, or its square).
    ``clusters`` names the text of each item (default: every item its own), ``strata`` its question.
    Unmeasured where each stratum holds one label only. ``UsageError`` for unequal lengths, no items,
    an unknown label, or weights without order.
    """
    check_level(level)
    _check_pairs(first, second, name)
    if weights is not None and labels is None:
        raise UsageError(f"{name}: weights={weights!r} needs labels in their order")
    index = _positions(labels if labels is not None else [*first, *second], [*first, *second], name)
    n, size = len(first), len(index)
    group_of, stratum_of = _numbered(clusters, n, name), _numbered(strata, n, name, one=True)
    counts = np.zeros((max(group_of) + 1, max(stratum_of) + 1, size, size))
    rows, columns = [index[label] for label in first], [index[label] for label in second]
    np.add.at(counts, (group_of, stratum_of, rows, columns), 1.0)
    distance = _distance(size, weights)

    def disagreement(table: Floats) -> Disagreement:
        items = table.sum(axis=(-1, -2))
        by_first, by_second = table.sum(axis=-1), table.sum(axis=-2)
        chance = ((by_first @ distance) * by_second).sum(axis=-1) / np.maximum(items, 1)
        total = items.sum(axis=-1)
        return (table * distance).sum(axis=(-1, -2, -3)) / total, chance.sum(axis=-1) / total

    why = "every item of a question got one and the same label from both; kappa needs labels that differ"
    return _estimate(_Tables(counts, n), disagreement, level, seed, name, group, why)


def krippendorff_alpha(
    units: Sequence[Sequence[Hashable | None]],
    *,
    metric: Metric = "nominal",
    labels: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
    name: str = "alpha",
    group: str = "",
) -> Estimate | Unmeasured:
    """Return Krippendorff's alpha of any number of raters with a bootstrap interval.

    ``units[u]`` holds the ratings of one item, None where a rater gave none; an item with fewer than two counts
    for nothing. ``ordinal`` needs ``labels`` in their order, ``interval`` labels that are numbers.
    ``clusters`` names the text of each unit (default: every unit its own), ``strata`` its question; ordinal
    distances are ranks as shares of a stratum's ratings. Unmeasured where no unit has two ratings, or each
    stratum holds one label only. ``UsageError`` as :func:`cohen_kappa`.
    """
    check_level(level)
    rated = [[label for label in unit if label is not None] for unit in units]
    given = [label for unit in rated for label in unit]
    if metric == "ordinal" and labels is None:
        raise UsageError(f"{name}: metric='ordinal' needs labels in their order")
    n = sum(len(unit) > 1 for unit in rated)
    if n == 0:
        return Unmeasured(name=name, group=group, reason="no item has two ratings")
    index = _positions(labels if labels is not None else given, given, name)
    group_of = _numbered(clusters, len(units), name)
    stratum_of = _numbered(strata, len(units), name, one=True)
    size = len(index)
    counts = np.zeros((max(group_of) + 1, max(stratum_of) + 1, size, size))
    for unit, cluster, stratum in zip(rated, group_of, stratum_of, strict=True):
        if len(unit) > 1:
            seen = np.bincount([index[label] for label in unit], minlength=size).astype(np.float64)
            counts[cluster, stratum] += (np.outer(seen, seen) - np.diag(seen)) / (len(unit) - 1)
    fixed = _metric(list(index), metric, name)

    def disagreement(table: Floats) -> Disagreement:
        ratings = table.sum(axis=-1)
        values = ratings.sum(axis=-1)
        distance = fixed if fixed is not None else _rank_distance(ratings)
        chance = (ratings[..., :, None] * ratings[..., None, :] * distance).sum(axis=(-1, -2))
        total = values.sum(axis=-1)
        seen = (table * distance).sum(axis=(-1, -2, -3))
        return seen / total, (chance / np.maximum(values - 1, 1)).sum(axis=-1) / total

    why = "every item of a question got one and the same label; alpha needs labels that differ"
    return _estimate(_Tables(counts, n), disagreement, level, seed, name, group, why)


def rogan_gladen(
    rate: Estimate,
    sensitivity: Estimate,
    specificity: Estimate,
    *,
    level: float = 0.95,
    name: str = "",
    group: str = "",
) -> Estimate | Unmeasured:
    """Return the true rate behind the ``rate`` that a judge with these errors reports, cut to [0, 1].

    ``(rate + sp - 1) / (se + sp - 1)`` (Rogan and Gladen 1978), with the interval of Lang and Reiczigel (2014),
    which carries the uncertainty of all three shares; each comes with its value and its ``n``, of independent
    samples. Unmeasured where ``se + sp <= 1``: such a judge says nothing about the rate.
    """
    check_level(level)
    name, group = name or f"{rate.name}{CORRECTED}", group or rate.group
    shares = (rate, sensitivity, specificity)
    for share in shares:
        if share.n < 1 or not 0 <= share.value <= 1:
            raise UsageError(f"{share.name}: got {share.value} of {share.n}; expected a share with its n")
    se, sp = sensitivity.value, specificity.value
    if se + sp <= 1:
        reason = f"sensitivity {se:.3f} and specificity {sp:.3f} together are no better than chance"
        return Unmeasured(name=name, group=group, n=rate.n, reason=reason)
    value = min(1.0, max(0.0, (rate.value + sp - 1) / (se + sp - 1)))
    z = quantile(level)
    low, high = _lang_reiczigel(*((share.value * share.n, share.n) for share in shares), z=z)
    return Estimate(
        name=name,
        group=group,
        value=value,
        low=min(value, low),
        high=max(value, high),
        n=rate.n,
        method="lang-reiczigel",
    )


def _lang_reiczigel(
    rate: tuple[float, int], sensitivity: tuple[float, int], specificity: tuple[float, int], *, z: float
) -> tuple[float, float]:
    """Lang and Reiczigel (2014), equations 3-6: a Wald interval around shares that were moved to the middle."""
    n, n_se, n_sp = rate[1] + z * z, sensitivity[1] + 2, specificity[1] + 2
    p, se, sp = (rate[0] + z * z / 2) / n, (sensitivity[0] + 1) / n_se, (specificity[0] + 1) / n_sp
    youden = se + sp - 1
    if youden <= 0:
        return 0.0, 1.0
    true = (p + sp - 1) / youden
    var_se, var_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z * z * (true * var_se - (1 - true) * var_sp)
    half = z * math.sqrt(p * (1 - p) / n + true**2 * var_se + (1 - true) ** 2 * var_sp) / youden
    return max(0.0, min(1.0, true + shift - half)), min(1.0, max(0.0, true + shift + half))


def _estimate(
    tables: _Tables,
    disagreement: Callable[[Floats], Disagreement],
    level: float,
    seed: int,
    name: str,
    group: str,
    why_not: str,
) -> Estimate | Unmeasured:
    """``1 - D_o / D_e`` with its interval, or why it does not exist."""
    seen, expected = (float(part) for part in disagreement(tables.counts.sum(axis=0)))
    counts = tables.counts[tables.counts.any(axis=(1, 2, 3))]
    if expected <= 1e-12:
        return Unmeasured(name=name, group=group, n=tables.n, reason=why_not)
    value, texts = 1 - seen / expected, len(counts)
    if seen <= 1e-12:
        # no resample can show a disagreement, nor how texts differ: take as many as Wilson allows among the items
        low, high = 1 - (1 - wilson(tables.n, tables.n, level=level).low) / expected, 1.0
        value, method = 1.0, "wilson (no disagreement seen)"
    elif texts == 1:
        low, high, method = value, value, "none (one text)"
    else:
        found = _resampled(counts, disagreement, seed)
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
        undefined = RESAMPLES - len(found)
        method = "bootstrap by cluster" + (f" ({undefined} of {RESAMPLES} undefined)" if undefined else "")
        if high - low <= 1e-12:
            method = "none (no variance)"
    return Estimate(
        name=name,
        group=group,
        value=value,
        low=max(-1.0, min(value, low)),
        high=max(value, high),
        n=tables.n,
        method=method,
    )


def _resampled(counts: Floats, disagreement: Callable[[Floats], Disagreement], seed: int) -> Floats:
    """The statistic of every bootstrap sample of clusters in which it exists."""
    rng = np.random.default_rng(seed)
    clusters, cells = len(counts), counts[0].size
    flat, shape = counts.reshape(clusters, cells), counts.shape[1:]
    block = max(1, _CELLS // max(clusters, cells))
    found: list[Floats] = []
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        draws = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
        seen, expected = disagreement((draws @ flat).reshape(size, *shape))
        kept = expected > 1e-12
        found.append(1 - seen[kept] / expected[kept])
    return np.concatenate(found)


def _distance(size: int, weights: Weights | None) -> Floats:
    """Disagreement of each pair of labels: 0 on the diagonal, 1 for the farthest."""
    rank = np.arange(size)
    apart = np.abs(rank[:, None] - rank[None, :])
    if weights is None:
        return np.asarray(apart > 0, dtype=np.float64)
    share = apart / max(1, size - 1)
    return np.asarray(share if weights == "linear" else share**2, dtype=np.float64)


def _metric(labels: Sequence[Hashable], metric: Metric, name: str) -> Floats | None:
    """Squared distances between labels, 1 for the farthest; None where they depend on the ratings."""
    if metric == "ordinal":
        return None
    if metric == "nominal":
        return _distance(len(labels), None)
    values = [float(label) for label in labels if isinstance(label, int | float)]
    if len(values) < len(labels) or not all(map(math.isfinite, values)):
        raise UsageError(f"{name}: metric='interval' needs labels that are numbers, got {list(labels)[:5]}")
    apart = np.subtract.outer(values, values) ** 2
    return np.asarray(apart / max(float(apart.max()), 1e-300), dtype=np.float64)


def _rank_distance(ratings: Floats) -> Floats:
    """Krippendorff's ordinal metric with ranks as shares: ``(sum_{g=c..k} n_g - (n_c + n_k) / 2)^2 / n^2``."""
    middle = np.cumsum(ratings, axis=-1) - ratings / 2
    middle = middle / np.maximum(ratings.sum(axis=-1, keepdims=True), 1)
    return np.asarray((middle[..., :, None] - middle[..., None, :]) ** 2, dtype=np.float64)


def _positions(order: Sequence[Hashable], given: Sequence[Hashable], name: str) -> dict[Hashable, int]:
    index = {label: position for position, label in enumerate(dict.fromkeys(order))}
    for label in given:
        if label not in index:
            raise UsageError(f"{name}: got label {label!r}; expected one of {list(index)}")
    return index


def _numbered(names: Sequence[Hashable] | None, n: int, name: str, *, one: bool = False) -> list[int]:
    """Numbers from 0 for the distinct ``names`` in order; without names all items differ, or are ``one``."""
    if names is None:
        return [0] * n if one else list(range(n))
    if len(names) != n:
        raise UsageError(f"{name}: got {len(names)} clusters or strata for {n} items; expected one for each")
    index: dict[Hashable, int] = {}
    return [index.setdefault(key, len(index)) for key in names]


def _check_pairs(first: Sequence[Hashable], second: Sequence[Hashable], name: str) -> None:
    if len(first) != len(second) or not first:
        raise UsageError(
            f"{name}: got {len(first)} and {len(second)} labels; expected the same number, at least one"
        )
