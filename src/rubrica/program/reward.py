"""From the totals of draft and revision to the reward of one completion.

    R = R1 + R2 + alpha (R2 - R1)   if R2 > R1
    R = R1 + R2 - beta  (R1 - R2)   otherwise

Source: QA-LIGN (arXiv 2506.08123), Algorithm 4, line 16; R1 and R2 are the base values of draft and
revision from :mod:`rubrica.program.pooling`. The paper sets alpha=10 and beta=1 and leaves open what a
malformed completion earns; we give it less than any well-formed one. ``docs/decisions/reward-incentives.md``
shows what the published constants pay for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from rubrica.core.config import Config
from rubrica.core.errors import TrainingError
from rubrica.core.records import Malformed, Scorecard
from rubrica.program.valuation import Veto

PresetName = Literal["rubrica", "qa-lign"]


@dataclass(frozen=True)
class RewardPreset:
    """Constants of the reward under one name."""

    name: PresetName
    alpha: float
    beta: float
    vetoes: bool
    """A protected gate that fails with enough certainty sets a text's total to -1."""
    monotone: bool
    """Refuses alpha or beta of 1 or more, with which a better text can earn less."""


QA_LIGN = RewardPreset("qa-lign", alpha=10.0, beta=1.0, vetoes=False, monotone=False)
"""The published constants: ``R = 11 R2 - 9 R1`` if R2 > R1, else ``2 R2``; no veto.

A worse draft pays more, and one failed harm gate among 14 dimensions still leaves 12/14 = 0.857.
"""

RUBRICA = RewardPreset("rubrica", alpha=0.5, beta=0.5, vetoes=True, monotone=True)
"""Ours: ``R = (1-alpha) R1 + (1+alpha) R2`` if R2 > R1, else ``(1-beta) R1 + (1+beta) R2``.

With 0 <= alpha, beta < 1 all four weights are positive, so each text always earns more by being better.
A failed protected gate sets its text's total to -1.
"""

PRESETS: Mapping[PresetName, RewardPreset] = {p.name: p for p in (RUBRICA, QA_LIGN)}


class Scored(NamedTuple):
    """What one completion earned, and from what."""

    r1: float | None
    """Value of the draft."""
    r2: float | None
    """Value of the revision."""
    reward: float | None
    """None: no signal."""


class RewardConfig(Config):
    """The ``reward`` block of a recipe."""

    preset: PresetName = "rubrica"
    """``rubrica`` (default) or ``qa-lign``, the published constants."""
    alpha: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Weight of an improvement; default the preset's (rubrica 0.5, qa-lign 10)."""
    beta: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Weight of a deterioration; default the preset's (rubrica 0.5, qa-lign 1)."""
    malformed_margin: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """A malformed completion earns the preset's minimum minus this (ours; the paper is silent)."""
    veto_threshold: float = Field(default=0.5, gt=0, le=1, allow_inf_nan=False)
    """Probability of FALSE from which a protected gate vetoes, unless one was fitted for the question."""

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        if PRESETS[self.preset].monotone:
            for name, value in zip(("alpha", "beta"), self.weights, strict=True):
                if value >= 1:
                    raise ValueError(
                        f"{name} is {value:g}; preset 'rubrica' expects 0 <= {name} < 1, so that a better text "
                        "never earns less; choose preset: qa-lign for other values"
                    )
        return self

    @property
    def weights(self) -> tuple[float, float]:
        """(alpha, beta), the preset's where none were given."""
        preset = PRESETS[self.preset]
        return (
            preset.alpha if self.alpha is None else self.alpha,
            preset.beta if self.beta is None else self.beta,
        )

    @property
    def minimum(self) -> float:
        """Lowest reward of a well-formed completion over R1, R2 in [-1, 1]."""
        return self.minimum_over(-1.0, 1.0)

    def minimum_over(self, low: float, high: float) -> float:
        """Return the lowest reward of a well-formed completion over R1, R2 in [low, high].

        R is linear on either side of R1 = R2 and continuous across it, so a corner of the square attains it.
        """
        return min(self.combine(r1, r2) for r1 in (low, high) for r2 in (low, high))

    @property
    def floor(self) -> float:
        """Reward of a malformed completion; below every well-formed one."""
        return self.minimum - self.malformed_margin

    def veto(self, thresholds: Mapping[str, float] | None = None) -> Veto | None:
        """Return the veto rule with fitted ``thresholds`` by question id, or None if the preset has none."""
        if not PRESETS[self.preset].vetoes:
            return None
        return Veto(default=self.veto_threshold, thresholds=dict(thresholds or {}))

    def combine(self, r1: float, r2: float) -> float:
        """Return R for the totals of draft and revision; ``TrainingError`` if one is not finite."""
        if not (math.isfinite(r1) and math.isfinite(r2)):
            raise TrainingError(f"reward: got R1={r1}, R2={r2}; expected finite totals")
        alpha, beta = self.weights
        return r1 + r2 + (alpha * (r2 - r1) if r2 > r1 else -beta * (r1 - r2))

    def reward(
        self, draft: Scorecard | None, revision: Scorecard | None, malformed: Malformed | bool | None = None
    ) -> float | None:
        """Return the reward of one completion, or None (no signal) if one of its totals does not exist."""
        if malformed:
            return self.floor
        if draft is None or revision is None or draft.total is None or revision.total is None:
            return None
        return self.combine(draft.total, revision.total)
