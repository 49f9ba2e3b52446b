"""Rewards from a scalar reward model in place of a rubric: QA-LIGN's baseline (arXiv 2506.08123, section 4.2).

    s  = (score - c) / d                 c, d  centre and spread of the scores of the first step
    R  = R(s1, s2)                       texts: both      the attempt formula of rubrica.program.reward
    R  = s2                              texts: revision  the draft is not scored
    floor = min R over [lo, hi]^2 - margin,   lo = min(-1, lowest s of the group), hi = max(1, highest)

The paper does not say whether its reward model scored draft and revision or the answer as a whole, nor what a
malformed completion earned; hence the option and the floor. The formula commutes with every map s -> a s + b with
a > 0: R(a s1 + b, a s2 + b) = a R(s1, s2) + 2b, and an advantage (R - mean) / std of a group does not change under
it. So c and d decide nothing between well-formed completions, however far the scores drift; they only say how far
below them the floor lies: at the rubric's own where all scores of a group are within one spread, else lower.
Nothing is clipped.
"""

import math
from collections.abc import Sequence
from typing import Literal

from rubrica.core.base import Record
from rubrica.core.errors import TrainingError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Attempt
from rubrica.program.reward import RewardConfig, Scored

Texts = Literal["both", "revision"]
"""Which texts of an attempt are scored."""
Score = float | None
"""Of the model, as it came; None where there is none."""


class Scale(Record):
    """Centre and spread of a reward model's scores, in its own units."""

    center: float
    spread: float

    def normal(self, score: Score) -> Score:
        """Return the score in spreads from the centre."""
        return None if score is None else (score - self.center) / self.spread


def scored_texts(
    prompts: Sequence[Prompt], attempts: Sequence[Attempt], texts: Texts
) -> list[tuple[Prompt, str]]:
    """Return what the model is to score: of every well-formed attempt the draft, where it counts, and the revision."""
    return [
        (prompt, text)
        for prompt, attempt in zip(prompts, attempts, strict=True)
        if attempt.malformed is None
        for text in ((attempt.draft, attempt.revision) if texts == "both" else (attempt.revision,))
    ]


def fit_scale(scores: Sequence[Score]) -> Scale | None:
    """Return mean and population standard deviation of the scores that exist, or None where no two differ."""
    known = [score for score in scores if score is not None]
    if len(set(known)) < 2:
        return None
    mean = math.fsum(known) / len(known)
    return Scale(center=mean, spread=math.sqrt(math.fsum((s - mean) ** 2 for s in known) / len(known)))


def scalar_rewards(
    groups: Sequence[str],
    attempts: Sequence[Attempt],
    scores: Sequence[Score],
    config: RewardConfig,
    scale: Scale,
    texts: Texts,
) -> list[Scored]:
    """Return what each attempt earned; ``scores`` are those of :func:`scored_texts`, in its order.

    ``groups`` tell which attempts are compared with each other. A malformed attempt earns the floor of its group.
    Without one of its scores an attempt earns None, no signal.
    """
    remaining = iter(scores)
    values: list[tuple[Score, Score]] = []
    for attempt in attempts:
        try:
            wanted = attempt.malformed is None
            r1 = next(remaining) if wanted and texts == "both" else None
            r2 = next(remaining) if wanted else None
        except StopIteration:
            raise TrainingError("reward: fewer scores than texts; expected one for each") from None
        values.append((scale.normal(r1), scale.normal(r2)))
    seen: dict[str, list[float]] = {group: [] for group in groups}
    for group, pair in zip(groups, values, strict=True):
        seen[group] += [value for value in pair if value is not None]
    floors = {group: _floor(known, config, texts) for group, known in seen.items()}
    return [
        Scored(None, None, floors[group])
        if attempt.malformed is not None
        else Scored(r1, r2, _reward(r1, r2, config, texts))
        for group, attempt, (r1, r2) in zip(groups, attempts, values, strict=True)
    ]


def _reward(r1: Score, r2: Score, config: RewardConfig, texts: Texts) -> float | None:
    if texts == "revision" or r2 is None:
        return r2
    return None if r1 is None else config.combine(r1, r2)


def _floor(known: Sequence[float], config: RewardConfig, texts: Texts) -> float:
    """Below every reward that a group's normalised scores can make."""
    low, high = min([-1.0, *known]), max([1.0, *known])
    lowest = config.minimum_over(low, high) if texts == "both" else low
    return lowest - config.malformed_margin
