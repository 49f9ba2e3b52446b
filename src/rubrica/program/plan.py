"""A program made ready for pooling: at each node the function that makes one value of the values below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rubrica.core.programs import Op, Part, Program, Question
from rubrica.core.records import Label
from rubrica.program.bounds import (
    Bounds,
    Number,
    capped_bounds,
    gated_bounds,
    lexicographic_bounds,
    mean_bounds,
    min_bounds,
    weighted_bounds,
)
from rubrica.program.labels import allowed_labels, is_constraint
from rubrica.program.program import program_hash
from rubrica.program.relevance import relevance_questions, shared_asks, tag_names

Pool = Callable[[Sequence[Bounds]], Bounds]


def _exact(number: float) -> Fraction:
    """The number as it was written: 0.1 is a tenth, and a grade C reaches the level 0.1."""
    return Fraction(repr(number))


def weight_of(child: Question | Part) -> Number:
    return 1 if child.weight is None else _exact(child.weight)


def _pool_of(op: Op, children: Sequence[Question | Part]) -> Pool:
    """Return what makes one value of the values of ``children``."""
    if op == "min":
        return min_bounds
    if op == "mean":
        return mean_bounds
    if op == "weighted":
        weights = [weight_of(child) for child in children]
        return lambda members: weighted_bounds(list(zip(weights, members, strict=True)))
    levels = [None if child.level is None else _exact(child.level) for child in children]
    return lambda members: lexicographic_bounds(list(zip(levels, members, strict=True)))


def _parts_pool(op: Op, parts: Sequence[Part]) -> Pool:
    """The same for dimensions and principles, some of which may be gates."""
    pool_ = _pool_of(op, parts)
    gates = [part.gate for part in parts]
    return (lambda members: gated_bounds(members, gates, pool_)) if any(gates) else pool_


def _total_pool(program: Program) -> Pool:
    caps = [principle.caps for principle in program.principles]
    if not any(caps):
        return _parts_pool(program.pool, program.principles)
    weighted = program.pool == "weighted"
    weights = [weight_of(principle) if weighted else 1 for principle in program.principles]
    gates = [principle.gate for principle in program.principles]

    def capped(members: Sequence[Bounds]) -> Bounds:
        return capped_bounds(list(zip(caps, weights, members, strict=True)))

    return (lambda members: gated_bounds(members, gates, capped)) if any(gates) else capped


@dataclass(frozen=True, slots=True)
class Node:
    """One dimension or principle with its pool."""

    part: Part
    pool: Pool


@dataclass(frozen=True, slots=True)
class DimensionNode(Node):
    """A dimension: questions that fail it, and questions that its pool counts."""

    questions: tuple[Question, ...]
    offers: tuple[tuple[str, tuple[Label, ...]], ...]
    """Id and allowed labels of each question."""
    constraints: tuple[bool, ...]
    """Which of the questions fail the dimension; the others are counted by the pool."""
    known: dict[tuple[Label | None, ...], Bounds]
    """Bounds by labels, as far as they were worked out: few combinations of answers come again and again."""


@dataclass(frozen=True, slots=True)
class PrincipleNode(Node):
    """A principle and its dimensions."""

    dimensions: tuple[DimensionNode, ...]
    op: Op


@dataclass(frozen=True, slots=True)
class Plan:
    """What is worked out once for a program and used for every text."""

    program: Program
    hash: str
    principles: tuple[PrincipleNode, ...]
    total: Pool
    protected: tuple[tuple[Question, tuple[Part, ...]], ...]
    """Protected gates with the parts above them."""
    asks: tuple[str, ...]
    """Ids of the questions about prompts."""
    shared: tuple[str, ...]
    """Those of them on which several parts depend."""
    tags: tuple[str, ...]
    """Names of the prompt's tags that decide what applies."""


def plan_of(program: Program) -> Plan:
    """Return the plan of this very object; made once for as long as the object is in use."""
    found = _PLANS.get(id(program))
    if found is not None and found.program is program:
        return found
    for oldest in list(_PLANS)[
        : len(_PLANS) + 1 - _MAX_PLANS
    ]:  # a list, for other threads add to it meanwhile
        _PLANS.pop(oldest, None)
    made = _PLANS[id(program)] = _make(program)
    return made


_PLANS: dict[int, Plan] = {}
_MAX_PLANS = 64


def _make(program: Program) -> Plan:
    principles = []
    for principle in program.principles:
        nodes = []
        for dimension in principle.dimensions:
            counted = tuple(q for q in dimension.questions if not is_constraint(q))
            pool_ = _pool_of(dimension.pool or program.pooling.grades, counted)
            offers = tuple((q.id, allowed_labels(q)) for q in dimension.questions)
            constraints = tuple(map(is_constraint, dimension.questions))
            nodes.append(DimensionNode(dimension, pool_, dimension.questions, offers, constraints, {}))
        pool_ = _parts_pool(principle.pool, principle.dimensions)
        principles.append(PrincipleNode(principle, pool_, tuple(nodes), principle.pool))
    return Plan(
        program=program,
        hash=program_hash(program),
        principles=tuple(principles),
        total=_total_pool(program),
        protected=tuple(
            (q, (p, d)) for p in program.principles for d in p.dimensions for q in d.questions if q.protected
        ),
        asks=tuple(question.id for question in relevance_questions(program)),
        shared=tuple(shared_asks(program)),
        tags=tag_names(program),
    )
