"""Cost and agreement of two ways of asking, against counts by hand."""

import json

import pytest
from test_score_cli import PROGRAM

import command_line
from fake_server import completion
from rubrica.bench.modes import agreement_of, compare_ways
from rubrica.core.config import dump_yaml
from rubrica.core.errors import UsageError
from rubrica.core.programs import Question
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Query, Verdict
from rubrica.judges.server import ServerJudge
from tiny import tiny_checkpoint

PROMPT = Prompt(id="p", messages=(Message(role="user", content="Hi"),))
QUESTIONS = [Question(id=f"q{n}", kind="gate", text=f"Is it {n}?", clause="c") for n in range(2)]
QUERIES = [Query(prompt=PROMPT, text=text, question=q) for text in ("a", "b", "c") for q in QUESTIONS]


def verdicts(labels):
    """T, F or a dot for no answer, in the order of the queries."""
    known = {"T": Label.TRUE, "F": Label.FALSE, ".": None}
    return [
        Verdict(
            question_id=query.question.id,
            outcome=Outcome.ANSWERED if known[label] else Outcome.FAILED,
            label=known[label],
        )
        for query, label in zip(QUERIES, labels, strict=True)
    ]


def test_agreement_over_what_both_answer_with_chance_taken_within_a_question():
    found = agreement_of(QUERIES, verdicts("TTFF.T"), verdicts("TFFFTT"))
    assert found.equal.value == pytest.approx(4 / 5) and found.equal.n == 5
    # question 0: T F against T F, no disagreement, expected 2 pairs x 1/2; question 1: T F T against F F T,
    # 1 disagreement, by chance 3 x (2/3 x 2/3 + 1/3 x 1/3) = 5/3
    assert found.kappa.value == pytest.approx(1 - 1 / (1 + 5 / 3))
    assert agreement_of(QUERIES, verdicts("TTTTTT"), verdicts("TTTTTT")).kappa.value is None
    assert agreement_of(QUERIES, verdicts("TT...."), verdicts("..TTTT")) is None


def test_ways_through_a_server_are_counted(fake_server):
    def answer(body):
        if body["max_tokens"] == 1:
            return completion("TRUE", {"TRUE": 0.9, "FALSE": 0.1})
        label = "FALSE" if "> b" in body["messages"][1]["content"] else "TRUE"
        return completion(json.dumps({"reason": "So it is.", "answer": label}))

    fake_server.answer = answer
    ways = {
        mode: lambda mode=mode: ServerJudge("m", fake_server.url, secret="s", mode=mode)
        for mode in ("label", "reason")
    }
    seen = []
    label, reason = compare_ways(ways, QUERIES, lambda *told: seen.append(told))
    assert (label.name, label.questions, label.unanswered, label.calls, label.again) == ("label", 6, 0, 6, 0)
    assert label.agreements == {} and reason.calls == 6
    assert reason.completion_tokens == 6 and reason.prompt_tokens == 66
    assert reason.agreements["label"].equal.value == pytest.approx(4 / 6)
    assert seen[0] == ("label", 1, 6) and seen[-1] == ("reason", 6, 6)


def test_a_list_that_is_never_answered_is_told_apart_from_one_that_agrees(fake_server):
    fake_server.answer = lambda body: completion("TRUE", {"TRUE": 0.9, "FALSE": 0.1})
    ways = {
        str(size): lambda size=size: ServerJudge("m", fake_server.url, secret="s", questions_per_call=size)
        for size in (1, 2)
    }
    one, two = compare_ways(ways, QUERIES)
    lists = two.calls - 6
    assert lists > 0 and two.agreements["1"].equal.value == 1.0
    assert (one.again, two.again) == (0, 2 * lists)


def test_every_way_is_compared_with_all_earlier_ones(fake_server):
    said = {"one": "aaa", "two": "aab", "three": "abb"}  # of which texts each says TRUE: T T T, T T F, T F F

    def answer(body):
        text = next(t for t in "abc" if f"> {t}" in body["messages"][1]["content"])
        label = "TRUE" if said[body["model"]]["abc".index(text)] == "a" else "FALSE"
        return completion(label, {label: 1.0})

    fake_server.answer = answer
    ways = {name: lambda name=name: ServerJudge(name, fake_server.url, secret="s") for name in said}
    equal = {
        (way.name, earlier): found.equal.value
        for way in compare_ways(ways, QUERIES)
        for earlier, found in way.agreements.items()
    }
    assert equal == pytest.approx({("two", "one"): 2 / 3, ("three", "one"): 1 / 3, ("three", "two"): 2 / 3})


def test_the_same_way_twice_is_no_comparison(fake_server):
    fake_server.answer = lambda body: completion("TRUE", {"TRUE": 1.0})
    ways = dict.fromkeys(("one", "two"), lambda: ServerJudge("m", fake_server.url, secret="s"))
    with pytest.raises(UsageError, match="two: the same judge in the same mode as one"):
        compare_ways(ways, QUERIES)


@pytest.fixture
def place(tmp_path):
    tiny_checkpoint(tmp_path / "ck", context=1400)
    (tmp_path / "judge.yaml").write_text(f"spec: local:{tmp_path / 'ck'}\nreason_tokens: 5\n")
    (tmp_path / "program.yaml").write_text(dump_yaml(PROGRAM))
    rows = [{"id": str(n), "prompt": "Hi", "response": f"Good day, number {n}."} for n in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(place, capsys, *flags, judge="judge.yaml"):
    given = ["--judge", str(place / judge), "--program", str(place / "program.yaml")]
    return command_line.run(capsys, "bench", "modes", *given, "--input", place / "in.jsonl", *flags)


def test_bench_modes_of_one_local_judge(place, capsys):
    code, out, _ = run(place, capsys, "--limit", "3", "--json")
    found = json.loads(out)
    label, reason = found["ways"]
    assert (code, found["texts"]) == (0, 3)
    assert (label["name"], label["questions"], label["completion_tokens"]) == ("label", 9, 0)
    assert 9 <= reason["completion_tokens"] <= 45 and reason["prompt_tokens"] > label["prompt_tokens"]
    assert label["calls"] < reason["calls"] <= 1 + 5 + 9
    assert reason["agreements"]["label"]["equal"]["n"] == 9
    code, out, _ = run(place, capsys)
    assert code == 0 and "4 texts, 3 questions each" in out
    assert "against label:" in out and "with label: same label" in out


def test_bench_modes_of_two_judges_and_of_wrong_ones(place, capsys):
    (place / "other.yaml").write_text((place / "judge.yaml").read_text() + "mode: reason\n")
    code, out, _ = run(place, capsys, "--judge", str(place / "other.yaml"), "--json")
    names = [way["name"] for way in json.loads(out)["ways"]]
    assert code == 0 and names == [str(place / "judge.yaml"), str(place / "other.yaml")]
    code, _, err = run(place, capsys, "--judge", str(place / "judge.yaml"))
    assert code == 2 and "the same judge twice" in err
    cascade = f"cascade: {{cheap: lab, expensive: {place / 'judge.yaml'}, thresholds: t.json}}"
    (place / "both.yaml").write_text(cascade)
    code, _, err = run(place, capsys, judge="both.yaml")
    assert code == 2 and "name another judge beside it" in err
    (place / "judge.yaml").write_text("spec: lab\n")
    code, _, err = run(place, capsys)
    assert code == 2 and "judge 'lab': mode 'reason'" in err
