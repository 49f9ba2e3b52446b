"""Prompts, and the questions that a prompt brings along."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from rubrica.core.base import NonEmpty, Number, Record, Slug
from rubrica.core.programs import QuestionKind


class Message(Record):
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptQuestion(Record):
    """A question that one prompt brings along (instance rubric): it is asked about answers to that prompt only."""

    text: Annotated[NonEmpty, Field(max_length=2000)]
    id: Slug = Field(default_factory=lambda given: _hashed_id(given.get("text", "")))
    """Default: a hash of the text."""
    kind: QuestionKind = QuestionKind.GATE
    weight: Number | None = None
    """As in :class:`Question`: a gate without a weight fails its dimension; below 0, a fault."""
    dimension: Slug | None = None
    """Id of a dimension of the program; default: the one with ``instance: true``."""

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.weight == 0:
            raise ValueError(f"question {self.id!r} has weight 0, so it never counts; remove it")
        return self

    @field_validator("text")
    @classmethod
    def _one_line(cls, text: str) -> str:
        return " ".join(text.split())  # what looks like a paragraph of the judge's own message cannot be


def distinct_questions(found: Sequence[PromptQuestion]) -> tuple[PromptQuestion, ...]:
    """Return each question once, the first of equal ones; ``ValueError`` where an id stands for two."""
    kept = {(question.kind, question.text, question.dimension): question for question in reversed(found)}
    questions = tuple(reversed(kept.values()))
    ids = [question.id for question in questions]
    if repeated := [id for id in ids if ids.count(id) > 1]:
        raise ValueError(f"id {repeated[0]!r} stands for two questions; give each its own")
    return questions


PromptQuestions = Annotated[
    tuple[PromptQuestion, ...], Field(max_length=200), AfterValidator(distinct_questions)
]
"""Their answers are told apart by the ids. A question that is given twice counts once."""


def _hashed_id(text: str) -> str:
    return "q" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


class Prompt(Record):
    """What the model is asked: one or more chat turns that end with the user's."""

    id: NonEmpty
    messages: tuple[Message, ...] = Field(min_length=1)
    source: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    """Free labels, for example ``{"kind": "harmful", "family": "persona"}``."""
    questions: PromptQuestions = ()
    """What a good answer to this very prompt is asked, beside the program's questions."""
