"""SPA's scores: principles of a program as objectives, answered by a judge, on the paper's scale from 1 to 10.

The judge may be the policy itself, as in the paper: it answers graded questions, and the score is the expected grade
under the probabilities of its answers.
"""

from collections.abc import Callable, Sequence

from rubrica.core.errors import UsageError, nearest
from rubrica.core.programs import Principle, Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Scorecard
from rubrica.judges.executor import Executor
from rubrica.methods.spa import Objective, Scores
from rubrica.program.program import constitution_of

LOWEST, HIGHEST = 1.0, 10.0
"""The paper's scale."""
Scorer = Callable[[Sequence[tuple[Prompt, str]]], list[Scores | None]]
"""Gets (prompt, answer) pairs; returns scores in [1, 10], the first objective first, None where an answer has none."""


def objectives_program(program: Program, objectives: Sequence[str], source: str = "spa") -> Program:
    """Return the part of ``program`` that scores the objectives, which are ids of principles, in their order.

    Graded questions count by the expected grade. ``UsageError`` for an id that is no principle.
    """
    known = {principle.id: principle for principle in program.principles}
    chosen: list[Principle] = []
    for name in objectives:
        if name not in known:
            raise UsageError(
                f"{source}: objectives: program {program.name!r} has no principle {name!r}{nearest(name, known)}; "
                f"expected some of {', '.join(known)}"
            )
        chosen.append(known[name])
    pooling = program.pooling.model_copy(update={"expected_grade": True})
    return program.model_copy(update={"principles": tuple(chosen), "pooling": pooling})


def objectives_in_words(program: Program) -> list[Objective]:
    """Return title and meaning of every principle: its clauses, or without the constitution its questions."""
    constitution = constitution_of(program)
    written = (
        {p.id: [clause.text for clause in p.clauses] for p in constitution.principles} if constitution else {}
    )
    return [
        Objective(
            principle.title,
            written.get(principle.id)
            or [question.text for dimension in principle.dimensions for question in dimension.questions],
        )
        for principle in program.principles
    ]


def on_scale(value: float) -> float:
    """Return a principle's value in [-1, 1] on the scale from 1 to 10."""
    return LOWEST + (HIGHEST - LOWEST) * (value + 1) / 2


def scores_of(card: Scorecard) -> Scores | None:
    """Return the scores in a scorecard of an :func:`objectives_program`; None where an objective has no value."""
    values = [principle.value for principle in card.principles]
    known = [on_scale(value) for value in values if value is not None]
    return tuple(known) if len(known) == len(values) else None


def rubric_scorer(executor: Executor, *, own_questions: bool = True) -> Scorer:
    """Return a scorer that asks every question of an :func:`objectives_program`; what was answered is in the store.

    ``own_questions``: ask those that prompts bring along as well, for which the program must have a place.
    """

    def score(items: Sequence[tuple[Prompt, str]]) -> list[Scores | None]:
        if not own_questions:
            items = [(prompt.model_copy(update={"questions": ()}), text) for prompt, text in items]
        return [scores_of(card) for card in executor.score(items, full=True)]

    return score
