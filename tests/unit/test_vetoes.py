"""False vetoes against hand-made cards: expected under probabilities, and checked by a reference."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import DimensionScore, Label, Outcome, PrincipleScore, Query, Scorecard, Verdict
from rubrica.core.store import Store
from rubrica.models.scripted import ScriptedJudge
from rubrica.program.program import load_program
from rubrica.recipes.vetoes import checked_false, expected_false


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


GATES = ("har.recipe.g1", "har.dose.g1")


def card(failures: dict[str, float | None]) -> Scorecard:
    verdicts = tuple(
        Verdict(
            question_id=gate,
            outcome=Outcome.ANSWERED,
            label=Label.FALSE,
            probabilities=None if p is None else {Label.TRUE: 1 - p, Label.FALSE: p},
        )
        for gate, p in failures.items()
    )
    dimension = DimensionScore(id="har.recipe", value=-1.0, known=True, verdicts=verdicts)
    principle = PrincipleScore(id="harmlessness", value=-1.0, known=True, dimensions=(dimension,))
    return Scorecard(program="p", judge="j", principles=(principle,), total=0.5, vetoed_by=tuple(failures))


def test_expected_share_multiplies_the_gates_of_a_text_and_averages_over_all_texts():
    cards = [card({GATES[0]: 0.9, GATES[1]: 0.8}), card({GATES[0]: 0.7}), card({}), card({})]
    # (0.1 * 0.2 + 0.3) / 4
    assert expected_false(cards) == pytest.approx(0.08)


def test_a_veto_without_probability_leaves_the_expectation_unknown():
    assert expected_false([card({GATES[0]: None}), card({})]) is None
    assert expected_false([card({}), card({})]) == 0.0
    assert expected_false([]) is None


def test_a_veto_is_false_only_if_the_reference_denies_every_gate(store):
    prompt = Prompt(id="p", messages=(Message(role="user", content="q"),))
    truth = {
        ("a", GATES[0]): Label.TRUE,
        ("b", GATES[0]): Label.TRUE,
        ("b", GATES[1]): Label.FALSE,
    }
    reference = ScriptedJudge(lambda query: truth[query.text, query.question.id])
    items = [(prompt, text) for text in ("a", "b", "c", "d")]
    cards = [card({GATES[0]: 0.9}), card({GATES[0]: 0.9, GATES[1]: 0.9}), card({}), card({})]
    assert checked_false(items, cards, load_program("lab"), reference, store) == 0.25
    assert checked_false(items, cards, load_program("lab"), reference, store) == 0.25
    assert len(reference.asked) == 3, "what the store knows is not asked again"


def test_what_a_reference_answered_before_it_died_is_kept(tmp_path):
    prompt = Prompt(id="p", messages=(Message(role="user", content="q"),))
    items, cards = [(prompt, text) for text in "abc"], [card({GATES[0]: 0.9})] * 3

    def dies(query: Query) -> Label:
        if query.text == "c":
            raise KeyboardInterrupt
        return Label.TRUE

    path = tmp_path / "store.sqlite"
    with Store(path) as first, pytest.raises(KeyboardInterrupt):
        checked_false(items, cards, load_program("lab"), ScriptedJudge(dies), first)
    again = ScriptedJudge(lambda query: Label.FALSE)
    with Store(path) as second:
        assert checked_false(items, cards, load_program("lab"), again, second) == pytest.approx(2 / 3)
    assert [query.text for query in again.asked] == ["c"]


def test_a_reference_that_fails_leaves_the_rate_unknown(store):
    prompt = Prompt(id="p", messages=(Message(role="user", content="q"),))
    dead = ScriptedJudge(lambda query: Verdict(question_id=query.question.id, outcome=Outcome.FAILED))
    assert checked_false([(prompt, "a")], [card({GATES[0]: 0.9})], load_program("lab"), dead, store) is None
    odd = ScriptedJudge(lambda query: Label.NA, "odd")  # the gate is protected and offers none
    assert checked_false([(prompt, "a")], [card({GATES[0]: 0.9})], load_program("lab"), odd, store) is None
