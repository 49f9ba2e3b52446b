"""Alignment Data Map (arXiv 2505.23114, Findings of ACL 2026): where each prompt of preference data stands.

Every answer ``r_i`` of prompt ``d`` has a score ``s(x_d, r_i)``. A prompt's place on the map is

    mean_d     = (1/n) sum_i s(x_d, r_i)                  quality of its answers
    variance_d = (1/n) sum_i (s(x_d, r_i) - mean_d)^2     how much they differ (population variance)

With two answers the variance is the squared margin: ``(s_1 - s_2)^2 / 4``. Regions are ranks within the cohort, so any
scale of scores gives the same map: the third with the highest variance is ``high-variance``; of the others the
half with the higher mean is ``high-average``, the rest ``low-average``. The paper trains on the high-average third.

Diagnosis compares the scores ``S`` of one prompt with its labels ``Y`` (which answer people preferred, or ratings): the
paper's ``cos(Y, S)``, which sits near 1 where both are positive, and, ours, its centred form (Pearson), Kendall's
tau-b, and the pairs of answers that scores and labels order in opposite ways.

Ours, where the paper is silent: ties in rank are broken by a hash of the id, so that the order of a file decides
nothing, and are counted; a prompt is on the map only if every answer has a score.
"""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat
from scipy import stats

from rubrica.core.base import Record
from rubrica.core.config import content_hash
from rubrica.core.errors import UsageError

DIGITS = 9
"""Digits that count of a value in relation to the cohort's span: in the last ones equal values differ by rounding."""
PairRule = Literal["best-worst", "best-rest", "all"]
Floats = NDArray[np.float64]


class Region(StrEnum):
    """Part of the map."""

    HIGH_AVERAGE = "high-average"
    LOW_AVERAGE = "low-average"
    HIGH_VARIANCE = "high-variance"


class Scored(NamedTuple):
    """A prompt with the scores of its answers."""

    id: str
    scores: tuple[float, ...]
    labels: tuple[float | None, ...] | None = None
    """What people gave each answer, higher is better; None where an answer has no label."""
    stratum: str = ""
    """Prompts are ranked among those of the same stratum."""


class Point(Record):
    """A prompt's place on the map."""

    id: str
    stratum: str
    scores: tuple[FiniteFloat, ...]
    labels: tuple[FiniteFloat | None, ...] | None
    mean: FiniteFloat
    variance: FiniteFloat
    region: Region


class Boundary(Record):
    """Where a region ends within a stratum."""

    stratum: str
    between: Literal["high-variance and the rest", "high-average and low-average"]
    value: FiniteFloat
    """Variance, or mean, of the last prompt inside the first of the two."""
    tied: int
    """Prompts with this very value, if they lie on both sides: chance decided among them. Else 0."""


class Diagnosis(Record):
    """How scores and labels of one prompt agree; None where a coefficient does not exist (no variance)."""

    id: str
    cosine: FiniteFloat | None
    pearson: FiniteFloat | None
    kendall: FiniteFloat | None
    pairs: int
    """Pairs of answers with different labels."""
    inverted: int
    """Of these, pairs that the scores order in the opposite way, by more than the tolerance."""
    margin: FiniteFloat
    """Largest ``s_worse - s_better`` over these pairs: above 0, a worse answer by label has the higher score."""
    better: int
    """Place of the answer of that pair with the higher label."""
    worse: int
    suspect: bool
    """Pearson below 0 and the margin above the tolerance: label, or scorer, is wrong."""


def place(scores: Sequence[float]) -> tuple[float, float]:
    """Return mean and population variance; ``UsageError`` unless there are two finite scores or more."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size < 2 or not np.isfinite(values).all():
        raise UsageError(f"data map: got scores {list(scores)[:5]}; expected two finite ones or more")
    return float(values.mean()), float(values.var())


def draw(entries: Sequence[Scored]) -> tuple[list[Point], list[Boundary]]:
    """Return the place of every prompt, in the given order, and the boundaries of each stratum."""
    places = [place(entry.scores) for entry in entries]
    regions: dict[int, Region] = {}
    boundaries: list[Boundary] = []
    for stratum, members in by_stratum([entry.stratum for entry in entries]).items():
        ids = [entries[i].id for i in members]
        means, variances = (np.array([places[i][axis] for i in members]) for axis in (0, 1))
        found, ends = _regions(ids, means, variances, stratum)
        regions |= dict(zip(members, found, strict=True))
        boundaries += ends
    points = [
        Point(
            id=entry.id,
            stratum=entry.stratum,
            scores=tuple(map(float, entry.scores)),
            labels=entry.labels,
            mean=mean,
            variance=variance,
            region=regions[i],
        )
        for i, (entry, (mean, variance)) in enumerate(zip(entries, places, strict=True))
    ]
    return points, boundaries


def by_stratum(strata: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of each stratum's members, strata in order of their names."""
    found: dict[str, list[int]] = {name: [] for name in sorted(set(strata))}
    for i, name in enumerate(strata):
        found[name].append(i)
    return found


def _regions(
    ids: Sequence[str], means: Floats, variances: Floats, stratum: str
) -> tuple[list[Region], list[Boundary]]:
    """Regions by rank: ``N // 3`` of the highest variance, then half of the rest by mean."""
    spread, level = _relative(variances, 0.0), _relative(means, float(means.min()))
    order = _ranked(ids, spread, range(len(ids)))
    cut = len(ids) // 3
    rest = _ranked(ids, level, order[cut:])
    half = len(rest) // 2
    found = [Region.LOW_AVERAGE] * len(ids)
    for i in order[:cut]:
        found[i] = Region.HIGH_VARIANCE
    for i in rest[:half]:
        found[i] = Region.HIGH_AVERAGE
    ends: list[Boundary] = []
    if cut:
        tied = _tied(spread, order, cut)
        value = float(variances[order[cut - 1]])
        ends.append(Boundary(stratum=stratum, between="high-variance and the rest", value=value, tied=tied))
    if half:
        tied = _tied(level, rest, half)
        value = float(means[rest[half - 1]])
        ends.append(Boundary(stratum=stratum, between="high-average and low-average", value=value, tied=tied))
    return found, ends


def _relative(values: Floats, origin: float) -> Floats:
    """Values in units of the cohort's span, without the digits in which equal ones differ by rounding."""
    span = float(values.max()) - origin
    return np.round((values - origin) / span, DIGITS) if span > 0 else np.zeros_like(values)


def _ranked(ids: Sequence[str], values: Floats, members: Sequence[int]) -> list[int]:
    """``members`` from the highest value to the lowest, ties by a hash of the id."""
    return sorted(members, key=lambda i: (-values[i], content_hash(ids[i])))


def _tied(values: Floats, order: Sequence[int], cut: int) -> int:
    """How many share the value on both sides of ``order[cut]``."""
    if cut >= len(order) or values[order[cut - 1]] != values[order[cut]]:
        return 0
    return sum(values[i] == values[order[cut]] for i in order)


# --- selection ------------------------------------------------------------------------------------


def select(
    points: Sequence[Point],
    region: Region | Literal["random", "all"] = Region.HIGH_AVERAGE,
    fraction: float | None = None,
    *,
    seed: int = 0,
) -> list[Point]:
    """Return the prompts of a region, or with ``fraction`` the share of the whole map that lies deepest in it.

    Deepest is the highest mean, the lowest mean or the highest variance. ``random`` draws from the whole map (1/3
    by default), as the baseline of equal size. Strata keep their shares. ``UsageError`` for a fraction that the region cannot fill.
    """
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"fraction: got {fraction}; expected a share above 0 and at most 1")
    depth: dict[str, Callable[[Point], float]] = {
        Region.HIGH_AVERAGE: lambda point: -point.mean,
        Region.LOW_AVERAGE: lambda point: point.mean,
        Region.HIGH_VARIANCE: lambda point: -point.variance,
        "random": lambda point: 0.0,
        "all": lambda point: 0.0,
    }
    if fraction is None and region == "random":
        fraction = 1 / 3
    chosen: set[str] = set()
    for members in by_stratum([point.stratum for point in points]).values():
        cohort = [points[i] for i in members]
        inside = [point for point in cohort if region in ("random", "all", point.region)]
        inside.sort(key=lambda point: (depth[region](point), content_hash([seed, point.id])))
        wanted = len(inside) if fraction is None else round(fraction * len(cohort))
        if wanted > len(inside) + 1:  # thirds of a number that three does not divide differ by one
            raise UsageError(
                f"fraction: got {fraction:.3g}, that is {wanted} of {len(cohort)} prompts; the region {region} has "
                f"{len(inside)}: expected at most {len(inside) / len(cohort):.3g}"
            )
        chosen |= {point.id for point in inside[:wanted]}
    return [point for point in points if point.id in chosen]


def pairs(values: Sequence[float | None], rule: PairRule = "best-worst") -> list[tuple[int, int]]:
    """Return (place of the better, place of the worse) answer of the pairs to train on.

    ``best-worst``: one pair; ``best-rest``: the best against each worse one; ``all``: every two that differ. Of equal
    values the first counts; answers without a value are in no pair.
    """
    known = [(value, i) for i, value in enumerate(values) if value is not None]
    ranked = [i for _, i in sorted(known, key=lambda item: (-item[0], item[1]))]
    found = [(i, j) for i, j in combinations(ranked, 2) if values[i] != values[j]]
    if rule == "all" or not found:
        return found
    best = [(i, j) for i, j in found if i == ranked[0]]
    if rule == "best-rest":
        return best
    lowest = min(value for value, _ in known)
    return [next((i, j) for i, j in best if values[j] == lowest)]


# --- diagnosis ------------------------------------------------------------------------------------


def diagnose(points: Sequence[Point], tolerance: float = 0.0) -> list[Diagnosis]:
    """Return the prompts with differing labels, the most suspect first; ``tolerance`` is in units of the score.

    Order: Pearson from -1 upwards (of two answers it is the sign alone), then the margin from the largest down.
    """
    found = [diagnosis for point in points if (diagnosis := _diagnosis(point, tolerance))]
    return sorted(found, key=lambda d: (_digits(d.pearson), -d.margin, d.id))


def _digits(pearson: float | None) -> float:
    return 0.0 if pearson is None else round(pearson, DIGITS)


def _diagnosis(point: Point, tolerance: float) -> Diagnosis | None:
    known = [i for i, label in enumerate(point.labels or ()) if label is not None]
    labels = {i: label for i in known if (label := (point.labels or ())[i]) is not None}
    ordered = [
        (i, j) if labels[i] > labels[j] else (j, i)
        for i, j in combinations(known, 2)
        if labels[i] != labels[j]
    ]
    if not ordered:
        return None
    margins = {(i, j): point.scores[j] - point.scores[i] for i, j in ordered}
    better, worse = max(margins, key=lambda pair: margins[pair])
    y, s = np.array([labels[i] for i in known]), np.array([point.scores[i] for i in known])
    pearson, margin = correlation(y - y.mean(), s - s.mean()), margins[better, worse]
    return Diagnosis(
        id=point.id,
        cosine=correlation(y, s),
        pearson=pearson,
        kendall=_kendall(y, s),
        pairs=len(ordered),
        inverted=sum(gap > tolerance for gap in margins.values()),
        margin=margin,
        better=better,
        worse=worse,
        suspect=pearson is not None and pearson < 0 and margin > tolerance,
    )


def correlation(one: Floats, two: Floats) -> float | None:
    """Cosine of two vectors; None if one of them is zero."""
    lengths = math.sqrt(float(one @ one)) * math.sqrt(float(two @ two))
    return max(-1.0, min(1.0, float(one @ two) / lengths)) if lengths > 0 else None


def _kendall(y: Floats, s: Floats) -> float | None:
    """Kendall's tau-b; None where the scores are all ties (labels never are)."""
    return float(stats.kendalltau(y, s).statistic) if np.ptp(s) > 0 else None
