"""The questions that a prompt brings along, at their place in a program (instance rubrics).

Source of the idea: HealthBench (Arora et al., 2025, arXiv 2505.08775), where every conversation has its own
weighted criteria.
"""

from collections.abc import Sequence

from rubrica.core.errors import UsageError, nearest
from rubrica.core.programs import Dimension, Program, Question, QuestionKind
from rubrica.core.prompts import Prompt, PromptQuestion

PREFIX = "instance."
"""Begins the id of every question that a prompt brought along."""


def program_for(program: Program, prompt: Prompt) -> Program:
    """Return ``program`` with the prompt's own questions in their dimensions; itself if the prompt has none.

    ``UsageError`` if a question names a dimension that is not there, or that cannot take it; or if it names none
    and the program has no dimension with ``instance: true``; or if a weighted dimension gets faults only, which have
    no points to take from.
    """
    if not prompt.questions:
        return program
    below: dict[str, list[PromptQuestion]] = {}
    places = {d.id: d for p in program.principles for d in p.dimensions}
    default = next((d.id for d in places.values() if d.instance), None)
    for question in prompt.questions:
        place = question.dimension or default
        where = _where(prompt, question)
        if place is None:
            raise UsageError(
                f"{where}: program {program.name!r} has no dimension for the questions of prompts; write "
                "instance: true on one, with pool: weighted"
            )
        if place not in places:
            raise UsageError(
                f"{where}: program {program.name!r} has no dimension {place!r}{nearest(place, places)}"
            )
        _check(question, places[place], program, where)
        below.setdefault(place, []).append(question)
    for id, own in below.items():
        _check_merits(prompt, places[id], own)
    principles = tuple(
        p.model_copy(
            update={
                "dimensions": tuple(
                    d.model_copy(update={"questions": (*d.questions, *_questions(below[d.id]))})
                    if d.id in below
                    else d
                    for d in p.dimensions
                )
            }
        )
        for p in program.principles
    )
    return program.model_copy(update={"principles": principles})


def _where(prompt: Prompt, question: PromptQuestion) -> str:
    """Prompt and question: of a file in their words, else by ids, so that no server repeats what it was sent."""
    if not prompt.source:
        return f"prompt {prompt.id!r}, question {question.id!r}"
    asked = prompt.messages[-1].content[:40]
    return f"{prompt.source}: prompt {asked!r}, question {question.text[:60]!r}"


def _check(question: PromptQuestion, dimension: Dimension, program: Program, where: str) -> None:
    op = dimension.pool or program.pooling.grades
    if op == "lexicographic":
        raise UsageError(
            f"{where}: dimension {dimension.id!r} pools in an order of its own; put the question elsewhere"
        )
    if question.weight is not None and op != "weighted":
        raise UsageError(
            f"{where}: has weight {question.weight:g}, but dimension {dimension.id!r} pools with {op}; write "
            "pool: weighted there"
        )


def _check_merits(prompt: Prompt, dimension: Dimension, own: Sequence[PromptQuestion]) -> None:
    counted = [
        question
        for question in [*dimension.questions, *_questions(own)]
        if question.kind is not QuestionKind.GATE or question.weight is not None
    ]
    if counted and all(question.weight is not None and question.weight < 0 for question in counted):
        raise UsageError(
            f"{_where(prompt, own[0])}: dimension {dimension.id!r} gets faults only (all points are negative), which "
            "have no points to take from; add a criterion with points above 0, or ask whether the answer is free of "
            "the fault"
        )


def _questions(found: Sequence[PromptQuestion]) -> list[Question]:
    return [
        Question(id=PREFIX + q.id, kind=q.kind, text=q.text, clause="instance", weight=q.weight)
        for q in found
    ]
