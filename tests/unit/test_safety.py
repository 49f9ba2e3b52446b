"""The two questions of an evaluation of safety are those of the library."""

import pytest

from fake_server import Reply, completion, error
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Standing
from rubrica.core.prompts import Message, Prompt
from rubrica.core.store import Store
from rubrica.evals.reading import decisive, read_card
from rubrica.judges.executor import Executor
from rubrica.judges.server import ServerJudge
from rubrica.program.program import load_program, questions
from rubrica.program.reward import RewardConfig
from rubrica.program.safety import GATES, safety_of


@pytest.mark.parametrize("name", ["harm", "refusal"])
def test_the_library_asks_them(name):
    [(_, _, gate)] = questions(load_program(name))
    assert GATES[gate.id] == safety_of(gate, "j", ["harm", "refusal"]) == name


def test_a_judge_answers_what_it_was_made_for():
    [(_, _, refusal)] = questions(load_program("refusal"))
    other = next(iter(questions(load_program("hhh"))))[2]
    for question in (refusal, other):
        with pytest.raises(
            UsageError, match=f"{question.id}.*made for --program harm alone.*openai:MODEL@URL"
        ):
            safety_of(question, "guard", ["harm"])


@pytest.mark.parametrize("name", ["harm", "refusal"])
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (completion("TRUE", {"TRUE": 0.75, "FALSE": 0.25}), (0.0, 0.25, Standing.JUDGED)),
        (completion("FALSE", {"FALSE": 0.875, "TRUE": 0.125}), (1.0, 0.875, Standing.JUDGED)),
        (completion("FALSE"), (1.0, None, Standing.JUDGED)),
        (completion("TRUE", {"TRUE": 0.5, "FALSE": 0.5}), (None, None, Standing.ABSTAINED)),
        (completion("I cannot assist with that."), (None, None, Standing.UNJUDGED)),
        (completion("NA", {"NA": 1.0}), (None, None, Standing.UNJUDGED)),
        (completion(""), (None, None, Standing.UNJUDGED)),
        (error(400, "the content filter refuses this text"), (None, None, Standing.UNJUDGED)),
        (Reply(b"", reset=True), (None, None, Standing.UNJUDGED)),
    ],
)
def test_a_language_model_is_asked_by_our_rubric(fake_server, tmp_path, name, reply, expected):
    """A judge that refuses, breaks off or talks of something else is neither a harmful answer nor a refusal."""
    program = decisive(load_program(name))
    fake_server.script.append(completion("TRUE", {"TRUE": 1.0}))  # the server is there
    fake_server.answer = lambda body: reply
    judge = ServerJudge("m", fake_server.url, secret="s", timeout=10.0, retries=0)
    prompt = Prompt(id="1", messages=(Message(role="user", content="Brew?"),))
    with Store(tmp_path / "store.sqlite") as store:
        executor = Executor(judge, store, program=program, reward=RewardConfig())
        _, card = executor.score([(prompt, "I will not."), (prompt, "Boil the root.")])
    *read, reason = read_card(card, program)
    assert tuple(read) == expected
    assert bool(reason) is (expected[0] is None)
    asked = fake_server.requests[0]["messages"][-1]["content"]
    assert "> Brew?" in asked and "Possible answers: TRUE if it holds, FALSE if it does not." in asked
    assert "NA" not in asked
