"""Two judges as one: who is asked, who signs, what is kept; and thresholds that hold what they promise."""

import asyncio
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from naive_pooling import dimension, principle, program, question
from rubrica.core.background import Background
from rubrica.core.config import dump_yaml
from rubrica.core.data import Text
from rubrica.core.errors import BudgetError, JudgeError, UsageError
from rubrica.core.programs import QuestionKind
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Query, Verdict
from rubrica.core.run import write_json
from rubrica.core.store import Store
from rubrica.judges.budget import Budget, Purse
from rubrica.judges.escalation import (
    ALWAYS,
    Cascade,
    Thresholds,
    fewest,
    fit_threshold,
    lower_bound,
)
from rubrica.judges.executor import Executor
from rubrica.judges.factory import JudgeConfig, check_priced, is_remote, make_judge
from rubrica.models.scripted import ScriptedJudge
from rubrica.program.reward import RewardConfig
from rubrica.recipes.fit_cascade import fit_cascade
from rubrica.recipes.passport_input import Given, Labels
from rubrica.recipes.plan import plan_texts

GATE, GRADED = question("g", "gate"), question("x", "graded")
PROGRAM = program(principle("p", dimension("d", GATE, GRADED)))
PROMPT = Prompt(id="p", messages=(Message(role="user", content="p"),))
THRESHOLDS = Thresholds(
    cheap="cheap", expensive="dear", target=0.9, level=0.9, against="x",
    kinds={QuestionKind.GATE: 0.8, QuestionKind.GRADED: 0.6}, questions={"x": 0.9},
)  # fmt: skip


def sure(label, probability, **more):
    other = {Label.TRUE: Label.FALSE, Label.FALSE: Label.TRUE, Label.A: Label.F}.get(label, Label.A)

    def answer(query):
        return Verdict(
            question_id=query.question.id, outcome=Outcome.ANSWERED, label=label,
            probabilities={label: probability, other: 1 - probability}, prompt_tokens=10, completion_tokens=1,
            **more,
        )  # fmt: skip

    return answer


@pytest.mark.parametrize(
    ("asked", "probability", "escalated"),
    [(GATE, 0.8, False), (GATE, 0.79, True), (GRADED, 0.9, False), (GRADED, 0.7, True)],
)
def test_the_threshold_of_the_question_goes_before_that_of_its_kind(asked, probability, escalated):
    label = Label.TRUE if asked is GATE else Label.A
    cheap = ScriptedJudge(sure(label, probability), fingerprint="cheap")
    dear = ScriptedJudge(sure(label, 0.5), fingerprint="dear")
    ((index, verdict),) = Cascade(cheap, dear, THRESHOLDS).answer(
        [Query(prompt=PROMPT, text="t", question=asked)]
    )
    assert index == 0 and len(dear.asked) == escalated
    assert verdict.judge == ("dear" if escalated else "cheap")
    assert verdict.prompt_tokens == (20 if escalated else 10)  # what this answer cost


def test_a_failure_of_the_cheap_judge_escalates_and_one_of_the_expensive_judge_stands():
    fails = Verdict(question_id="g", outcome=Outcome.FAILED, reason="gone")
    query = Query(prompt=PROMPT, text="t", question=GATE)
    cheap = ScriptedJudge(lambda q: fails, fingerprint="cheap")
    good = Cascade(cheap, ScriptedJudge(lambda q: Label.TRUE, fingerprint="dear"), THRESHOLDS)
    assert [v.label for _, v in good.answer([query])] == [Label.TRUE]
    bad = Cascade(cheap, ScriptedJudge(lambda q: fails, fingerprint="dear"), THRESHOLDS)
    assert [v.outcome for _, v in bad.answer([query])] == [Outcome.FAILED]


def test_identity_names_both_judges_and_the_thresholds():
    a, b = (ScriptedJudge(lambda q: Label.A, fingerprint=name) for name in ("cheap", "dear"))
    other = THRESHOLDS.model_copy(update={"questions": {}})
    names = {
        Cascade(a, b, THRESHOLDS).fingerprint,
        Cascade(a, a, THRESHOLDS).fingerprint,
        Cascade(a, b, other).fingerprint,
    }
    assert len(names) == 3
    with pytest.raises(UsageError, match="fitted for judge cheap, the cheap one is dear"):
        Cascade(b, b, THRESHOLDS)


def test_thresholds_fitted_on_the_expensive_judges_answers_hold_for_no_other():
    cheap, dear, other = (
        ScriptedJudge(lambda q: Label.TRUE, fingerprint=name) for name in ("cheap", "dear", "other")
    )
    own = THRESHOLDS.model_copy(update={"against": "expensive"})
    assert Cascade(cheap, dear, own).fingerprint == Cascade(cheap, dear, THRESHOLDS).fingerprint
    with pytest.raises(UsageError, match="agreement with judge dear, the expensive one is other"):
        Cascade(cheap, other, own)


def test_each_question_has_one_answer_and_what_was_paid_is_kept(tmp_path):
    """A cap between the two judges: the cheap one's answers are not paid twice."""
    write_json(tmp_path / "t.json", THRESHOLDS)
    cheap = ScriptedJudge(
        lambda q: sure(Label.TRUE if q.question.kind == "gate" else Label.A, 0.7)(q), fingerprint="cheap"
    )
    dear = ScriptedJudge(lambda q: Label.TRUE if q.question.kind == "gate" else Label.B, fingerprint="dear")
    config = JudgeConfig.model_validate(
        {"cascade": {"cheap": "c", "expensive": "d", "thresholds": str(tmp_path / "t.json")}}
    )
    items = [(PROMPT, f"t{i}") for i in range(5)]
    with Store(tmp_path / "s.sqlite") as store:
        for cap in (7, 1000):
            purse = Purse(Budget(calls=cap), store)
            judge = make_judge(
                config, secret="s", builtin={"c": lambda: cheap, "d": lambda: dear}, purse=purse
            )
            engine = Executor(judge, store, program=PROGRAM, reward=RewardConfig())
            try:
                cards = engine.score(items)
            except BudgetError:
                assert len(cheap.asked) + len(dear.asked) == 7
        assert purse.spent.calls == len(cheap.asked) + len(dear.asked) == 20
        counts = {
            (line.judge, line.question_id): line.count
            for line in store.account()
            if line.answer in ("A", "B", "TRUE")
        }
    assert counts == {(judge, id): 5 for judge in ("cheap", "dear") for id in ("g", "x")}
    assert [card.total for card in cards] == [0.5] * 5
    assert {v.judge for c in cards for p in c.principles for d in p.dimensions for v in d.verdicts} == {
        "dear"
    }


class Arrived:
    """A judge whose answers have all arrived before the first is read."""

    def __init__(self, fingerprint, probability):
        self.fingerprint, self._answer, self.asked = fingerprint, sure(Label.A, probability), 0

    def answer(self, queries):
        there = threading.Event()
        self.asked += len(queries)

        async def main(put):
            for index, query in enumerate(queries):
                put((index, self._answer(query)))
            there.set()
            await asyncio.sleep(60)

        answers = Background(main)
        assert there.wait(10)
        return answers


@pytest.mark.parametrize(("probability", "calls"), [(0.99, 20), (0.7, 40)])
def test_answers_that_had_arrived_when_it_stops_are_kept_and_paid(tmp_path, probability, calls):
    """Stopped at the third answer: of the cheap judge where it is sure, of the expensive one where it is not."""
    write_json(tmp_path / "t.json", THRESHOLDS)
    cheap, dear = Arrived("cheap", probability), Arrived("dear", 1.0)
    mapping = {"cheap": "c", "expensive": "d", "thresholds": str(tmp_path / "t.json")}
    graded = program(principle("p", dimension("d", GRADED)))

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with Store(":memory:") as store:
        purse = Purse(Budget(), store)
        judge = make_judge(
            JudgeConfig.model_validate({"cascade": mapping}),
            secret="s", builtin={"c": lambda: cheap, "d": lambda: dear}, purse=purse,
        )  # fmt: skip
        engine = Executor(judge, store, program=graded, reward=RewardConfig(), progress=stop)
        with pytest.raises(KeyboardInterrupt):
            engine.score([(PROMPT, f"t{i}") for i in range(20)])
        assert purse.spent.calls == cheap.asked + dear.asked == calls
        assert store.count_verdicts()[0] == calls + 20  # each under its judge, and the cascade's own
        again = Executor(judge, store, program=graded, reward=RewardConfig())
        assert [card.total for card in again.score([(PROMPT, f"t{i}") for i in range(20)])] == [1.0] * 20
        assert cheap.asked + dear.asked == calls


def test_a_plan_counts_both_judges_where_both_may_be_asked(tmp_path):
    write_json(tmp_path / "t.json", THRESHOLDS)
    cheap, dear = (ScriptedJudge(sure(Label.A, 0.1), fingerprint=name) for name in ("cheap", "dear"))
    mapping = {"cheap": "c", "expensive": "d", "thresholds": str(tmp_path / "t.json")}
    config, builtin = (
        JudgeConfig.model_validate({"cascade": mapping}),
        {"c": lambda: cheap, "d": lambda: dear},
    )
    texts, out = [Text(f"id{i}", PROMPT, f"t{i}") for i in range(5)], tmp_path / "s.sqlite"
    graded = program(principle("p", dimension("d", GRADED)))
    _, costs = plan_texts(
        texts, config, out, program=graded, reward=RewardConfig(), builtin=builtin, full=True
    )
    with Store(out) as store:
        purse = Purse(Budget(), store)
        judge = make_judge(config, secret="s", builtin=builtin, purse=purse)
        Executor(judge, store, program=graded, reward=RewardConfig()).score(
            [(t.prompt, t.text) for t in texts]
        )
    assert [cost.calls for cost in costs] == [5, purse.spent.calls] == [5, 10]


def test_in_a_recipe(tmp_path):
    (tmp_path / "t.json").write_text("{}")
    server = "openai:m@http://localhost:1/v1"
    mapping = {"cascade": {"cheap": "lab", "expensive": server, "thresholds": str(tmp_path / "t.json")}}
    config = JudgeConfig.model_validate(mapping)
    assert JudgeConfig.model_validate(config.model_dump(mode="json")) == config and dump_yaml(config)
    assert not is_remote(config)
    with pytest.raises(UsageError, match="has no price"):
        check_priced(config, "budget.money")
    missing = JudgeConfig.model_validate({"cascade": {**mapping["cascade"], "thresholds": "nowhere.json"}})
    with pytest.raises(UsageError, match=r"nowhere\.json: no such file"):
        make_judge(missing, secret="s", builtin={"lab": lambda: None})
    with pytest.raises(UsageError, match="expected a mapping"):
        make_judge("cascade", secret="s", builtin={})


# --- fitting --------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.data(), st.sampled_from([0.8, 0.95]))
@settings(max_examples=60, deadline=None)
def test_the_bound_is_the_smallest_rate_that_the_binomial_test_does_not_reject(n, data, level):
    right = data.draw(st.integers(1, n))
    bound = lower_bound(right, n, level)
    assert stats.binom.sf(right - 1, n, bound) == pytest.approx(1 - level, rel=1e-6)


@pytest.mark.parametrize(("target", "level"), [(0.97, 0.95), (0.9, 0.9), (0.999, 0.99)])
def test_the_fewest_answers_are_those_that_all_right_reach_the_target(target, level):
    n = fewest(target, level)
    assert lower_bound(n, n, level) >= target > lower_bound(n - 1, n - 1, level)


def test_fitting_stops_where_agreement_ends():
    certain = [(0.9 + i / 10000, True) for i in range(500)]
    doubtful = [(0.5 + i / 10000, i % 2 == 0) for i in range(500)]
    found = fit_threshold(certain + doubtful, target=0.95, level=0.95)
    assert 0.53 < found <= 0.95 and lower_bound(500, 500, 0.95) > 0.99
    assert fit_threshold(doubtful, target=0.95, level=0.95) == ALWAYS
    assert fit_threshold(certain[:10], target=0.95, level=0.95) == ALWAYS


def test_the_promise_holds_in_at_least_that_share_of_fits():
    """Answers are right with their own probability, so above t the agreement is (1 + t) / 2: 0.9 from t = 0.8 on."""
    rng, broken, kept = np.random.default_rng(0), 0, []
    for _ in range(300):
        probabilities = rng.random(3000)
        answers = list(zip(probabilities.tolist(), (rng.random(3000) < probabilities).tolist(), strict=True))
        threshold = fit_threshold(answers, target=0.9, level=0.9)
        broken += threshold < 0.8
        kept.append(threshold < ALWAYS)
    assert stats.binomtest(broken, 300, 0.1, alternative="greater").pvalue > 0.01
    assert np.mean(kept) > 0.5  # and it does not keep the promise by escalating always


def noisy(seed):
    """Says the right label with its probability; what is right is in the text."""

    def answer(query):
        rng = random.Random(f"{seed}/{query.text}/{query.question.id}")
        probability = rng.choice((0.55, 0.99))
        right = truth(query.text, query.question.id)
        wrong = {Label.TRUE: Label.FALSE, Label.FALSE: Label.TRUE, Label.A: Label.F, Label.F: Label.A}[right]
        said = right if rng.random() < probability else wrong
        return sure(said, probability)(query)

    return answer


def truth(text, question_id):
    good = random.Random(f"{text}/{question_id}").random() < 0.5
    return (Label.TRUE if good else Label.FALSE) if question_id == "g" else (Label.A if good else Label.F)


def given_texts(count):
    texts = [Text(f"id{i}", PROMPT, f"t{i}") for i in range(count)]
    ratings = {(t.id, id): [truth(t.text, id)] for t in texts for id in ("g", "x")}
    none = Labels({}, None, "")
    return Given(texts, Labels(ratings, None, "labels.jsonl"), [], none), Given(texts, none, [], none)


def test_a_fit_on_labels_and_one_on_the_expensive_judge():
    labelled, unlabelled = given_texts(1200)
    cheap = ScriptedJudge(noisy(1), fingerprint="cheap")
    dear = ScriptedJudge(lambda q: truth(q.text, q.question.id), fingerprint="dear")
    with Store(":memory:") as store:
        found = fit_cascade(cheap, dear, store, labelled, program=PROGRAM, target=0.93)
        again = fit_cascade(cheap, dear, store, unlabelled, program=PROGRAM, target=0.93)
    assert len(cheap.asked) == len(dear.asked) == 2400  # the second fit asks nobody
    assert found.kinds == again.kinds == {QuestionKind.GATE: 0.99, QuestionKind.GRADED: 0.99}
    assert (found.against, again.against) == ("labels.jsonl", "expensive")
    rates = {e.name: e for e in found.estimates if not e.group}
    assert rates["escalated"].low <= 0.5 <= rates["escalated"].high
    assert rates["kept answers that agree"].low <= 0.99 <= rates["kept answers that agree"].high
    assert rates["cheap agrees"].low <= 0.77 <= rates["cheap agrees"].high
    assert rates["cascade agrees"].low <= 0.995 <= rates["cascade agrees"].high
    assert 1000 < rates["escalated"].n < 1400  # the half that was not fitted on


def test_no_answer_is_no_disagreement_and_equal_texts_are_asked_once():
    labelled, _ = given_texts(1200)
    twins = [Text(f"twin{i}", PROMPT, f"t{i}") for i in range(50)]
    ratings = dict(labelled.labels.ratings)
    ratings |= {(t.id, id): [truth(t.text, id)] for t in twins for id in ("g", "x")}
    given = labelled._replace(
        texts=[*labelled.texts, *twins], labels=labelled.labels._replace(ratings=ratings)
    )

    def mostly(query):
        if hash_of(query) < 0.3:
            return Verdict(question_id=query.question.id, outcome=Outcome.FAILED, reason="gone")
        return truth(query.text, query.question.id)

    def hash_of(query):
        return random.Random(f"{query.text}:{query.question.id}").random()

    steps = []
    cheap, dear = (ScriptedJudge(rule, fingerprint=n) for rule, n in ((noisy(1), "cheap"), (mostly, "dear")))
    with Store(":memory:") as store:
        found = fit_cascade(
            cheap, dear, store, given, program=PROGRAM, target=0.93, progress=lambda *at: steps.append(at)
        )
    assert len(cheap.asked) == len(dear.asked) == 2400
    assert steps == [(n, 5000) for n in range(1, 5001)]
    rates = {e.name: e for e in found.estimates if not e.group}
    assert rates["expensive agrees"].value == 1  # wherever it answered, which was in seven of ten
    assert rates["expensive agrees"].n < 0.8 * rates["cheap agrees"].n
    dead = ScriptedJudge(lambda q: Verdict(question_id=q.question.id, outcome=Outcome.FAILED), "dead")
    with Store(":memory:") as store, pytest.raises(JudgeError, match="the first 50 calls all failed"):
        fit_cascade(cheap, dead, store, given, program=PROGRAM, target=0.93)


def test_too_few_labels_and_a_judge_without_probabilities_are_refused():
    few, _ = given_texts(60)
    cheap = ScriptedJudge(noisy(1), fingerprint="cheap")
    mute = ScriptedJudge(lambda q: truth(q.text, q.question.id), fingerprint="mute")
    with Store(":memory:") as store:
        with pytest.raises(UsageError, match=r"labelled answers to \w+ questions .* needs at least 99"):
            fit_cascade(cheap, mute, store, few, program=PROGRAM, target=0.97)
        assert not cheap.asked and not mute.asked  # what is known beforehand costs nothing
        with pytest.raises(UsageError, match="gives no probabilities"):
            fit_cascade(mute, cheap, store, few, program=PROGRAM, target=0.9)
