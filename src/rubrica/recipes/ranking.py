"""How the order of things changes when their values do: flips, rank correlation, advantages, preferences.

Kendall's tau-b (Kendall 1945) corrects for ties; it does not exist for a group in which either side is all ties.
Advantages are GRPO's: ``(r - mean) / (std + 1e-4)`` within a group, sample standard deviation.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import stats

from rubrica.core.base import Record
from rubrica.core.records import Estimate
from rubrica.core.stats import cluster_interval, mean_interval, wilson

EPSILON = 1e-4
"""Added to the standard deviation of a group, as in training."""
DIGITS = 12
"""Digits that count of a reward: in the last ones equal rewards differ by rounding."""


class Item(NamedTuple):
    """One thing with its value under two rules; None where it has none."""

    id: str
    group: str
    """Items of one group compete."""
    prompt: str
    """Items of one prompt are not independent."""
    before: float | None
    after: float | None


class Pair(NamedTuple):
    """Two items of a group with both values."""

    group: str
    first: str
    second: str
    before: tuple[float, float]
    after: tuple[float, float]

    @property
    def turn(self) -> float:
        """How far the order turned: the product of the two gaps, negative where it flipped."""
        return (self.before[0] - self.before[1]) * (self.after[0] - self.after[1])


class Flip(Record):
    """Two items of one group of which the better one changed."""

    group: str
    better_before: str
    better_after: str
    before: tuple[float, float]
    """Values of ``better_before`` and ``better_after`` under the rule that was used."""
    after: tuple[float, float]
    """The same under the other rule."""


class Ranking(Record):
    """How two rules order the items of each group."""

    groups: int
    """Groups with at least two items that have both values."""
    pairs: int
    flips: int
    """Pairs that are ordered one way before and the other way after."""
    ties_broken: int
    ties_made: int
    reranked: Estimate | None
    """Share of groups with a flip, a broken or a new tie."""
    best_changed: Estimate | None
    """Share of groups in which no item is best under both rules."""
    tau: Estimate | None
    """Mean of Kendall's tau-b over the groups where it exists, clustered by prompt."""
    advantages: int
    """Items of these groups."""
    advantage_correlation: float | None
    """Pearson's r of the advantages."""
    sign_flips: int
    """Advantages that are positive under one rule and negative under the other."""
    examples: tuple[Flip, ...]
    """The widest flip of a group, the widest first."""


class Change(Record):
    """Values of the items that have both."""

    items: int
    changed: int
    mean_before: Estimate
    mean_after: Estimate
    difference: Estimate
    """Mean of the paired differences, clustered by prompt."""
    sd_before: float | None
    sd_after: float | None


class Preferred(Record):
    """How often each rule gives the chosen answer of a pair the higher total, over pairs with all four totals."""

    pairs: int
    before: Estimate
    after: Estimate
    difference: Estimate
    """Mean of the paired differences of 0 and 1 with Student's t interval."""
    won: int
    """Pairs that only the other rule orders as people did."""
    lost: int


def change(items: Sequence[Item]) -> Change | None:
    """Compare the values of the items that have both; None if there are none."""
    known = [
        (item.prompt, item.before, item.after)
        for item in items
        if item.before is not None and item.after is not None
    ]
    if not known:
        return None
    old, new = [b for _, b, _ in known], [a for _, _, a in known]

    def clustered(values: Sequence[float], name: str) -> Estimate:
        if len(set(values)) == 1:  # zeros are no proportion here
            return mean_interval(values, name=name)
        by_prompt: dict[Hashable, list[float]] = {}
        for (prompt, _, _), value in zip(known, values, strict=True):
            by_prompt.setdefault(prompt, []).append(value)
        return cluster_interval(by_prompt, name=name)

    return Change(
        items=len(known),
        changed=sum(not math.isclose(a, b, abs_tol=1e-12) for a, b in zip(old, new, strict=True)),
        mean_before=clustered(old, "mean before"),
        mean_after=clustered(new, "mean after"),
        difference=clustered([a - b for a, b in zip(new, old, strict=True)], "difference"),
        sd_before=float(np.std(old, ddof=1)) if len(old) > 1 else None,
        sd_after=float(np.std(new, ddof=1)) if len(new) > 1 else None,
    )


def rank(items: Sequence[Item], examples: int = 5) -> Ranking:
    """Compare the order within each group under the two rules."""
    groups = _groups(items)
    pairs = [pair for name, members in groups.items() for pair in _pairs(name, members)]
    flipped = sorted((pair for pair in pairs if pair.turn < 0), key=lambda pair: pair.turn)
    widest = {pair.group: pair for pair in reversed(flipped)}
    changed = {pair.group for pair in pairs if _order(pair.before) != _order(pair.after)}
    taus: dict[Hashable, list[float]] = {}
    for members in groups.values():
        old, new = _values(members)
        if len(set(old)) > 1 and len(set(new)) > 1:
            taus.setdefault(members[0].prompt, []).append(float(stats.kendalltau(old, new).statistic))
    both = [
        ends for members in groups.values() for ends in zip(*map(advantages, _values(members)), strict=True)
    ]
    count = len(groups)
    best = sum(not _best(old) & _best(new) for old, new in map(_values, groups.values()))
    return Ranking(
        groups=count,
        pairs=len(pairs),
        flips=len(flipped),
        ties_broken=sum(not _order(p.before) and bool(_order(p.after)) for p in pairs),
        ties_made=sum(bool(_order(p.before)) and not _order(p.after) for p in pairs),
        reranked=wilson(len(changed), count, name="groups ranked otherwise") if count else None,
        best_changed=wilson(best, count, name="groups with another best") if count else None,
        tau=cluster_interval(taus, name="Kendall's tau-b") if taus else None,
        advantages=len(both),
        advantage_correlation=_correlation(both),
        sign_flips=sum(a * b < 0 for a, b in both),
        examples=tuple(map(_flip, sorted(widest.values(), key=lambda pair: pair.turn)[:examples])),
    )


def prefer(items: Sequence[Item]) -> Preferred | None:
    """Compare items that alternate between chosen and rejected; None without a pair that has all four totals."""
    old: list[float] = []
    new: list[float] = []
    for chosen, rejected in zip(items[::2], items[1::2], strict=True):
        if chosen.before is None or chosen.after is None or rejected.before is None or rejected.after is None:
            continue
        old.append(float(chosen.before > rejected.before))
        new.append(float(chosen.after > rejected.after))
    if not old:
        return None
    return Preferred(
        pairs=len(old),
        before=wilson(int(sum(old)), len(old), name="strict accuracy before"),
        after=wilson(int(sum(new)), len(new), name="strict accuracy after"),
        difference=mean_interval(
            [a - b for a, b in zip(new, old, strict=True)], bounds=(-1.0, 1.0), name="difference"
        ),
        won=sum(a > b for a, b in zip(new, old, strict=True)),
        lost=sum(a < b for a, b in zip(new, old, strict=True)),
    )


def advantages(rewards: Sequence[float]) -> list[float]:
    """Standardise the rewards of one group as GRPO does; zeros for a group that is all ties."""
    mean = math.fsum(rewards) / len(rewards)
    spread = float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0
    # what is left of equal rewards by rounding would have a sign
    return [round(reward - mean, DIGITS) / (spread + EPSILON) for reward in rewards]


def _groups(items: Sequence[Item]) -> Mapping[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        if item.before is not None and item.after is not None:
            found.setdefault(item.group, []).append(item)
    return {name: members for name, members in found.items() if len(members) > 1}


def _values(members: Sequence[Item]) -> tuple[list[float], list[float]]:
    """Values before and after, without the last digits, in which equal rewards differ by rounding."""
    known = [(item.before, item.after) for item in members]
    before = [round(b, DIGITS) for b, _ in known if b is not None]
    return before, [round(a, DIGITS) for _, a in known if a is not None]


def _pairs(name: str, members: Sequence[Item]) -> list[Pair]:
    old, new = _values(members)
    return [
        Pair(name, members[i].id, members[j].id, (old[i], old[j]), (new[i], new[j]))
        for i, j in combinations(range(len(members)), 2)
    ]


def _order(values: tuple[float, float]) -> int:
    return (values[0] > values[1]) - (values[0] < values[1])


def _best(values: Sequence[float]) -> set[int]:
    return {index for index, value in enumerate(values) if value == max(values)}


def _correlation(both: Sequence[tuple[float, float]]) -> float | None:
    old, new = [a for a, _ in both], [b for _, b in both]
    if not both or max(old) == min(old) or max(new) == min(new):
        return None
    return float(np.corrcoef(old, new)[0, 1])


def _flip(pair: Pair) -> Flip:
    if _order(pair.before) > 0:
        return Flip(
            group=pair.group,
            better_before=pair.first,
            better_after=pair.second,
            before=pair.before,
            after=pair.after,
        )
    return Flip(
        group=pair.group,
        better_before=pair.second,
        better_after=pair.first,
        before=pair.before[::-1],
        after=pair.after[::-1],
    )
