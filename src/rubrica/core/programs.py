"""Constitutions and programs: what people wrote, what is asked, and how the answers make one value."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rubrica.core.base import NonEmpty, Number, Record, Slug


class Clause(Record):
    """One sentence of a constitution that a person wrote."""

    id: Slug
    text: NonEmpty
    source: str = ""
    """Where the sentence comes from: a document, an author, a date."""
    protected: bool = False
    """A protected clause may not be weakened by an automatic revision."""


class ConstitutionPrinciple(Record):
    """A principle as people wrote it: a title and its clauses."""

    id: Slug
    title: NonEmpty
    clauses: tuple[Clause, ...] = Field(min_length=1)


class Constitution(Record):
    """Principles as people wrote them."""

    name: Slug
    version: str = "1"
    principles: tuple[ConstitutionPrinciple, ...] = Field(min_length=1)


class QuestionKind(StrEnum):
    """A gate is answered TRUE, FALSE or NA; a graded question A, B, C, D, F or NA."""

    GATE = "gate"
    GRADED = "graded"


Op = Literal["min", "mean", "weighted", "lexicographic"]
"""How the values of the parts below make one; ``docs/decisions/aggregation.md`` has the equations."""
Weight = Annotated[Number, Field(gt=0)]
Level = Annotated[Number, Field(gt=-1, le=1)]


class Question(Record):
    """One question. TRUE and A are the ideal answers, unless ``weight`` is negative: then they name a fault."""

    id: Slug
    kind: QuestionKind
    text: NonEmpty
    clause: Slug
    """Id of the clause of the constitution that the question serves."""
    protected: bool = False
    """Only for gates: offers no NA, and vetoes under the ``rubrica`` preset."""
    weight: Number | None = None
    """Only below ``pool: weighted``. Default 1. A gate with a weight is counted and no longer fails its dimension;
    below 0, a fault: its presence costs, its absence does not pay."""
    level: Level | None = None
    """Only for graded questions below ``pool: lexicographic``: the value from which the question is satisfied."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.protected and self.kind is not QuestionKind.GATE:
            raise ValueError(f"question {self.id!r} is graded; only a gate can be protected")
        if self.protected and self.weight is not None:
            raise ValueError(
                f"question {self.id!r} is protected, so it fails its dimension; remove weight, or protected"
            )
        if self.weight == 0:
            raise ValueError(f"question {self.id!r} has weight 0, so it never counts; remove it")
        if self.level is not None and self.kind is QuestionKind.GATE:
            raise ValueError(f"question {self.id!r} is a gate, which passes or fails; remove level")
        return self


class When(Record):
    """On which prompts a dimension or principle applies; elsewhere it has no value. Both conditions must hold."""

    tags: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Tag of the prompt -> its allowed values; a prompt without the tag has the value ``""``. Needs no call."""
    ask: NonEmpty | None = None
    """A yes/no question about the prompt alone, which the judge answers once for each prompt."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.tags and self.ask is None:
            raise ValueError('expected tags, for example {kind: [harmful]}, or ask: "Does the prompt ...?"')
        if empty := [name for name, values in self.tags.items() if not values]:
            raise ValueError(f"tag {empty[0]!r} allows no value, so this never applies; list some")
        return self


class Part(Record):
    """What dimensions and principles have in common: how they count in the node above."""

    id: Slug
    title: NonEmpty
    weight: Weight | None = None
    """Only below ``pool: weighted``; default 1."""
    level: Level | None = None
    """Only below ``pool: lexicographic``: the value from which this part is satisfied."""
    gate: bool = False
    """Where this part is worth -1, so is the node above."""
    when: When | None = None
    """On which prompts this part applies; default all."""


class Dimension(Part):
    """Questions that are pooled together: if a gate fails -1, else the pool of the others."""

    pool: Op | None = None
    """Default: ``pooling.grades`` of the program."""
    instance: bool = False
    """Takes the questions that prompts bring along, unless they name another dimension."""
    questions: tuple[Question, ...] = ()

    @model_validator(mode="after")
    def _has_questions(self) -> Self:
        if not self.questions and not self.instance:
            raise ValueError(f"dimension {self.id!r} has no questions; add some, or write instance: true")
        return self


class Principle(Part):
    """Dimensions that are pooled together. ``caps`` marks the principle that bounds the total."""

    dimensions: tuple[Dimension, ...] = Field(min_length=1)
    pool: Op = "mean"
    caps: bool = False
    """The total never exceeds this principle's value (harmlessness in QA-LIGN)."""


class Pooling(Record):
    """How answers become values; the defaults are QA-LIGN's with every NA rule written out."""

    grades: Literal["min", "mean"] = "min"
    """Pool of the grades of a dimension that names none itself (QA-LIGN: min)."""
    gate_na: Literal["pass", "fail"] = "pass"
    """What NA on an unprotected gate means."""
    graded_na: Literal["drop", "fail"] = "drop"
    """NA grades leave the pool, or count as F."""
    empty_dimension: Literal["drop", "one"] = "drop"
    """A dimension whose gates hold and whose grades are all NA leaves the mean, or counts as 1."""
    expected_grade: bool = False
    """Use the expected grade under the judge's answer probabilities where it gives them."""


class Program(Record):
    """Principle -> dimension -> question, and how the answers are pooled."""

    name: Slug
    version: str = "1"
    constitution: Slug
    principles: tuple[Principle, ...] = Field(min_length=1)
    pool: Op = "mean"
    """How the principles make the total, which a principle with ``caps`` then bounds."""
    pooling: Pooling = Pooling()
