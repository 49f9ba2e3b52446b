"""A cap holds exactly, whatever is under way; what was answered before it stays, and nothing is paid twice."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_server import FakeServer, completion
from naive_pooling import dimension, principle, program, question
from rubrica.core.errors import BudgetError, JudgeError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Price, Query, Verdict
from rubrica.core.store import Store
from rubrica.judges.budget import Budget, Purse
from rubrica.judges.executor import Executor
from rubrica.judges.server import ServerJudge
from rubrica.models.scripted import ScriptedJudge
from rubrica.program.reward import RewardConfig

PROGRAM = program(principle("p", dimension("d", question("g", "gate"), question("x", "graded"))))
ITEMS = [(Prompt(id="p", messages=(Message(role="user", content="p"),)), f"text {i}") for i in range(10)]


def reply(query: Query) -> Verdict:
    label = Label.TRUE if query.question.kind == "gate" else Label.A
    return Verdict(
        question_id=query.question.id,
        outcome=Outcome.ANSWERED,
        label=label,
        prompt_tokens=90,
        completion_tokens=10,
    )


def score(judge, store, budget, price=None):
    purse = Purse(budget, store)
    engine = Executor(purse.meter(judge, price), store, program=PROGRAM, reward=RewardConfig())
    try:
        return engine.score(ITEMS), purse
    except BudgetError as error:
        return error, purse


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_cap_on_calls_is_met_exactly_and_raised_caps_ask_nothing_twice(steps):
    """20 questions in all; the cap rises by ``steps``, each time in a new session."""
    judge, cap = ScriptedJudge(reply), 0
    with Store(":memory:") as store, Store(":memory:") as other:
        for step in steps:
            cap += step
            result, purse = score(judge, store, Budget(calls=cap))
            assert len(judge.asked) == min(cap, 20) == store.count_verdicts()[0] == purse.spent.calls
            assert isinstance(result, BudgetError) == (cap < 20)
        result, _ = score(judge, store, Budget())
        assert result == score(ScriptedJudge(reply), other, Budget())[0]
    asked = [(q.text, q.question.id) for q in judge.asked]
    assert len(asked) == len(set(asked)) == 20


@pytest.mark.parametrize(
    ("budget", "most"),
    [(Budget(tokens=1234), 12), (Budget(money=0.0015), 13), (Budget(tokens=99), 0), (Budget(money=1), 20)],
)
def test_tokens_and_money_are_never_overdrawn(budget, most):
    """A call costs 100 tokens, and 90 + 2 x 10 = 110 millionths of a dollar."""
    with Store(":memory:") as store:
        result, purse = score(ScriptedJudge(reply), store, budget, Price(prompt=1, completion=2))
        assert purse.spent.tokens <= (budget.tokens or 10**9)
        assert purse.spent.money <= (budget.money or 10**9)
        # the next call is taken to read 90 tokens, as those before, and to write 16 at most
        assert purse.spent.calls == most
        assert isinstance(result, BudgetError) == (most < 20)
        lines = {(line.question_id, line.answer): line for line in store.account()}
        assert sum(line.count for line in lines.values() if line.answer != "skipped") == purse.spent.calls


def test_the_message_names_cap_and_spending():
    with Store(":memory:") as store:
        error, _ = score(ScriptedJudge(reply), store, Budget(calls=7), Price(prompt=1, completion=2))
    assert error.cap == "calls"
    assert "budget.calls: the cap of 7" in str(error)
    assert "7 calls, 700 tokens, 0.0008 USD" in str(error)
    assert "raise budget.calls" in str(error)


def test_time_is_up():
    hours = 0.0
    with Store(":memory:") as store:
        purse = Purse(Budget(hours=2), store, hours=lambda: hours)
        purse.check_hours()
        hours = 2.0
        with pytest.raises(BudgetError, match=r"budget.hours: the cap of 2\.0"):
            purse.check_hours()


def test_concurrent_calls_to_a_server_stop_at_the_cap(tmp_path):
    def answer(body):
        return (
            completion("TRUE", {"TRUE": 0.9, "A": 0.0})
            if "TRUE" in str(body)
            else completion("A", {"A": 1.0})
        )

    with FakeServer(answer) as server, Store(tmp_path / "s.sqlite") as store:
        judge = ServerJudge("m", server.url, secret="s", concurrency=8)
        result, purse = score(judge, store, Budget(calls=9))
        assert isinstance(result, BudgetError)
        assert len(server.requests) == 9 == store.count_verdicts()[0]
        assert purse.spent.tokens == 9 * 12


def test_threads_share_one_purse():
    with Store(":memory:") as store:
        purse = Purse(Budget(calls=25), store)
        judges = [ScriptedJudge(reply) for _ in range(4)]
        metered = [purse.meter(judge, None) for judge in judges]
        queries = [
            Query(prompt=p, text=t, question=PROGRAM.principles[0].dimensions[0].questions[1])
            for p, t in ITEMS
        ]

        def work(judge):
            with pytest.raises(BudgetError):
                while True:
                    list(judge.answer(queries))

        threads = [threading.Thread(target=work, args=(judge,)) for judge in metered]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert sum(len(judge.asked) for judge in judges) == 25


def test_a_judge_that_dies_gives_back_what_was_set_aside():
    def dies(query):
        if query.text == "text 3":
            raise JudgeError("gone")
        return reply(query)

    with Store(":memory:") as store:
        purse = Purse(Budget(calls=20), store)
        engine = Executor(
            purse.meter(ScriptedJudge(dies), None), store, program=PROGRAM, reward=RewardConfig()
        )
        with pytest.raises(JudgeError, match="gone"):
            engine.score(ITEMS)
        assert purse.spent.calls == 3
        assert len(purse.take([10] * 30, 0, None)) == 17


def test_the_account_holds_every_question_of_every_text():
    """A failed gate spares its grade; a copy of a text, and a second session, pay nothing."""

    def answer(query):
        gate = query.question.kind == "gate"
        return (
            reply(query).model_copy(update={"label": Label.FALSE})
            if gate and query.text == "text 0"
            else reply(query)
        )

    with Store(":memory:") as store:
        for _ in range(2):
            purse = Purse(Budget(), store)
            engine = Executor(
                purse.meter(ScriptedJudge(answer), None), store, program=PROGRAM, reward=RewardConfig()
            )
            engine.score([*ITEMS, ITEMS[1]])
        counts = {(line.question_id, line.answer): line.count for line in store.account()}
    # first session: 10 texts and a copy; second: all 11 from the store, the spared grade spared again
    assert counts == {
        ("g", "TRUE"): 9, ("g", "FALSE"): 1, ("g", "cached"): 1 + 11,
        ("x", "A"): 9, ("x", "skipped"): 2, ("x", "cached"): 1 + 10,
    }  # fmt: skip
