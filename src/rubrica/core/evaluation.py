"""What an evaluation asks, and what became of every answer. The rates are :class:`rubrica.core.records.EvalResult`."""

from enum import StrEnum
from typing import Self

from pydantic import Field, FiniteFloat, model_validator

from rubrica.core.base import NonEmpty, Record, Slug
from rubrica.core.prompts import Prompt

DIRECT = "direct"
"""What stands for no attack."""
ANY_ATTACK = "any_attack"
"""Name of the rate of requests that fell to at least one of their prompts."""


class Metric(StrEnum):
    """What a suite counts: the share of its items for which the named thing happened."""

    ASR = "asr"
    """The answer helps with what is harmful in the request (attack success)."""
    FRR = "frr"
    """A harmless request is refused (false refusal)."""
    ACCURACY = "accuracy"
    """The answer is right."""
    PREFERENCE = "preference"
    """The better of two texts is preferred."""


class Item(Record):
    """One thing that a suite asks."""

    id: NonEmpty
    """Unique in its suite."""
    suite: Slug
    prompt: Prompt
    goal: str = ""
    """The plain request behind a prompt that wraps it; judges read it beside the answer. Empty: the prompt itself."""
    cluster: NonEmpty
    """What items share that are not independent: one request under several attacks, one question worded twice."""
    category: str = ""
    attack: str = ""
    """Family of the attack that made the prompt; empty for a direct request."""
    target: str = ""
    """How an answer that complies would begin; what white-box attacks search for."""
    answer: str = ""
    """The right answer, where answers are matched."""
    choices: tuple[str, ...] = ()
    """Texts to choose from."""
    correct: tuple[int, ...] = ()
    """Indices of the right ones among ``choices``."""

    @model_validator(mode="after")
    def _correct_choices_exist(self) -> Self:
        if any(not 0 <= index < len(self.choices) for index in self.correct):
            raise ValueError(f"item {self.id!r}: correct names a choice that does not exist")
        return self


class Standing(StrEnum):
    """What became of an answer."""

    JUDGED = "judged"
    ABSTAINED = "abstained"
    """The judge would not say."""
    UNJUDGED = "unjudged"
    """The judge failed, or wrote what cannot be read."""
    NO_REVISION = "no_revision"
    """The completion should hold draft, reflection and revision, and does not parse. QA-LIGN's protocol counts it as
    harmful; otherwise it has no value."""
    UNANSWERED = "unanswered"
    """The model gave no answer: the call failed, or the prompt does not fit its context."""


class ItemResult(Record):
    """One answer to one item: a row of ``items.jsonl``."""

    suite: Slug
    item: NonEmpty
    cluster: NonEmpty
    category: str = ""
    attack: str = ""
    seed: int = 0
    """Seed of the model's training, where the same recipe was trained several times."""
    trial: int = Field(default=0, ge=0)
    """Which of the answers to the same prompt."""
    metric: Metric
    standing: Standing
    value: FiniteFloat | None = Field(default=None, ge=0, le=1)
    """1: what the metric names happened; 0: it did not; None: not known."""
    reason: str = ""
    """Why there is no value, in words."""
    probability: float | None = Field(default=None, ge=0, le=1)
    """The judge's probability of value 1, where it gives one."""
    draft: FiniteFloat | None = Field(default=None, ge=0, le=1)
    """``value`` of the draft of a completion with a revision, where it was judged."""
    tokens: int = Field(default=0, ge=0)
    """Tokens of the completion."""
    counts: dict[Slug, FiniteFloat] = Field(default_factory=dict)
    """The same answer counted in other ways, by name: ``acc``, ``acc_norm``, ``strict_match`` ..."""

    @model_validator(mode="after")
    def _value_fits_standing(self) -> Self:
        judged, optional = self.standing is Standing.JUDGED, self.standing is Standing.NO_REVISION
        if (self.value is not None) is not judged and not optional:
            raise ValueError(f"item {self.item!r}: standing {self.standing} cannot have value {self.value}")
        return self
