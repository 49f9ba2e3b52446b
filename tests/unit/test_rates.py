"""What judging will cost: bounds that hold, rates that were measured, and nothing asked or written for a plan."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_server import Reply, completion
from naive_pooling import every_question, judged, verdict
from rubrica.cli import main
from rubrica.core.config import validate
from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.programs import Dimension, Principle, Program
from rubrica.core.prompts import Message, Prompt, PromptQuestion
from rubrica.core.records import Expense, Price
from rubrica.core.store import Store
from rubrica.judges.executor import Executor
from rubrica.models.scripted import ScriptedJudge
from rubrica.program.program import load_program
from rubrica.program.reward import RewardConfig
from rubrica.recipes.config import Recipe
from rubrica.recipes.forecast import forecast, judging_cost
from rubrica.recipes.rates import PROBE, measure, rates_of

RECIPE = {
    "name": "small",
    "policy": {"model": "p"},
    "program": "lab",
    "prompts": {"train": [{"lab": "benign"}]},
    "stages": [{"type": "grpo", "steps": 2, "prompts_per_step": 2, "group_size": 2}],
}


def reply(body: dict, **options: float) -> Reply:
    label = "A" if "A, B, C" in body["messages"][-1]["content"] else "TRUE"
    return completion(label, {label: 1.0}, **options)


@given(judged(most=7), st.data(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_what_is_asked_lies_between_the_bounds_of_the_plan(case, data, known):
    prog, first = case
    answers = {"": first, "t0": first}  # the empty text stands for questions about the prompt
    for text in ("t1", "t2"):
        others = {"gate": ("TRUE", "FALSE"), "graded": ("A", "D", "F", "NA")}
        answers[text] = {
            q.id: verdict(q.id, data.draw(st.sampled_from(others[q.kind]))) for q in every_question(prog)
        }
    prompt = Prompt(id="p", messages=(Message(role="user", content="p"),))
    items = [(prompt, text) for text in answers if text]
    with Store(":memory:") as store:
        judge = ScriptedJudge(lambda q: answers[q.text][q.question.id])
        engine = Executor(judge, store, program=prog, reward=RewardConfig(), retries=0)
        engine.score(items[:known])
        for full in (False, True):
            before = len(judge.asked)
            plan = engine.plan(items, full=full)
            assert len(judge.asked) == before
            engine.score(items, full=full)
            asked = len(judge.asked) - before
            assert plan.at_least <= asked <= plan.at_most
            assert not full or engine.asks_about_prompts or plan.at_least == plan.at_most == asked


def test_rates_are_means_over_calls_and_spared_questions_are_none():
    account = [
        Expense(
            judge="j", question_id="a", answer="TRUE", count=30, prompt_tokens=3000, completion_tokens=30
        ),
        Expense(judge="j", question_id="b", answer="A", count=10, prompt_tokens=2000, completion_tokens=10),
        Expense(judge="j", question_id="b", answer="skipped", count=20),
        Expense(judge="j", question_id="b", answer="cached", count=40),
    ]
    found = rates_of(account, "here", seconds=8.0)
    assert (found.calls, found.prompt_tokens, found.completion_tokens) == (40, 125, 1)
    assert (found.seconds, found.asked_share) == (0.2, 0.4)
    assert rates_of(account[2:], "here") is None
    recipe = validate(Recipe, {**RECIPE, "judge": "lab"}, "r")
    expected = forecast(recipe, load_program("lab"))
    cost = judging_cost(expected, Price(prompt=2, completion=10), found)
    calls = round(0.4 * 2 * 2 * 2 * 2 * expected.questions)  # steps x prompts x group x texts x questions
    assert cost.calls == calls and cost.tokens == 126 * calls
    assert cost.seconds == pytest.approx(0.2 * calls)
    assert cost.money == pytest.approx(calls * (125 * 2 + 10) / 1e6)


def test_a_probe_measures_a_real_server(fake_server):
    fake_server.answer = lambda body: reply(body, delay=0.05)
    recipe = validate(
        Recipe, {**RECIPE, "judge": {"spec": f"openai:m@{fake_server.url}", "concurrency": 1}}, "r"
    )
    prompts = [Prompt(id="p", messages=(Message(role="user", content="How do I brew tea?"),))]
    found = measure(recipe, load_program("lab"), prompts, {})
    assert found.calls == len(fake_server.requests) == PROBE
    assert (found.prompt_tokens, found.completion_tokens) == (11, 1)
    assert found.seconds >= 0.05
    assert "How do I brew tea? How do I brew tea?" in str(fake_server.requests[0])


def test_a_probe_asks_what_prompts_bring_along(fake_server):
    fake_server.answer = reply
    place = Dimension(id="d", title="d", instance=True, pool="weighted")
    only = Program(
        name="p", constitution="c", principles=(Principle(id="a", title="a", dimensions=(place,)),)
    )
    recipe = validate(Recipe, {**RECIPE, "judge": f"openai:m@{fake_server.url}"}, "r")
    own = [PromptQuestion(id=f"q{i}", text=f"Is {i} named?", weight=1.0) for i in range(3)]
    hello = (Message(role="user", content="Hello"),)
    assert measure(recipe, only, [Prompt(id="p", messages=hello, questions=own)], {}).calls == 3
    with pytest.raises(UsageError, match="nothing to measure"):
        measure(recipe, only, [Prompt(id="p", messages=hello)], {})


def test_a_probe_of_a_judge_that_cannot_answer_says_so(fake_server):
    fake_server.answer = lambda body: completion(None)
    recipe = validate(Recipe, {**RECIPE, "judge": f"openai:m@{fake_server.url}"}, "r")
    fake_server.stop()
    with pytest.raises(JudgeError, match="start the server"):
        prompts = [Prompt(id="p", messages=(Message(role="user", content="p"),))]
        measure(recipe, load_program("lab"), prompts, {})


def test_dry_run_of_score_counts_what_the_store_does_not_know(fake_server, tmp_path, capsys):
    fake_server.answer = reply
    judge, rows, out = tmp_path / "judge.yaml", tmp_path / "rows.jsonl", tmp_path / "out"
    judge.write_text(f"spec: openai:m@{fake_server.url}\nprice: {{prompt: 1, completion: 2}}\n")
    rows.write_text("".join(json.dumps({"prompt": "p", "response": f"r{i}"}) + "\n" for i in range(3)))
    command = [
        "score",
        "--program",
        "lab",
        "--judge",
        str(judge),
        "--input",
        str(rows),
        "--out",
        str(out),
        "--full",
    ]

    def run(*more):
        with pytest.raises(SystemExit) as left:
            main([*command, *more])
        return left.value.code, capsys.readouterr()

    def planned():
        code, printed = run("--dry-run", "--json")
        assert code == 0
        return json.loads(printed.out)

    questions = forecast(validate(Recipe, {**RECIPE, "judge": "lab"}, "r"), load_program("lab")).questions
    assert planned()["plan"]["at_most"] == 3 * questions
    assert not out.exists() and fake_server.requests == []
    assert run("--max-calls", "10")[0] == 1
    found = planned()
    assert found["plan"]["at_least"] == found["plan"]["at_most"] == 3 * questions - 10
    assert found["cost"][1]["tokens"] == 12 * (3 * questions - 10)  # as the ten calls before
    assert found["cost"][1]["money"] == pytest.approx((11 + 2) * (3 * questions - 10) / 1e6)
    assert run()[0] == 0
    assert len(fake_server.requests) == 3 * questions
    assert planned()["plan"]["at_most"] == 0


def test_the_command_line_of_a_probe(fake_server, tmp_path, capsys):
    fake_server.answer = reply
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\npolicy: {model: p}\nprogram: lab\nprompts: {train: [{lab: benign}]}\n"
        f"judge: {{spec: 'openai:m@{fake_server.url}', price: {{prompt: 1, completion: 2}}}}\n"
        "stages: [{type: grpo, steps: 2, prompts_per_step: 2, group_size: 2}]\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["align", str(recipe), "--dry-run", "--probe", "--json", "--out", str(tmp_path / "o")])
    assert left.value.code == 0 and not (tmp_path / "o").exists()
    bound, rated = json.loads(capsys.readouterr().out)["cost"]
    assert bound["basis"] == "at most" and bound["seconds"] is None and bound["calls"] == rated["calls"]
    assert rated["basis"] == "at the rates of a probe of 24 questions"
    assert rated["tokens"] == 12 * rated["calls"] and rated["money"] == pytest.approx(13e-6 * rated["calls"])
    with pytest.raises(SystemExit) as left:
        main(["align", str(recipe), "--probe"])
    assert left.value.code == 2
