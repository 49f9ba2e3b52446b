"""``rubrica compare``: two recipes on the same items, suite by suite, with everything that a sceptic asks for.

A difference counts as shown where its p-value, adjusted by Holm over the rows of the same table, is at most ``1 - level``.
The exact test speaks of the models at hand; with several models of a side the test is the t test over items and models,
and speaks of the recipe.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from rubrica.core.clustered import binary, effective, spread
from rubrica.core.compared import Comparison, Contrast, Finding
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Metric
from rubrica.core.mcnemar import holm
from rubrica.core.paired import Pairs, discordance
from rubrica.core.power import detectable_difference
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.stats import quantile
from rubrica.recipes.comparable import Loaded, differences, evaluated
from rubrica.recipes.contrast import Asked, Average, Found, Means, contrast
from rubrica.recipes.eval_columns import SHARES, TOKENS
from rubrica.recipes.judge_errors import Errors
from rubrica.recipes.matching import Suite, match, shared_suites

AVERAGES: tuple[Average, ...] = ("macro", "pooled")
By = Literal["category", "attack"]
Interval = Literal["score", "bootstrap"]


class Options(NamedTuple):
    """How the sides are compared."""

    metrics: tuple[str, ...] = ()
    """Only suites of these metrics; empty: all."""
    by: By | None = None
    level: float = 0.95
    power: float = 0.8
    margin: float | None = None
    """A loss up to this is *not inferior*."""
    interval: Interval = "score"
    """Which interval a margin and a gate are held against."""
    anyway: bool = False
    """Compare in spite of different judges or protocols."""
    errors: Mapping[Metric, Errors] = {}
    """By metric: errors of its judge."""


def compare(first: Loaded, second: Loaded, options: Options) -> Comparison:
    """Compare the second side with the first.

    Raises ``UsageError`` where judges or protocols differ, or no suite is shared.
    """
    forbidding, telling = differences(first, second)
    if forbidding and not options.anyway:
        more = f"; and {len(forbidding) - 2} more" if len(forbidding) > 2 else ""
        raise UsageError(
            f"not comparable: {'; '.join(forbidding[:2])}{more}; evaluate both alike, or compare with --anyway"
        )
    suites = _matched(first, second, options)
    names = {suite.name for suite in suites}
    means = Means(options.level, True, options.errors, first.judge)
    # tokens are of as many kinds as there are items: drawn only where a gate may go by them
    sparing = means._replace(draws=options.interval == "bootstrap")
    found = {
        table: [contrast(asked, sparing if table == "answers" else means) for asked in questions]
        for table, questions in _questions(suites, options.by).items()
    }
    return Comparison(
        first=evaluated(first),
        second=evaluated(second),
        level=options.level,
        power=options.power,
        margin=options.margin,
        differs=(*forbidding, *telling),
        matching=tuple(suite.matching for suite in suites),
        only=(_others(first, names, options), _others(second, names, options)),
        suites=_decided(found["suites"], options),
        drafts=_decided(found["drafts"], options),
        groups=_decided(found["groups"], options),
        averages=_decided(found["averages"], options, alone=True),
        answers=tuple(row.contrast for row in found["answers"] if row.two is not None),
    )


def _questions(suites: Sequence[Suite], by: By | None) -> dict[str, list[Asked]]:
    """What each table compares."""
    by_metric: dict[Metric, list[Suite]] = {}
    for suite in suites:
        by_metric.setdefault(suite.metric, []).append(suite)
    return {
        "suites": [Asked([suite], suite.metric) for suite in suites],
        "drafts": [Asked([suite], f"draft_{suite.metric}") for suite in suites if _has_drafts(suite)],
        "groups": [Asked([suite], suite.metric, group) for suite in suites for group in _groups(suite, by)],
        "averages": [
            Asked(several, metric, average=average)
            for metric, several in by_metric.items()
            if len(several) > 1
            for average in AVERAGES
        ],
        "answers": [Asked([suite], name) for suite in suites for name in (*SHARES, TOKENS)],
    }


def _matched(first: Loaded, second: Loaded, options: Options) -> list[Suite]:
    """Match the suites that both sides have; ``UsageError`` where there is none of the wanted metrics."""
    names = shared_suites(first.models, second.models)
    matched = [match(first.models, second.models, name) for name in names]
    found = [suite for suite in matched if not options.metrics or suite.metric.value in options.metrics]
    if not found:
        of = f" of {', '.join(options.metrics)}" if options.metrics else ""
        sides = [sorted({name for model in side.models for name in model.suites}) for side in (first, second)]
        raise UsageError(
            f"no suite{of} on both sides: the first has {', '.join(sides[0])}, the second {', '.join(sides[1])}; "
            "evaluate both on the same suites"
        )
    if not any(suite.matching.matched for suite in found):
        ids = [next(iter(found[0].matching.examples[side]), "nothing") for side in (0, 1)]
        raise UsageError(
            f"no item is on both sides: {found[0].matching.suite} has {ids[0]} in the first, {ids[1]} in the second; "
            "evaluate both on the same items"
        )
    return found


def _decided(found: Sequence[Found], options: Options, *, alone: bool = False) -> tuple[Contrast, ...]:
    """Adjust the p-values of one table (unless each row stands ``alone``) and say what follows."""
    tested = [row for row in found if row.contrast.p is not None]
    p_values = [row.contrast.p for row in tested if row.contrast.p is not None]
    adjusted = dict(zip(map(id, tested), p_values if alone else holm(p_values), strict=True))
    alpha = (1 - options.level) / (1 if alone else max(1, len(tested)))
    decided = []
    for row in found:
        update: dict[str, object] = {}
        if row.two is not None:
            p = adjusted.get(id(row))
            safe = not_inferior(row.contrast, options)
            update = {
                "adjusted_p": p,
                "detectable": _detectable(row.two, alpha, options.power),
                "not_inferior": safe,
                "finding": _finding(row.contrast, p, safe, options),
            }
        decided.append(row.contrast.model_copy(update=update))
    return tuple(decided)


def shown_interval(contrast: Contrast, interval: Interval) -> Estimate | Unmeasured:
    """The difference with the interval that was chosen."""
    return contrast.bootstrap if interval == "bootstrap" and contrast.bootstrap else contrast.difference


def not_inferior(contrast: Contrast, options: Options) -> bool | None:
    """Whether the second side is worse by the margin at most, with the interval's certainty."""
    found = shown_interval(contrast, options.interval)
    if options.margin is None or isinstance(found, Unmeasured):
        return None
    return (found.high if contrast.lower_is_better else -found.low) <= options.margin


def _finding(contrast: Contrast, p: float | None, safe: bool | None, options: Options) -> Finding:
    gap = contrast.difference
    if p is not None and p <= 1 - options.level and isinstance(gap, Estimate) and gap.value:
        return "better" if (gap.value < 0) is contrast.lower_is_better else "worse"
    return "not inferior" if safe else "no difference shown"


def _detectable(two: Pairs, alpha: float, power: float) -> float | None:
    found = spread((-1.0, two.first), (1.0, two.second))
    if all(map(binary, two)):
        lost, gained = discordance(two)
        size, _ = effective(lost + gained - (gained - lost) ** 2, found, 1 - alpha, two.first, two.second)
        return detectable_difference(min(1.0, lost + gained), size, alpha=alpha, power=power)
    if found.variance <= 0:
        return None
    return (quantile(1 - alpha, found.degrees) + float(stats.norm.ppf(power))) * math.sqrt(found.variance)


def _has_drafts(suite: Suite) -> bool:
    return all(
        any((~np.isnan(one.drafts)).any() for one in side.columns) for side in (suite.first, suite.second)
    )


def _groups(suite: Suite, by: By | None) -> list[str]:
    names: Iterable[str] = suite.first.columns[0].groups
    return sorted(name for name in names if by is not None and name.startswith(f"{by}:"))


def _others(loaded: Loaded, compared: set[str], options: Options) -> tuple[str, ...]:
    """Suites of a side that are not compared, though their metric is wanted."""
    found: dict[str, Metric] = {}
    for model in loaded.models:
        found |= {name: columns.metric for name, columns in model.suites.items()}
    wanted = [
        name for name, metric in found.items() if not options.metrics or metric.value in options.metrics
    ]
    return tuple(name for name in wanted if name not in compared)
