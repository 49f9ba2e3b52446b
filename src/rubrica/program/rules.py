"""What a program's way of pooling must not say: weights that count for nothing, levels without an order."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from rubrica.core.instance import PREFIX as INSTANCE
from rubrica.core.programs import Op, Part, Program, Question
from rubrica.program.labels import is_constraint
from rubrica.program.relevance import PREFIX as WHEN
from rubrica.program.relevance import relevance_question, shared_asks
from rubrica.program.wording import askings

Loc = list[int | str]
MAX_ORDERED = 8
"""Most children of a lexicographic pool: its bounds try every combination of those that may have no value."""
MAX_SHARED = 6
"""Most questions about a prompt on which several parts depend: bounds go through all of their answers."""


Refusal = Literal[
    "caps",
    "repeated-id",
    "duplicate",
    "compound",
    "unknown-clause",
    "weight",
    "level",
    "all-negative",
    "instance",
    "when",
]
"""Rules for which a program is refused."""


class Problem(NamedTuple):
    """Why a program cannot be judged as meant, and where in the file."""

    rule: Refusal
    where: str
    """Id of the principle, dimension or question."""
    loc: Loc
    message: str


def misuses(program: Program) -> Iterator[Problem]:
    """Everything in the pooling of ``program`` for which it is refused."""
    yield from _total(program)
    yield from _children("the program", program.pool, program.principles, ["principles"])
    for p, principle in enumerate(program.principles):
        loc: Loc = ["principles", p]
        name = f"principle {principle.id!r}"
        yield from _children(name, principle.pool, principle.dimensions, [*loc, "dimensions"])
        for d, dimension in enumerate(principle.dimensions):
            below: Loc = [*loc, "dimensions", d]
            op = dimension.pool or program.pooling.grades
            name = f"dimension {dimension.id!r}"
            yield from _children(name, op, dimension.questions, [*below, "questions"])
            if op == "weighted" and not dimension.instance:
                yield from _merits(name, dimension.questions, dimension.id, below)
            if op == "lexicographic" and dimension.instance:
                message = f"{name} takes the questions of prompts, which have no order; write pool: weighted"
                yield Problem("level", dimension.id, [*below, "pool"], message)
            yield from _reserved_ids(dimension.questions, [*below, "questions"])
    yield from _conditions(program)


def _total(program: Program) -> Iterator[Problem]:
    capping = [(p, principle) for p, principle in enumerate(program.principles) if principle.caps]
    for p, principle in capping[1:]:
        message = f"principles {capping[0][1].id!r} and {principle.id!r} both have caps: true; at most one may bound "
        message += "the total"
        yield Problem("caps", principle.id, ["principles", p, "caps"], message)
    if capping and program.pool not in ("mean", "weighted"):
        p, principle = capping[0]
        message = f"principle {principle.id!r} has caps: true, which bounds a mean; the program pools with {program.pool}"
        message += ", so remove caps, or write pool: mean or weighted"
        yield Problem("caps", principle.id, ["principles", p, "caps"], message)
    taking: list[tuple[Loc, str]] = [
        (["principles", p, "dimensions", d, "instance"], dimension.id)
        for p, principle in enumerate(program.principles)
        for d, dimension in enumerate(principle.dimensions)
        if dimension.instance
    ]
    for place, id in taking[1:]:
        message = f"dimensions {taking[0][1]!r} and {id!r} both have instance: true; at most one may"
        yield Problem("instance", id, place, message)


def _children(above: str, op: Op, children: Sequence[Part | Question], loc: Loc) -> Iterator[Problem]:
    """Weights and levels of ``children``, which ``above`` pools with ``op``."""
    ordered = [c for c in children if not (isinstance(c, Question) and is_constraint(c))]
    for index, child in enumerate(children):
        if child.weight is not None and op != "weighted":
            message = f"{child.id!r} has weight {child.weight:g}, but {above} pools with {op}; "
            message += "remove it, or write pool: weighted above it"
            yield Problem("weight", child.id, [*loc, index, "weight"], message)
        if child.level is not None and op != "lexicographic":
            message = f"{child.id!r} has level {child.level:g}, but {above} pools with {op}; "
            message += "remove it, or write pool: lexicographic above it"
            yield Problem("level", child.id, [*loc, index, "level"], message)
        if op == "lexicographic" and child.level is None and child in ordered[:-1]:
            message = f"{child.id!r} has no level, but {above} pools with lexicographic; write the value from which "
            message += "what comes after it counts, for example level: 0.5"
            yield Problem("level", child.id, [*loc, index], message)
    if op == "lexicographic" and len(ordered) > MAX_ORDERED:
        message = f"{above} orders {len(ordered)} parts; lexicographic takes at most {MAX_ORDERED}"
        yield Problem("level", ordered[MAX_ORDERED].id, [*loc, children.index(ordered[MAX_ORDERED])], message)


def _merits(name: str, asked: Sequence[Question], id: str, loc: Loc) -> Iterator[Problem]:
    counted = [question for question in asked if not is_constraint(question)]
    if counted and all((question.weight or 1) < 0 for question in counted):
        message = f"{name} has faults only (every weight is negative), so there is nothing to take them from; add a "
        message += "question with a weight above 0, or make the faults gates that ask whether the answer is free of them"
        yield Problem("all-negative", id, [*loc, "questions"], message)


def _reserved_ids(asked: Sequence[Question], loc: Loc) -> Iterator[Problem]:
    for index, question in enumerate(asked):
        if question.id.startswith((INSTANCE, WHEN)):
            message = f"question id {question.id!r} begins like the ids of questions that prompts bring along; rename it"
            yield Problem("repeated-id", question.id, [*loc, index, "id"], message)


def _conditions(program: Program) -> Iterator[Problem]:
    located: list[tuple[Loc, Part]] = []
    for p, principle in enumerate(program.principles):
        located.append((["principles", p, "when", "ask"], principle))
        for d, dimension in enumerate(principle.dimensions):
            located.append((["principles", p, "dimensions", d, "when", "ask"], dimension))
    too_many = set(shared_asks(program)[MAX_SHARED:])
    for loc, part in located:
        if part.when is None or part.when.ask is None:
            continue
        if second := askings(part.when.ask):
            message = f"when.ask of {part.id!r} asks more than one thing (compound: {second.strip()[:60]!r}); split it"
            yield Problem("compound", part.id, loc, message)
        if relevance_question(part.when.ask).id in too_many:
            message = (
                f"more than {MAX_SHARED} questions about prompts stand at several dimensions or principles; "
            )
            message += "put dimensions that share one into a principle that asks it"
            yield Problem("when", part.id, loc, message)
            too_many.discard(relevance_question(part.when.ask).id)
