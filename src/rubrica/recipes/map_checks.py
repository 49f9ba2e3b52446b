"""What a data map may be mistaken in: categories and lengths that it follows, and another map of the same prompts."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from rubrica.core.association import cramers_v, independence, macro_f1, spearman
from rubrica.core.base import Record
from rubrica.core.clustered import rate_by_cluster
from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.stats import wilson
from rubrica.methods.data_map import Point, Region, Scored, draw

LARGE = 0.3
"""Size from which an association is a warning: Cohen's medium effect."""
SURE = 0.01
"""Probability of a chance finding below which it is one."""


class Traits(NamedTuple):
    """What a place on the map should not depend on."""

    columns: Mapping[str, str]
    """Categories of the prompt: its source, kind, model ..."""
    prompt_length: int
    """Characters."""
    answer_lengths: tuple[int, ...]


class Confound(Record):
    """How much the map has to do with something else than quality."""

    about: str
    """A column, ``prompt length``, ``answer length`` or ``number of answers``."""
    of: Literal["region", "mean", "variance", "scores within prompts"]
    found: Estimate | Unmeasured
    """Cramér's V of a category and the region, Spearman's coefficient of a length and an axis, or the share of answer
    pairs of one prompt whose longer answer has the higher score."""
    warn: bool
    """The effect is at least :data:`LARGE` and not by chance."""


def confounds(points: Sequence[Point], traits: Sequence[Traits]) -> list[Confound]:
    """Return how region, mean and variance go with each column and with lengths, warnings first."""
    regions = [point.region for point in points]
    found: list[Confound] = []
    for name in dict.fromkeys(name for trait in traits for name in trait.columns):
        values = [trait.columns.get(name, "") for trait in traits]
        v = cramers_v(values, regions, group=name)
        large = v.value is not None and v.value >= LARGE and independence(values, regions) < SURE
        found.append(Confound(about=name, of="region", found=v, warn=large))
    counts = [str(len(point.scores)) for point in points]
    if len(set(counts)) > 1:
        v = cramers_v(counts, regions, group="number of answers")
        large = v.value is not None and v.value >= LARGE and independence(counts, regions) < SURE
        found.append(Confound(about="number of answers", of="region", found=v, warn=large))
    lengths = {
        "prompt length": [float(trait.prompt_length) for trait in traits],
        "answer length": [float(np.mean(trait.answer_lengths)) for trait in traits],
    }
    axes: dict[Literal["mean", "variance"], list[float]] = {
        "mean": [point.mean for point in points],
        "variance": [point.variance for point in points],
    }
    for about, values_ in lengths.items():
        for axis, places in axes.items():
            rho = spearman(values_, places, level=1 - SURE, group=about)
            large = rho.value is not None and abs(rho.value) >= LARGE and _excludes(rho, 0.0)
            found.append(Confound(about=about, of=axis, found=rho, warn=large))
    found += _length_preference(points, traits)
    return sorted(found, key=lambda confound: not confound.warn)


def _length_preference(points: Sequence[Point], traits: Sequence[Traits]) -> list[Confound]:
    """Share of answer pairs of one prompt whose longer answer has the higher score; equal ones are left out."""
    wins: dict[Hashable, list[bool]] = {
        point.id: [
            (point.scores[i] > point.scores[j]) == (trait.answer_lengths[i] > trait.answer_lengths[j])
            for i, j in combinations(range(len(point.scores)), 2)
            if point.scores[i] != point.scores[j] and trait.answer_lengths[i] != trait.answer_lengths[j]
        ]
        for point, trait in zip(points, traits, strict=True)
    }
    if not any(wins.values()):
        return []
    share = rate_by_cluster(wins, level=1 - SURE, name="longer scores higher", group="answer length")
    # 2 * share - 1 is a rank correlation (Somers' d), so that the same size counts as large
    large = abs(2 * share.value - 1) >= LARGE and _excludes(share, 0.5)
    return [Confound(about="answer length", of="scores within prompts", found=share, warn=large)]


def _excludes(found: Estimate | Unmeasured, value: float) -> bool:
    return isinstance(found, Estimate) and not found.low <= value <= found.high


class Comparison(Record):
    """Two maps of the same prompts, for example by two scorers; regions are drawn anew among the shared prompts."""

    shared: int
    only_first: int
    only_second: int
    mean: Estimate | Unmeasured
    """Spearman's coefficient of the means."""
    variance: Estimate | Unmeasured
    macro_f1: Estimate
    """Of the regions; two unrelated maps have 1/3."""
    moved: Estimate
    """Share of prompts in another region."""
    regions: dict[Region, dict[Region, int]]
    """Region in the first map -> region in the second -> prompts."""


def compare(first: Sequence[Point], second: Sequence[Point]) -> Comparison:
    """Compare the prompts that both maps have, by id; ``UsageError`` if there are none."""
    ids = [{point.id for point in points} for points in (first, second)]
    shared = ids[0] & ids[1]
    if not shared:
        raise UsageError("data map: the two maps share no prompt; compare maps of the same file")
    one, two = (
        sorted(_redrawn([point for point in points if point.id in shared]), key=lambda point: point.id)
        for points in (first, second)
    )
    regions = [[point.region for point in points] for points in (one, two)]
    moved = sum(a != b for a, b in zip(*regions, strict=True))
    return Comparison(
        shared=len(shared),
        only_first=len(ids[0] - shared),
        only_second=len(ids[1] - shared),
        mean=spearman([p.mean for p in one], [p.mean for p in two], name="spearman of means"),
        variance=spearman([p.variance for p in one], [p.variance for p in two], name="spearman of variances"),
        macro_f1=macro_f1(*regions, name="macro-F1 of regions"),
        moved=wilson(moved, len(shared), name="moved to another region"),
        regions={
            a: {b: sum((x, y) == (a, b) for x, y in zip(*regions, strict=True)) for b in Region}
            for a in Region
        },
    )


def _redrawn(points: Sequence[Point]) -> list[Point]:
    return draw([Scored(point.id, point.scores, point.labels, point.stratum) for point in points])[0]
