"""One comparison: a measure of one suite, of a group in it, or of an average over suites, on both sides."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rubrica.core.agreement import CORRECTED
from rubrica.core.clustered import Floats, Ints, binary, numbered, once_each, rate
from rubrica.core.compared import Contrast, Corrected
from rubrica.core.corrected import corrected_difference, corrected_rate
from rubrica.core.evaluation import Metric
from rubrica.core.mcnemar import sign_flip
from rubrica.core.paired import Pairs, difference, discordance, pairs, robust_p
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.resampling import bootstrap_difference
from rubrica.recipes.judge_errors import Errors
from rubrica.recipes.matching import Suite

Average = Literal["macro", "pooled"]
_HIGHER = {Metric.ACCURACY.value, Metric.PREFERENCE.value}


class Asked(NamedTuple):
    """What is compared."""

    suites: Sequence[Suite]
    metric: str
    group: str = ""
    average: Average | None = None
    """None: of the one suite."""


class Means(NamedTuple):
    """By what it is compared."""

    level: float
    draws: bool
    """Whether the bootstrap is drawn."""
    errors: Mapping[Metric, Errors]
    judge_of: Callable[[str], str]
    """Fingerprint of the judge of a suite."""


class Found(NamedTuple):
    """A comparison, and the values behind it; None where there are none."""

    contrast: Contrast
    two: Pairs | None


class _Table(NamedTuple):
    """Values of both sides (P R each, NaN where there is none), with cluster and suite of each row."""

    first: Floats
    second: Floats
    clusters: Ints
    strata: Ints


def lower_is_better(metric: str) -> bool:
    """Whether less of a measure is better: attacks that succeed, refusals, answers without a value, tokens."""
    return metric.removeprefix("draft_") not in _HIGHER


def contrast(asked: Asked, means: Means) -> Found:
    """Compare; without a value on both sides the contrast says so."""
    table = _table(asked)
    unknown = np.isnan(table.first).any(axis=1) | np.isnan(table.second).any(axis=1)
    known = np.logical_not(np.asarray(unknown))
    missing = int((~known).sum())
    if not known.any():
        return Found(_not_compared(asked, missing), None)
    both = _weighed(asked, table, known)
    shares = all(map(binary, both))
    gap = difference(both, level=means.level, name=asked.metric, group=asked.group)
    lost, gained = discordance(both) if shares else (None, None)
    p, test, mid = _tested(both, exact=shares and asked.average is None)
    found = Contrast(
        suite=_name(asked),
        metric=asked.metric,
        group=asked.group,
        lower_is_better=lower_is_better(asked.metric),
        pairs=len(both.first.clusters),
        clusters=int(both.first.clusters.max()) + 1,
        without_value=missing,
        however_missing=_bounds(table) if shares and missing and asked.average is None else None,
        first=rate(both.first, level=means.level, name=asked.metric, group=asked.group),
        second=rate(both.second, level=means.level, name=asked.metric, group=asked.group),
        difference=gap,
        bootstrap=bootstrap_difference(both, level=means.level, name=asked.metric, group=asked.group)
        if means.draws
        else None,
        lost=lost,
        gained=gained,
        p=p,
        test=test,
        mid_p=mid,
        finding="no difference shown",
        corrected=_corrected(asked, both, gap, means) if shares else None,
    )
    return Found(found, both)


def _table(asked: Asked) -> _Table:
    first, second, clusters, strata = [], [], [], []
    for number, suite in enumerate(asked.suites):
        inside = suite.first.inside(asked.group)
        first.append(suite.first.table(asked.metric)[inside])
        second.append(suite.second.table(asked.metric)[inside])
        clusters.append(suite.first.clusters[inside])
        strata.append(np.full(int(inside.sum()), number))
    codes = numbered(np.concatenate(clusters).view(np.int64))
    return _Table(np.concatenate(first), np.concatenate(second), codes, np.concatenate(strata))


def _weighed(asked: Asked, table: _Table, known: NDArray[np.bool_]) -> Pairs:
    """The known rows: each weighs alike, or each suite, or each distinct goal."""
    clusters, strata = table.clusters[known], table.strata[known]
    both = table.first[known], table.second[known]
    match asked.average:
        case "macro":
            return pairs(*both, clusters, weights=once_each(strata), strata=strata)
        case "pooled":
            return pairs(*both, clusters, weights=once_each(clusters))
        case None:
            return pairs(*both, clusters)


def _name(asked: Asked) -> str:
    return asked.average or asked.suites[0].name


def _not_compared(asked: Asked, missing: int) -> Contrast:
    why = "no matched item has a value on both sides"
    none = Unmeasured(name=asked.metric, group=asked.group, reason=why)
    return Contrast(
        suite=_name(asked),
        metric=asked.metric,
        group=asked.group,
        lower_is_better=lower_is_better(asked.metric),
        without_value=missing,
        first=none,
        second=none,
        difference=none,
        finding="not compared",
    )


def _bounds(table: _Table) -> tuple[float, float]:
    """The least and the largest difference that some values of 0 and 1 in place of the missing ones give (Manski 1990)."""
    least, most = (
        float(
            np.nan_to_num(table.second, nan=value).mean() - np.nan_to_num(table.first, nan=1 - value).mean()
        )
        for value in (0.0, 1.0)
    )
    return least, most


def _tested(two: Pairs, *, exact: bool) -> tuple[float | None, str, float | None]:
    """p-value, name of the test, mid-p."""
    first, second = two
    if exact and first.values.shape[1] == second.values.shape[1] == 1:
        sums = np.bincount(first.clusters, (second.values - first.values)[:, 0]).astype(np.float64)
        found = sign_flip(sums)
        alone = len(sums) == len(first.values)
        return found.p, "exact McNemar" if alone else "exact McNemar by cluster", found.mid
    p = robust_p(two)
    if p is None:
        if np.allclose(first.values.mean(axis=1), second.values.mean(axis=1)):
            return 1.0, "none (no variance)", None
        # every cluster differs alike: no t, but so many signs are no accident
        alike = np.ones(int(first.clusters.max()) + 1)
        return sign_flip(alike).p, "exact test of signs by cluster", None
    ways = "items and models" if max(first.values.shape[1], second.values.shape[1]) > 1 else "items"
    return p, f"cluster-robust t over {ways}", None


def _corrected(asked: Asked, two: Pairs, gap: Estimate, means: Means) -> Corrected | None:
    """None for what no judge of a passport judged."""
    counted = asked.metric.removeprefix("draft_")
    errors = means.errors.get(Metric(counted)) if counted in set(Metric) else None
    if errors is None:
        return None
    reason = errors.unknown
    others = {means.judge_of(suite.name) for suite in asked.suites} - {errors.judge}
    if others:
        by = min(others) or "nobody known"
        reason = f"the passport is of {errors.judge}, the answers were judged by {by}"
    if reason:
        none = Unmeasured(name=f"{asked.metric}{CORRECTED}", group=asked.group, n=gap.n, reason=reason)
        return Corrected(first=none, second=none, difference=none)
    sensitivity, specificity = (
        share for share in (errors.sensitivity, errors.specificity) if isinstance(share, Estimate)
    )
    first, second = (
        corrected_rate(one, sensitivity, specificity, level=means.level, name=asked.metric, group=asked.group)
        for one in two
    )
    odd = next((each for each in (first, second) if isinstance(each, Unmeasured)), None)
    change = odd or corrected_difference(gap, sensitivity, specificity, level=means.level)
    return Corrected(first=first, second=second, difference=change)
