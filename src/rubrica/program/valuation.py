"""The lowest and the highest value of every node of one text's tree, exactly, also while answers are missing.

Source: QA-LIGN (Dineen et al., Findings of EMNLP 2025, arXiv 2506.08123), Algorithm 4, POOL, whose ways are the
defaults at every node:

    dimension   -1 if any gate is FALSE, else min of the grades A=1 B=.5 C=.1 D=-.5 F=-1
    principle   mean over its dimensions
    base        min(every capping principle, mean over the principles)

A node of the program may name another op (:mod:`rubrica.program.bounds` has the equations). The paper leaves open
what NA does; here each case is a field of :class:`~rubrica.core.programs.Pooling` (``docs/decisions/na-policy.md``).
The veto of the ``rubrica`` preset is ours: a protected gate that is FALSE with enough certainty sets the total to -1.

A missing answer is never guessed. Every node carries the lowest and the highest value that some answers to
the missing questions would give it, and whether it could end without a value. Values are rational numbers
inside, so that "cannot change" is decided exactly and the order of questions never matters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from pydantic import Field

from rubrica.core.config import Config
from rubrica.core.instance import program_for
from rubrica.core.programs import Part, Pooling, Program, Question, QuestionKind
from rubrica.core.prompts import Prompt
from rubrica.core.records import Label, Verdict
from rubrica.program.bounds import (
    FAILED,
    HIGHEST,
    LOWEST,
    NOTHING,
    UNKNOWN,
    UNKNOWN_OR_NOTHING,
    Bounds,
    exactly,
)
from rubrica.program.labels import VALUES, label_of
from rubrica.program.plan import DimensionNode, Plan, plan_of
from rubrica.program.relevance import answer, applies, relevance_question

_EXACT = {label: exactly(value) for values in VALUES.values() for label, value in values.items()}


class Veto(Config):
    """When a protected gate that is answered FALSE sets the total to -1."""

    default: float = Field(default=0.5, gt=0)
    """Probability of FALSE from which a gate vetoes; above 1 it never does."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Thresholds of single questions, by id; fitted on labelled texts."""

    def applies(self, verdict: Verdict) -> bool:
        """Tell whether a FALSE verdict is certain enough; one without probabilities counts as P=1."""
        known = verdict.probabilities
        probability = 1.0 if known is None else known.get(Label.FALSE, 0.0)
        return probability >= self.threshold(verdict.question_id)

    def threshold(self, question_id: str) -> float:
        """Return the probability of FALSE from which this question vetoes."""
        return self.thresholds.get(question_id, self.default)


def _leaf(question: Question, label: Label | None, verdict: Verdict | None, pooling: Pooling) -> Bounds:
    """Bounds of one counted question."""
    if label is None or label is Label.NA:
        graded = question.kind is QuestionKind.GRADED
        fails = (pooling.graded_na if graded else pooling.gate_na) == "fail"
        if label is None:
            return UNKNOWN if fails else UNKNOWN_OR_NOTHING
        if not fails:
            return NOTHING
        return exactly(HIGHEST) if question.weight is not None and question.weight < 0 else FAILED
    if pooling.expected_grade and verdict is not None and verdict.probabilities:
        values = VALUES[question.kind]
        shares = {g: Fraction(max(0.0, verdict.probabilities.get(g, 0.0))) for g in values}
        mass = sum(shares.values(), Fraction(0))
        if mass > 0:  # without mass on any grade the label is all that is known
            return exactly(sum((values[g] * share for g, share in shares.items()), Fraction(0)) / mass)
    return _EXACT[label]


_MAX_KNOWN = 4096
"""Most combinations of labels that a dimension keeps bounds for."""


def _dimension_bounds(node: DimensionNode, verdicts: Mapping[str, Verdict], pooling: Pooling) -> Bounds:
    """Bounds of one dimension: -1 if any constraint fails, else the pool of what is counted."""
    labels = tuple(
        None if (found := verdicts.get(id)) is None or found.label not in offered else found.label
        for id, offered in node.offers
    )
    if pooling.expected_grade:
        return _pooled(node, labels, verdicts, pooling)
    bounds = node.known.get(labels)
    if bounds is None:
        if len(node.known) >= _MAX_KNOWN:
            node.known.clear()
        bounds = node.known[labels] = _pooled(node, labels, verdicts, pooling)
    return bounds


def _pooled(
    node: DimensionNode, labels: Sequence[Label | None], verdicts: Mapping[str, Verdict], pooling: Pooling
) -> Bounds:
    if not labels:
        return NOTHING
    open_gate = False
    counted: list[Bounds] = []
    for question, label, constrains in zip(node.questions, labels, node.constraints, strict=True):
        if not constrains:
            counted.append(_leaf(question, label, verdicts.get(question.id), pooling))
        elif label is Label.FALSE or (label is Label.NA and pooling.gate_na == "fail"):
            return FAILED
        else:
            open_gate = open_gate or label is None
    pooled = node.pool(counted)
    if pooled.may_be_none and pooling.empty_dimension == "one":
        pooled = Bounds(HIGHEST if pooled.low is None else pooled.low, HIGHEST, False)
    if open_gate:
        high = LOWEST if pooled.high is None else pooled.high
        pooled = Bounds(LOWEST, high, pooled.may_be_none)
    return pooled


@dataclass(frozen=True, slots=True)
class Values:
    """Bounds of every node of one text's tree, as the node above sees them."""

    dimensions: tuple[tuple[Bounds, ...], ...]
    """By principle, in the program's order."""
    principles: tuple[Bounds, ...]
    total: Bounds
    vetoed_by: tuple[str, ...]
    may_veto: frozenset[str]
    """Protected gates that would veto if they failed, or if their dimension applied, and questions about the prompt
    that decide whether it does."""


@dataclass(frozen=True, slots=True)
class Case:
    """One text: what is known about it and its prompt."""

    verdicts: Mapping[str, Verdict]
    tags: Mapping[str, str] | None
    veto: Veto | None
    known: Mapping[str, bool]
    """Questions about the prompt that are taken as answered, by id."""

    def applies(self, part: Part) -> bool | None:
        return True if part.when is None else applies(part.when, self.tags, self.verdicts, self.known)

    def seen(self, part: Part, bounds: Bounds) -> Bounds:
        """The bounds of ``part`` as the node above sees them."""
        if part.when is None or (there := self.applies(part)):
            return bounds
        return NOTHING if there is False else Bounds(bounds.low, bounds.high, True)


def evaluate(
    program: Program, verdicts: Mapping[str, Verdict], veto: Veto | None, prompt: Prompt | None
) -> tuple[Plan, Values]:
    """Return the plan of ``program`` with the prompt's own questions, and what its nodes can still become.

    The arguments are those of :func:`rubrica.program.pooling.pool`.
    """
    plan = plan_of(program if prompt is None else program_for(program, prompt))
    tags = None if prompt is None else prompt.tags
    # Parts that depend on one unanswered question apply or not together, so both cases are gone through.
    open_ = [id for id in plan.shared if answer(verdicts.get(id)) is None]
    values: Values | None = None
    for answers in product((True, False), repeat=len(open_)):
        one = _values(plan, Case(verdicts, tags, veto, dict(zip(open_, answers, strict=True))))
        values = one if values is None else _either(values, one)
    assert values is not None
    return plan, values


def _either(one: Values, other: Values) -> Values:
    return Values(
        tuple(tuple(map(Bounds.__or__, a, b)) for a, b in zip(one.dimensions, other.dimensions, strict=True)),
        tuple(map(Bounds.__or__, one.principles, other.principles)),
        one.total | other.total,
        tuple(id for id in one.vetoed_by if id in other.vetoed_by),
        one.may_veto | other.may_veto | (set(one.vetoed_by) ^ set(other.vetoed_by)),
    )


def _values(plan: Plan, case: Case) -> Values:
    pooling = plan.program.pooling
    dimensions = tuple(
        tuple(case.seen(d.part, _dimension_bounds(d, case.verdicts, pooling)) for d in p.dimensions)
        for p in plan.principles
    )
    principles = tuple(
        case.seen(p.part, p.pool(below)) for p, below in zip(plan.principles, dimensions, strict=True)
    )
    total = plan.total(principles)
    vetoed_by, may_veto = ([], set()) if case.veto is None else _vetoes(plan, case, case.veto)
    if vetoed_by:
        total = FAILED
    elif may_veto:
        total = Bounds(LOWEST, LOWEST if total.high is None else total.high, total.may_be_none)
    return Values(dimensions, principles, total, tuple(vetoed_by), frozenset(may_veto))


def _vetoes(plan: Plan, case: Case, veto: Veto) -> tuple[list[str], set[str]]:
    """Return the protected gates that veto, and those that still may."""
    vetoed_by: list[str] = []
    may_veto: set[str] = set()
    for question, parts in plan.protected:
        there = [case.applies(part) for part in parts]
        if False in there:
            continue
        verdict = case.verdicts.get(question.id)
        label = label_of(question, verdict)
        if label is None:
            fails = veto.threshold(question.id) <= 1
        else:
            fails = label is Label.FALSE and verdict is not None and veto.applies(verdict)
        if not fails:
            continue
        if label is not None and None not in there:
            vetoed_by.append(question.id)
        else:
            may_veto.add(question.id)
            may_veto |= {
                relevance_question(part.when.ask).id
                for part, known in zip(parts, there, strict=True)
                if known is None and part.when is not None and part.when.ask is not None
            }
    return vetoed_by, may_veto
