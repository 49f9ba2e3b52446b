"""How often a veto is false: expected under the judge's own calibrated probabilities, and checked by a reference.

A text is falsely vetoed when every protected gate that vetoed it in truth holds. Both rates are shares of all texts that
were judged, so a rare veto and a careful one look alike only if both do little harm.
"""

from collections.abc import Sequence
from math import prod

from rubrica.core.ports import Judge
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Label, Query, Scorecard, Verdict
from rubrica.core.store import Store
from rubrica.program.program import questions
from rubrica.recipes.reference import ask_reference


def expected_false(cards: Sequence[Scorecard]) -> float | None:
    """Expected share of falsely vetoed texts, gates taken as independent; None where a veto has no probability."""
    total = 0.0
    for card in cards:
        chances = [(verdict.probabilities or {}).get(Label.FALSE) for verdict in _vetoing(card)]
        if any(chance is None for chance in chances):
            return None
        if chances:
            total += prod(1 - chance for chance in chances if chance is not None)
    return total / len(cards) if cards else None


def checked_false(
    items: Sequence[tuple[Prompt, str]],
    cards: Sequence[Scorecard],
    program: Program,
    reference: Judge,
    store: Store,
) -> float | None:
    """Share of texts whose veto the reference judge does not confirm on any gate; None if it fails on one."""
    asked = {question.id: question for _, _, question in questions(program)}
    queries: list[Query] = []
    owners: list[int] = []
    for owner, ((prompt, text), card) in enumerate(zip(items, cards, strict=True)):
        for question_id in card.vetoed_by:
            queries.append(Query(prompt=prompt, text=text, question=asked[question_id]))
            owners.append(owner)
    holds: dict[int, bool] = {}
    for owner, verdict in zip(owners, ask_reference(reference, store, queries), strict=True):
        if verdict is None:
            return None
        holds[owner] = holds.get(owner, True) and verdict.label is Label.TRUE
    false = sum(holds.values())
    return false / len(cards) if cards else None


def _vetoing(card: Scorecard) -> list[Verdict]:
    verdicts = (v for p in card.principles for d in p.dimensions for v in d.verdicts)
    return [v for v in verdicts if v.question_id in card.vetoed_by]
