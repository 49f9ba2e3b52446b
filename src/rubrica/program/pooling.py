"""From the answers of a judge to the scorecard of a text; :mod:`rubrica.program.valuation` has the equations."""

from collections.abc import Mapping

from rubrica.core.programs import Part, Program, Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import DimensionScore, Outcome, PrincipleScore, Scorecard, Verdict
from rubrica.program.bounds import Bounds
from rubrica.program.plan import plan_of
from rubrica.program.relevance import relevance_question
from rubrica.program.valuation import Case, Veto, evaluate


def pool(
    program: Program,
    verdicts: Mapping[str, Verdict],
    *,
    veto: Veto | None = None,
    judge: str = "",
    prompt: Prompt | None = None,
) -> Scorecard:
    """Pool the answers to ``program`` about one text into a scorecard.

    ``verdicts`` maps question ids to verdicts; a question without one is recorded as skipped. A verdict that
    is abstained, unparseable, failed, skipped, or carries a label that the question does not offer (NA on a
    protected gate) is unknown. ``veto=None`` switches the veto off. Values lie in [-1, 1]. The total exists
    if and only if all possible answers to the unknown questions give the same number.

    ``prompt`` brings its own questions and its tags; without it, what depends on tags is unknown. Answers about
    the prompt are found in ``verdicts`` under the ids of :func:`rubrica.program.relevance.relevance_question`.
    """
    plan, values = evaluate(program, verdicts, veto, prompt)
    case = Case(verdicts, None if prompt is None else prompt.tags, veto, {})

    def verdict_on(question: Question) -> Verdict:
        found = verdicts.get(question.id)
        return found or Verdict(question_id=question.id, outcome=Outcome.SKIPPED, judge=judge)

    scores = []
    for node, bounds, below in zip(plan.principles, values.principles, values.dimensions, strict=True):
        dimensions = tuple(
            DimensionScore(
                id=d.part.id,
                value=b.value,
                known=b.known,
                verdicts=tuple(map(verdict_on, d.questions)),
                relevant=case.applies(d.part),
                relevance=_relevance(d.part, verdicts),
            )
            for d, b in zip(node.dimensions, below, strict=True)
        )
        scores.append(
            PrincipleScore(
                id=node.part.id,
                value=bounds.value,
                known=bounds.known,
                dimensions=dimensions,
                relevant=case.applies(node.part),
                relevance=_relevance(node.part, verdicts),
            )
        )
    return Scorecard(
        program=plan_of(program).hash,
        judge=judge,
        principles=tuple(scores),
        total=values.total.value,
        vetoed_by=values.vetoed_by,
    )


def _relevance(part: Part, verdicts: Mapping[str, Verdict]) -> Verdict | None:
    if part.when is None or part.when.ask is None:
        return None
    return verdicts.get(relevance_question(part.when.ask).id)


def total_bounds(
    program: Program,
    verdicts: Mapping[str, Verdict],
    *,
    veto: Veto | None = None,
    prompt: Prompt | None = None,
) -> Bounds:
    """What answers to the unanswered questions can still make of the total; both ends are attained."""
    return evaluate(program, verdicts, veto, prompt)[1].total


def settled(
    program: Program,
    verdicts: Mapping[str, Verdict],
    *,
    veto: Veto | None = None,
    prompt: Prompt | None = None,
) -> bool:
    """Tell whether no answer to an unanswered question could change the total (or give one)."""
    return total_bounds(program, verdicts, veto=veto, prompt=prompt).known
