"""The executor: same reward for fewer calls, nothing answered is lost, a dead judge stops the work."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_pooling import (
    PROMPT,
    dimension,
    every_question,
    everything_asked,
    judged,
    outcomes,
    principle,
    program,
    programs,
    question,
    total_value,
    verdict,
)
from rubrica.core.errors import JudgeError
from rubrica.core.programs import When
from rubrica.core.prompts import Message, Prompt, PromptQuestion
from rubrica.core.records import Label, Outcome, Scorecard, Verdict
from rubrica.core.store import Store
from rubrica.judges.executor import Executor
from rubrica.judges.keys import card_id, text_hash, verdict_key
from rubrica.models.scripted import ScriptedJudge
from rubrica.program.program import question_hash
from rubrica.program.relevance import relevance_questions
from rubrica.program.reward import RewardConfig
from rubrica.program.undecided import undecided

RUBRICA, QA_LIGN = RewardConfig(), RewardConfig(preset="qa-lign")


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def prompt(text, id=None):
    return Prompt(id=id or text, messages=(Message(role="user", content=text),))


def executor(judge, store, prog, reward=RUBRICA, **options):
    return Executor(judge, store, program=prog, reward=reward, **options)


def grid(principles=2, dimensions=2):
    """Each dimension has one gate and two grades; the first principle caps."""
    return program(
        *(
            principle(
                f"p{p}",
                *(
                    dimension(
                        f"p{p}d{d}",
                        question(f"p{p}d{d}g", "gate"),
                        question(f"p{p}d{d}x", "graded"),
                        question(f"p{p}d{d}y", "graded"),
                    )
                    for d in range(dimensions)
                ),
                caps=p == 0,
            )
            for p in range(principles)
        )
    )


def good(query):
    return Label.TRUE if query.question.kind == "gate" else Label.A


def asked(judge):
    return [(q.prompt.id, q.text, q.question.id) for q in judge.asked]


# --- the same reward ----------------------------------------------------------------------------


class Rounds(ScriptedJudge):
    """A scripted judge that keeps what it was asked together."""

    def __init__(self, rule):
        super().__init__(rule)
        self.rounds = []

    def answer(self, queries):
        self.rounds.append(list(queries))
        return super().answer(queries)


@given(judged(most=7), st.data(), st.sampled_from([RUBRICA, QA_LIGN]))
@settings(max_examples=150, deadline=None)
def test_skipping_gives_the_reward_of_asking_everything(case, data, reward):
    """Random programs with every op, weight, condition and NA policy, three texts each, some answers lost."""
    prog, first = case
    about = relevance_questions(prog)
    answers = {"t0": first}
    for text in ("t1", "t2"):
        answers[text] = {q.id: first[q.id] for q in about} | {
            q.id: data.draw(st.sampled_from([first[q.id], *_others(q)])) for q in every_question(prog)
        }
    lost = data.draw(st.sets(st.sampled_from([q.id for q in everything_asked(prog)]), max_size=2))

    def rule(query):
        return (
            verdict(query.question.id, Outcome.FAILED)
            if query.question.id in lost
            else answers[query.text or "t0"][query.question.id]
        )

    with Store(":memory:") as lazy_store, Store(":memory:") as full_store:
        items = [(PROMPT, text) for text in answers]
        lazy, full = Rounds(rule), Rounds(rule)
        options = {"retries": 1, "max_failure_rate": 1.0}
        few = executor(lazy, lazy_store, prog, reward, **options)
        cards = few.score(items)
        everything = executor(full, full_store, prog, reward, **options).score(items, full=True)
        calls = len(lazy.asked)
        again = [card.total for card in few.score(items)]
        assert {query.question.id for query in lazy.asked[calls:]} <= lost  # nothing known is asked again
    assert [c.total for c in cards] == [c.total for c in everything] == again
    threshold = 0.5 if reward is RUBRICA else None
    for card, found in zip(cards, answers.values(), strict=True):
        known = {id: v for id, v in found.items() if id not in lost}
        totals = outcomes(lambda a: total_value(prog, a, threshold), everything_asked(prog), known)
        total = totals.pop() if len(totals) == 1 else None
        assert card.total == (None if total is None else float(total))
    assert calls <= len(full.asked)
    _asks_only_what_is_undecided(lazy.rounds, prog, answers, lost, reward)


def _asks_only_what_is_undecided(rounds, prog, answers, lost, reward):
    known = {text: {} for text in answers}
    for queries in rounds:
        for query in queries:
            id = query.question.id
            texts = [query.text] if query.text else list(known)
            assert any(
                id in undecided(prog, known[text], veto=reward.veto(), prompt=PROMPT) for text in texts
            )
        for query in queries:
            id = query.question.id
            for text in [query.text] if query.text else list(known):
                if id not in lost:
                    known[text][id] = answers[text][id]


@given(judged(most=7))
@settings(max_examples=60, deadline=None)
def test_every_question_of_every_text_is_asked_cached_skipped_or_irrelevant(case):
    prog, found = case
    texts = ["t0", "t1", "t0"]
    with Store(":memory:") as store:
        engine = executor(ScriptedJudge(lambda q: found[q.question.id]), store, prog)
        engine.score([(PROMPT, text) for text in texts])
    used = engine.usage
    slots = len(texts) * len(everything_asked(prog))
    assert used.asked + used.cached + used.skipped + used.irrelevant == slots


def _others(q):
    labels = ("TRUE", "FALSE") if q.kind == "gate" else ("A", "D", "F", "NA")
    return [verdict(q.id, label) for label in labels]


@given(programs(most=7, conditions=False), st.data())
@settings(max_examples=60, deadline=None)
def test_a_judge_that_fails_leaves_no_total_or_the_true_one(prog, data):
    answers = {
        q.id: data.draw(st.sampled_from([*_others(q), verdict(q.id, Outcome.FAILED)]))
        for q in every_question(prog)
    }
    with Store(":memory:") as store:
        judge = ScriptedJudge(lambda q: answers[q.question.id])
        (card,) = executor(judge, store, prog).score([(prompt("p"), "t")])
    possible = outcomes(lambda a: total_value(prog, a, 0.5), every_question(prog), answers)
    expected = possible.pop() if len(possible) == 1 else None
    assert card.total == (None if expected is None else float(expected))


# --- fewer calls --------------------------------------------------------------------------------


def test_gates_come_first_and_a_failed_one_saves_its_grades(store):
    prog = grid(principles=1)
    judge = ScriptedJudge(lambda q: Label.FALSE if q.question.id == "p0d0g" else good(q))
    engine = executor(judge, store, prog)
    (card,) = engine.score([(prompt("p"), "t")])
    assert [id for _, _, id in asked(judge)] == ["p0d0g", "p0d1g", "p0d1x", "p0d1y"]
    assert card.total == 0  # mean of -1 and 1
    assert (engine.usage.asked, engine.usage.skipped) == (4, 2)


def test_a_veto_saves_every_grade(store):
    prog = program(
        principle("p", dimension("d", question("g", "gate", True), question("x", "graded"))),
        principle("q", dimension("e", question("h", "gate"), question("y", "graded"))),
    )

    def rule(query):
        return Label.FALSE if query.question.id == "g" else good(query)

    judge = ScriptedJudge(rule)
    (card,) = executor(judge, store, prog).score([(prompt("p"), "t")])
    assert [id for _, _, id in asked(judge)] == ["g", "h"]
    assert (card.total, card.vetoed_by) == (-1, ("g",))
    # fitted thresholds reach the pooling: above 1 the gate never vetoes
    other = ScriptedJudge(rule, fingerprint="other")
    (card,) = executor(other, store, prog, thresholds={"g": 1.5}).score([(prompt("p"), "t")])
    assert (card.total, card.vetoed_by) == (0, ())


def test_full_asks_everything_even_where_the_total_is_settled(store):
    prog = grid()
    judge = ScriptedJudge(lambda q: Label.FALSE if q.question.kind == "gate" else Label.A)
    (card,) = executor(judge, store, prog).score([(prompt("p"), "t")], full=True)
    assert len(judge.asked) == 12
    assert card.total == -1
    assert all(v.label for p in card.principles for d in p.dimensions for v in d.verdicts)


ASK = "Does the prompt ask for code?"


def conditional(**when):
    """Dimension d under a condition, with a gate and a grade; e beside it without one."""
    return program(
        principle(
            "p",
            dimension("d", question("g", "gate"), question("x", "graded"), when=When(**when)),
            dimension("e", question("y", "graded")),
        )
    )


def test_what_does_not_apply_by_a_tag_is_not_asked_and_costs_no_call(store):
    prog = conditional(tags={"kind": ("code",)})
    judge = ScriptedJudge(good)
    engine = executor(judge, store, prog)
    tagged = prompt("q").model_copy(update={"tags": {"kind": "code"}})
    plain, full = engine.score([(prompt("p"), "t"), (tagged, "t")])
    assert sorted((q.prompt.id, q.question.id) for q in judge.asked) == [
        ("p", "y"),
        ("q", "g"),
        ("q", "x"),
        ("q", "y"),
    ]
    skipped = plain.principles[0].dimensions[0]
    assert (skipped.value, skipped.known, skipped.relevant) == (None, True, False)
    assert full.principles[0].dimensions[0].relevant is True
    assert (engine.usage.asked, engine.usage.irrelevant, engine.usage.skipped) == (4, 2, 0)


def test_a_question_about_the_prompt_is_asked_once_for_all_its_texts_before_anything_else(store):
    prog = conditional(ask=ASK)
    judge = Rounds(lambda q: Label.FALSE if q.question.text == ASK and q.prompt.id == "p" else good(q))
    engine = executor(judge, store, prog)
    items = [(prompt("p"), "t1"), (prompt("p"), "t2"), (prompt("q"), "t1")]
    cards = engine.score(items)
    first = [(q.prompt.id, q.text, q.question.text) for q in judge.rounds[0]]
    assert first == [("p", "", ASK), ("q", "", ASK)]
    assert sorted((q.prompt.id, q.text, q.question.id) for batch in judge.rounds[1:] for q in batch) == [
        ("p", "t1", "y"),
        ("p", "t2", "y"),
        ("q", "t1", "g"),
        ("q", "t1", "x"),
        ("q", "t1", "y"),
    ]
    assert [c.principles[0].dimensions[0].relevant for c in cards] == [False, False, True]
    assert cards[0].principles[0].dimensions[0].relevance.label is Label.FALSE
    assert (engine.usage.irrelevant, engine.usage.cached) == (4, 1)
    again = ScriptedJudge(good)
    executor(again, store, prog).score([(prompt("p"), "t3")])
    assert [q.question.id for q in again.asked] == ["y"]  # what is known about the prompt is known


@pytest.mark.parametrize("said", [Outcome.FAILED, Outcome.ABSTAINED, Label.NA])
def test_a_dimension_of_which_nobody_says_whether_it_applies_stays_open(store, said):
    prog = conditional(ask=ASK)

    def rule(query):
        if query.question.text == ASK:
            return said if isinstance(said, Label) else verdict("x", said)
        return Label.C if query.text == "uneven" and query.question.id == "x" else good(query)

    engine = executor(ScriptedJudge(rule), store, prog, max_failure_rate=1.0)
    uneven, even = engine.score([(prompt("p"), "uneven"), (prompt("p"), "even")])
    assert uneven.principles[0].dimensions[0].relevant is None
    assert uneven.total is None  # 1 without d, 0.55 with it
    assert even.total == 1  # with or without d


def test_the_questions_of_a_prompt_are_asked_about_its_texts_alone_and_are_shared_by_what_they_ask(store):
    prog = program(
        principle(
            "p",
            dimension("d", question("x", "graded")),
            dimension("own", pool="weighted", instance=True),
        )
    )
    own = (
        PromptQuestion(id="one", text="Does the answer name the dose?", weight=3),
        PromptQuestion(id="two", text="Does the answer blame the user?", weight=-1),
    )
    with_own = prompt("p").model_copy(update={"questions": own})
    other_id = own[0].model_copy(update={"id": "other", "weight": 1.0})
    same_words = prompt("p").model_copy(update={"questions": (other_id,)})
    judge = ScriptedJudge(good)
    engine = executor(judge, store, prog)
    cards = engine.score([(with_own, "t"), (prompt("p"), "t"), (same_words, "t")])
    assert sorted(q.question.text for q in judge.asked) == [
        "Does the answer blame the user?",
        "Does the answer name the dose?",
        "Is x fine?",
    ]
    assert [v.question_id for v in cards[0].principles[0].dimensions[1].verdicts] == [
        "instance.one",
        "instance.two",
    ]
    # x is A; of the prompt's own, 3 - 1 of 3 points; without any the dimension has no value
    assert [c.total for c in cards] == [pytest.approx((1 + (2 * 2 / 3 - 1)) / 2), 1, 1]
    ids = {card_id(p, "t", prog, "scripted") for p in (with_own, prompt("p"), same_words)}
    assert len(ids) == 3


def test_identical_texts_are_judged_once(store):
    prog = grid()
    judge = ScriptedJudge(good)
    engine = executor(judge, store, prog)
    same = [(prompt("p", "one"), "t"), (prompt("p", "two"), "t"), (prompt("q"), "t")]
    cards = engine.score(same)
    assert len(judge.asked) == 24  # the same words to the same messages, whatever the prompt's id
    assert cards[0] == cards[1]
    assert engine.usage.cached == 12


def test_identical_questions_are_asked_once(store):
    twins = tuple(question(id, "graded").model_copy(update={"text": "Is it kind?"}) for id in ("x", "y"))
    prog = program(principle("p", dimension("d", twins[0]), dimension("e", twins[1])))
    judge = ScriptedJudge(lambda q: Label.B)
    (card,) = executor(judge, store, prog).score([(prompt("p"), "t")])
    assert [id for _, _, id in asked(judge)] == ["x"]
    assert [d.verdicts[0].question_id for d in card.principles[0].dimensions] == ["x", "y"]
    assert card.total == 0.5


def test_texts_of_one_prompt_stand_together_with_the_question_last(store):
    prog = grid(principles=1, dimensions=1)
    judge = ScriptedJudge(good)
    items = [(prompt("p"), "t1"), (prompt("q"), "t2"), (prompt("p"), "t3"), (prompt("q"), "t4")]
    cards = executor(judge, store, prog).score(items, full=True)
    runs = [key for key, _ in itertools.groupby((q.prompt.id, q.text) for q in judge.asked)]
    assert runs == [("p", "t1"), ("p", "t3"), ("q", "t2"), ("q", "t4")]
    assert len(cards) == 4


def test_a_second_run_asks_nothing(tmp_path):
    prog = grid()
    items = [(prompt(p), t) for p in "pq" for t in ("t1", "t2")]
    with Store(tmp_path / "s.sqlite") as store:
        first = executor(ScriptedJudge(good), store, prog).score(items)
    with Store(tmp_path / "s.sqlite") as store:
        judge = ScriptedJudge(good)
        engine = executor(judge, store, prog)
        assert engine.score(items) == first
        assert judge.asked == []
        assert (engine.usage.asked, engine.usage.cached) == (0, 48)
        other = ScriptedJudge(good, fingerprint="another judge")
        executor(other, store, prog).score(items)
        assert len(other.asked) == 48


def test_editing_one_question_asks_that_one_again(store):
    prog = grid(principles=1, dimensions=1)
    executor(ScriptedJudge(good), store, prog).score([(prompt("p"), "t")])
    gate, x, y = every_question(prog)
    edited = program(
        principle(
            "p",
            dimension(
                "d",
                gate.model_copy(update={"id": "renamed", "clause": "elsewhere"}),
                x.model_copy(update={"text": "Is it clear?"}),
                y,
            ),
        )
    )
    judge = ScriptedJudge(good)
    (card,) = executor(judge, store, edited).score([(prompt("p"), "t")])
    assert [id for _, _, id in asked(judge)] == [x.id]
    assert card.principles[0].dimensions[0].verdicts[0].question_id == "renamed"


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNPARSEABLE, Outcome.ABSTAINED])
def test_a_lost_answer_is_asked_again_within_the_retries(store, outcome):
    prog = program(principle("p", dimension("d", question("x", "graded"))))
    replies = iter([verdict("x", outcome), verdict("x", outcome), verdict("x", "B")])
    judge = ScriptedJudge(lambda q: next(replies))
    (card,) = executor(judge, store, prog, retries=2).score([(prompt("p"), "t")])
    assert (card.total, len(judge.asked)) == (0.5, 3)

    judge = ScriptedJudge(lambda q: verdict("x", outcome), fingerprint="never")
    engine = executor(judge, store, prog, retries=2)
    (card,) = engine.score([(prompt("p"), "t")])
    assert (card.total, len(judge.asked)) == (None, 3)
    assert engine.usage.failed == (0 if outcome is Outcome.ABSTAINED else 3)


def test_a_retry_is_not_spent_on_what_no_longer_matters(store):
    prog = program(principle("p", dimension("d", question("g", "gate"), question("h", "gate"))))
    judge = ScriptedJudge(lambda q: Label.FALSE if q.question.id == "h" else verdict("g", Outcome.FAILED))
    (card,) = executor(judge, store, prog).score([(prompt("p"), "t")])
    assert [id for _, _, id in asked(judge)] == ["g", "h"]
    assert card.total == -1


def test_a_failed_answer_is_asked_again_by_the_next_run(store):
    prog = program(principle("p", dimension("d", question("x", "graded"))))
    dead = ScriptedJudge(lambda q: verdict("x", Outcome.FAILED), fingerprint="j")
    assert executor(dead, store, prog).score([(prompt("p"), "t")])[0].total is None
    alive = ScriptedJudge(good, fingerprint="j")
    assert executor(alive, store, prog).score([(prompt("p"), "t")])[0].total == 1


def test_na_on_a_protected_gate_is_unparseable(store):
    prog = program(principle("p", dimension("d", question("g", "gate", True), question("x", "graded"))))
    judge = ScriptedJudge(lambda q: Label.NA if q.question.id == "g" else Label.A)
    engine = executor(judge, store, prog, retries=1)
    (card,) = engine.score([(prompt("p"), "t")])
    gate = card.principles[0].dimensions[0].verdicts[0]
    assert (card.total, gate.outcome, gate.label) == (None, Outcome.UNPARSEABLE, None)
    assert "answered NA" in gate.reason
    assert store.count_verdicts() == (1, 2)  # the grade; both tries of the gate are logged


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("killed")])
def test_what_was_answered_before_a_crash_is_kept(tmp_path, error):
    prog = grid()
    items = [(prompt("p"), f"t{i}") for i in range(10)]
    count = itertools.count()

    def dies(query):
        if next(count) == 30:
            raise error
        return good(query)

    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            executor(ScriptedJudge(dies), store, prog).score(items)
    with Store(tmp_path / "s.sqlite") as store:
        assert store.count_verdicts() == (30, 0)
        judge = ScriptedJudge(good)
        resumed = executor(judge, store, prog).score(items)
        assert len(judge.asked) == 120 - 30
    with Store(":memory:") as fresh:
        assert executor(ScriptedJudge(good), fresh, prog).score(items) == resumed


def test_each_verdict_is_in_the_store_before_the_next_is_awaited(tmp_path):
    """A kill leaves no time to write what was answered."""
    with Store(tmp_path / "s.sqlite") as store, Store(tmp_path / "s.sqlite", read_only=True) as other:
        seen = []

        def look(query):
            seen.append(other.count_verdicts()[0])
            return good(query)

        executor(ScriptedJudge(look), store, grid()).score([(prompt("p"), f"t{i}") for i in range(3)])
    assert seen == list(range(36))


def test_the_failure_budget_stops_a_dead_judge_and_keeps_the_log(store):
    prog = grid()
    judge = ScriptedJudge(
        lambda q: Verdict(question_id=q.question.id, outcome=Outcome.FAILED, reason="connection refused")
    )
    engine = executor(judge, store, prog)
    with pytest.raises(JudgeError, match=r"50 of the last 50 calls failed .*connection refused"):
        engine.score([(prompt("p"), f"t{i}") for i in range(100)])
    assert len(judge.asked) == 50
    assert store.count_verdicts() == (0, 50)
    assert engine.usage.failed == 50


def test_failures_within_the_budget_do_not_stop(store):
    prog = grid()
    count = itertools.count()
    judge = ScriptedJudge(
        lambda q: verdict(q.question.id, Outcome.FAILED) if next(count) % 10 == 0 else good(q)
    )
    engine = executor(judge, store, prog, retries=6)
    cards = engine.score([(prompt("p"), f"t{i}") for i in range(40)])
    assert [c.total for c in cards] == [1] * 40
    assert engine.usage.failed > 40


class BrokenJudge:
    """Breaks the contract: answers index 0 twice, or leaves the last one out."""

    fingerprint = "broken"

    def __init__(self, indexes):
        self.indexes = indexes

    def answer(self, queries):
        return iter([(i, verdict(queries[i].question.id, "A")) for i in self.indexes])


def test_a_judge_that_breaks_the_contract_is_named_and_never_guessed(store):
    prog = program(principle("p", dimension("d", question("x", "graded"), question("y", "graded"))))
    with pytest.raises(JudgeError, match="twice or out of range"):
        executor(BrokenJudge([0, 0]), store, prog).score([(prompt("p"), "t")])
    (card,) = executor(BrokenJudge([0]), store, prog).score([(prompt("q"), "t")])
    assert card.total == 1  # asked alone on the retry, the second question is index 0


# --- records, counts, text ------------------------------------------------------------------------


def test_cards_and_verdicts_are_stored_under_their_keys(store):
    prog = grid(principles=1, dimensions=1)
    judge = ScriptedJudge(good, fingerprint="j")
    (card,) = executor(judge, store, prog).score([(prompt("p"), "t")])
    assert store.get("scorecard", card_id(prompt("p"), "t", prog, "j"), Scorecard) == card
    keys = [verdict_key("j", question_hash(q), text_hash(prompt("p"), "t")) for q in every_question(prog)]
    assert set(store.verdicts(keys)) == set(keys)
    assert card.judge == "j"


def test_usage_adds_up_over_calls(store):
    prog = program(principle("p", dimension("d", question("x", "graded"))))
    reply = verdict("x", "A").model_copy(update={"prompt_tokens": 100, "completion_tokens": 2})
    engine = executor(ScriptedJudge(lambda q: reply), store, prog)
    engine.score([(prompt("p"), "t1")])
    engine.score([(prompt("p"), "t1"), (prompt("p"), "t2")])
    assert (engine.usage.asked, engine.usage.cached, engine.usage.skipped) == (2, 1, 0)
    assert (engine.usage.prompt_tokens, engine.usage.completion_tokens) == (200, 4)
    assert engine.usage.seconds > 0


def test_progress_rises_to_the_total(store):
    seen = []
    prog = grid()
    judge = ScriptedJudge(lambda q: Label.FALSE if q.question.kind == "gate" else Label.A)
    engine = executor(judge, store, prog, progress=lambda done, total: seen.append((done, total)))
    engine.score([(prompt("p"), f"t{i}") for i in range(30)])
    assert seen[0] == (0, 360)
    assert seen[-1] == (360, 360)
    assert seen == sorted(seen)


def test_nothing_to_score(store):
    assert executor(ScriptedJudge(good), store, grid()).score([]) == []


def test_text_that_is_no_unicode_is_judged_with_a_replacement(store):
    judge = ScriptedJudge(good)
    (card,) = executor(judge, store, grid()).score([(prompt("p"), "half a pair \ud83d")])
    assert card.total == 1
    assert judge.asked[0].text == "half a pair ?"
