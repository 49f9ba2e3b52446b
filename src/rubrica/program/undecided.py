"""Which questions can still change the total, so that a judge is asked nothing that could not."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from rubrica.core.instance import program_for
from rubrica.core.programs import Op, Part, Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Verdict
from rubrica.program.bounds import LOWEST, Bounds, weighted_bounds
from rubrica.program.labels import label_of
from rubrica.program.plan import plan_of, weight_of
from rubrica.program.relevance import answer, relevance_question
from rubrica.program.valuation import Case, Veto, evaluate


def undecided(
    program: Program,
    verdicts: Mapping[str, Verdict],
    *,
    veto: Veto | None = None,
    prompt: Prompt | None = None,
) -> list[str]:
    """Return ids of the unanswered questions that can still change the total: about the prompt, then in order.

    None if the total is settled; none of a principle or of a dimension whose value is known or too high to
    matter to a minimum or below a cap, except protected gates that could veto. Whatever the questions in this list
    get, answers to the others change nothing.
    """
    plan, values = evaluate(program, verdicts, veto, prompt)
    if values.total.known:
        return []
    asks: set[str] = {id for id in plan.asks if id in values.may_veto}
    found: list[str] = []
    open_principles = _that_matter(
        plan.program.pool, plan.program.principles, values.principles, [p.caps for p in program.principles]
    )
    for node, below, open_ in zip(plan.principles, values.dimensions, open_principles, strict=True):
        if open_:
            asks |= _asked(node.part)
        parts = [d.part for d in node.dimensions]
        matter = _that_matter(node.op, parts, below, [False] * len(parts))
        for dimension, matters in zip(node.dimensions, matter, strict=True):
            whole = open_ and matters
            if whole:
                asks |= _asked(dimension.part)
            found += [
                q.id
                for q in dimension.questions
                if (whole or q.id in values.may_veto) and label_of(q, verdicts.get(q.id)) is None
            ]
    return [id for id in plan.asks if id in asks and answer(verdicts.get(id)) is None] + found


def _asked(part: Part) -> set[str]:
    return {relevance_question(part.when.ask).id} if part.when is not None and part.when.ask else set()


def _that_matter(
    op: Op, parts: Sequence[Part], members: Sequence[Bounds], caps: Sequence[bool]
) -> list[bool]:
    """Tell which members could change their pool, whatever the others become. Never False for one that could.

    Not one whose value is known; not one below a minimum that another member keeps at or under it in any case; and
    where the caps keep the total at or under the lowest mean, none but the caps. A gate that may fail always may.
    """
    sure = [
        m.high if m.high is not None and not m.may_be_none and (op == "min" or is_cap) else None
        for m, is_cap in zip(members, caps, strict=True)
    ]
    ceilings = [high for high in sure if high is not None]
    floor: Fraction | None = None
    if op != "min" and ceilings:
        weights = [weight_of(part) if op == "weighted" else 1 for part in parts]
        floor = weighted_bounds(list(zip(weights, members, strict=True))).low
    matter: list[bool] = []
    for index, (part, member) in enumerate(zip(parts, members, strict=True)):
        could = not member.known
        if could and not (part.gate and member.low == LOWEST) and member.low is not None:
            others = [high for other, high in enumerate(sure) if high is not None and other != index]
            if op == "min" and others:
                could = member.low < min(others)
            elif floor is not None and not caps[index]:
                could = floor < min(ceilings)
        matter.append(could)
    return matter


def irrelevant(program: Program, verdicts: Mapping[str, Verdict], *, prompt: Prompt) -> set[str]:
    """Return ids of the questions of dimensions and principles that certainly do not apply to ``prompt``."""
    base = plan_of(program)
    if not base.asks and not base.tags:
        return set()
    plan = plan_of(program_for(program, prompt))
    case = Case(verdicts, prompt.tags, None, {})
    return {
        question.id
        for principle in plan.principles
        for dimension in principle.dimensions
        if case.applies(principle.part) is False or case.applies(dimension.part) is False
        for question in dimension.questions
    }
