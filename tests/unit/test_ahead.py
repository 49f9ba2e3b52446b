"""Asking ahead in threads: the same cards, verdicts and usage as asking at the end; errors surface once."""

import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_pooling import everything_asked, programs
from rubrica.core.errors import BudgetError, JudgeError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Verdict
from rubrica.core.store import Store
from rubrica.judges.budget import Budget, Purse
from rubrica.judges.executor import Executor
from rubrica.models.scripted import ScriptedJudge
from rubrica.program.reward import RewardConfig
from rubrica.recipes.ahead import Ahead

PROMPT = Prompt(id="p", messages=(Message(role="user", content="p"),))


class Forgetful:
    """Answers a question about a text by a drawn list: what it says the first time, the second ..."""

    def __init__(self, answers):
        self.answers, self.times, self.lock = answers, Counter(), threading.Lock()

    def __call__(self, query):
        key = (query.text, query.question.id)
        with self.lock:
            said = self.answers[key][min(self.times[key], len(self.answers[key]) - 1)]
            self.times[key] += 1
        if said is None:
            return Verdict(question_id=query.question.id, outcome=Outcome.FAILED, prompt_tokens=7)
        outcome = Outcome.NOT_APPLICABLE if said is Label.NA else Outcome.ANSWERED
        return Verdict(question_id=query.question.id, outcome=outcome, label=said, prompt_tokens=10)


@given(programs(most=5), st.data())
@settings(max_examples=60, deadline=None)
def test_the_same_as_asking_at_the_end(prog, data):
    texts = [f"t{i}" for i in data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=8))]
    labels = {"gate": [Label.TRUE, Label.FALSE, None], "graded": [Label.A, Label.D, Label.NA, None]}
    answers = {
        (text, q.id): data.draw(st.lists(st.sampled_from(labels[q.kind]), min_size=1, max_size=3))
        for text in ["", *sorted(set(texts))]
        for q in everything_asked(prog)
    }
    known = data.draw(st.integers(0, len(texts)))
    items = [(PROMPT, text) for text in texts]
    found = []
    for parts in (0, data.draw(st.integers(1, 4))):
        rule = Forgetful(answers)
        with Store(":memory:") as store:
            judge = ScriptedJudge(rule)
            options = {"program": prog, "reward": RewardConfig(), "retries": 1, "max_failure_rate": 1.0}
            Executor(judge, store, **options).score(items[:known])  # an earlier step
            engine = Executor(judge, store, **options)
            with Ahead(engine, workers=3) as ahead:
                for start in range(0, len(items) if parts else 0, parts or 1):
                    ahead.submit(items[start : start + parts])
                if parts:
                    ahead.join()
                cards = engine.score(items)
            usage = engine.usage.model_copy(update={"seconds": 0.0})
            lines = [line.model_copy(update={"seconds": 0.0}) for line in store.account()]
            found.append((cards, usage, rule.times, store.count_verdicts(), lines))
    assert found[0] == found[1]


def scoring(judge, store, texts=40, **options):
    prog = every_program()
    engine = Executor(judge, store, program=prog, reward=RewardConfig(), **options)
    return engine, [(PROMPT, f"t{i}") for i in range(texts)]


def every_program():
    from naive_pooling import dimension, principle, program, question

    return program(principle("p", dimension("d", question("g", "gate"), question("x", "graded"))))


def test_the_failure_budget_counts_all_threads_together_and_the_error_comes_once():
    dead = ScriptedJudge(lambda q: Verdict(question_id=q.question.id, outcome=Outcome.FAILED, reason="gone"))
    with Store(":memory:") as store:
        engine, items = scoring(dead, store)
        with Ahead(engine, workers=4) as ahead:
            for item in items:
                ahead.submit([item])
            with pytest.raises(JudgeError, match=r"of the last \d+ calls failed"):
                ahead.join()
            ahead.join()  # nothing is left to say
        assert 50 <= len(dead.asked) <= 54  # each thread may have had one answer under way
        assert store.count_verdicts() == (0, len(dead.asked)) and engine.usage.failed == len(dead.asked)


def test_a_cap_is_met_exactly_by_threads():
    judge = ScriptedJudge(lambda q: Label.TRUE if q.question.kind == "gate" else Label.A)
    with Store(":memory:") as store:
        engine, items = scoring(Purse(Budget(calls=33), store).meter(judge, None), store)
        with Ahead(engine, workers=4) as ahead:
            for item in items:
                ahead.submit([item])
            ahead.join()
            with pytest.raises(BudgetError, match=r"cap of 33 leaves .* so far: 33 calls"):
                engine.score(items)
        assert len(judge.asked) == 33 == store.count_verdicts()[0]


def test_closing_leaves_no_thread_and_asks_no_more():
    asked, go_on = threading.Event(), threading.Event()

    def slow(query):
        asked.set()
        go_on.wait(10)
        return Label.TRUE if query.question.kind == "gate" else Label.A

    judge = ScriptedJudge(slow)
    with Store(":memory:") as store:
        engine, items = scoring(judge, store)
        with pytest.raises(KeyboardInterrupt), Ahead(engine, workers=2) as ahead:
            ahead.submit(items)
            asked.wait(10)
            threading.Timer(0.05, go_on.set).start()
            raise KeyboardInterrupt
        assert len(judge.asked) == 1 == store.count_verdicts()[0]  # what was under way is kept
    assert not [t for t in threading.enumerate() if t.name.startswith("judge-ahead")]
