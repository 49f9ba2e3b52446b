import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import run_for
from fake_server import FakeServer, completion, error
from rubrica.cli import main
from rubrica.core.config import dump_yaml
from rubrica.core.data import load_prompts, load_texts
from rubrica.core.programs import Dimension, Principle, Program
from rubrica.core.run import claim
from rubrica.core.store import Store
from rubrica.models.reward import HFRewardModel
from rubrica.recipes.reward_scores import RewardScore
from rubrica.recipes.score import accuracy
from serving import BRIEF, CLEAR, GATE, PROGRAM, TOTALS, rule
from tiny import tiny_reward_model


@pytest.fixture
def place(tmp_path: Path, fake_server: FakeServer) -> Path:
    fake_server.answer = rule
    (tmp_path / "program.yaml").write_text(dump_yaml(PROGRAM))
    (tmp_path / "judge.yaml").write_text(f"spec: openai:m@{fake_server.url}\nretries: 0\ntimeout: 2\n")
    return tmp_path


def run(place: Path, capsys, rows: list[dict], *flags: str, code: int = 0) -> str:
    (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"--program": "program.yaml", "--judge": "judge.yaml", "--input": "in.jsonl", "--out": "out"}
    argv = [part for flag, name in names.items() for part in (flag, str(place / name))]
    said = run_for(code, capsys, "score", *argv, *flags)
    return said.out if code != 2 else said.err


def texts(*words: str) -> list[dict]:
    return [{"id": f"t{n}", "prompt": "Hi", "response": word} for n, word in enumerate(words)]


def pairs(*words: tuple[str, str]) -> list[dict]:
    return [{"id": f"q{n}", "prompt": "Hi", "chosen": a, "rejected": b} for n, (a, b) in enumerate(words)]


def test_texts_get_their_totals_and_a_second_run_asks_nothing(place, fake_server, capsys):
    rows = texts("good", "rude", "dull", "good")
    found = json.loads(run(place, capsys, rows, "--json"))
    assert (found["texts"], found["without_total"], found["accuracy"]) == (4, 0, None)
    assert found["mean"]["value"] == pytest.approx((0.75 - 0.25 - 0.25 + 0.75) / 4)
    lines = [json.loads(line) for line in (place / "out/scorecards.jsonl").read_text().splitlines()]
    assert [(r["id"], r["card"]["total"]) for r in lines] == [
        (f"t{n}", TOTALS[row["response"]]) for n, row in enumerate(rows)
    ]
    # Three distinct texts: 3 + 3 questions, and 2 for the rude one, whose clarity cannot matter.
    assert len(fake_server.requests) == found["usage"]["asked"] == 8
    again = json.loads(run(place, capsys, rows, "--json"))
    assert len(fake_server.requests) == 8 and again["mean"] == found["mean"]
    run(place, capsys, rows, "--full")
    assert len(fake_server.requests) == 9


class TestRewardModel:
    def rewarded(self, capsys, place: Path, rows: list[dict], *flags: object, code: int = 0):
        (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        argv = ["--input", place / "in.jsonl", "--out", place / "rewards", *flags]
        return run_for(code, capsys, "score", *map(str, argv))

    def test_scores_are_the_models_own_and_kept(self, tmp_path: Path, capsys):
        model = tiny_reward_model(tmp_path / "m")
        rows = [
            {"id": f"t{n}", "prompt": "Hi", "response": text}
            for n, text in enumerate(("good", "bad " * 3000))
        ]
        source = tmp_path / "reward.yaml"
        source.write_text(f"model: {model}\ndtype: float32\n")
        said = self.rewarded(capsys, tmp_path, rows, "--reward-model", source, "--json")
        found = json.loads(said.out)
        scorer = HFRewardModel(model, dtype="float32")
        (expected,) = (
            score
            for _, score in scorer.score(
                [(given.prompt, "good") for given in load_texts(tmp_path / "in.jsonl")[:1]]
            )
        )
        assert found["mean"]["value"] == pytest.approx(expected, abs=1e-5)
        assert (found["texts"], found["without_score"], found["accuracy"]) == (2, 1, None)
        assert "without a score: 1 of them" in said.err and "tokens" in said.err
        lines = [json.loads(line) for line in (tmp_path / "rewards/scores.jsonl").read_text().splitlines()]
        assert [(line["id"], line["score"] is None) for line in lines] == [("t0", False), ("t1", True)]
        with Store(tmp_path / "rewards/store.sqlite") as store:
            assert len(store.all("reward-score", RewardScore)) == 1

    def test_pairs_have_an_accuracy(self, tmp_path: Path, capsys):
        model = tiny_reward_model(tmp_path / "m")
        scorer = HFRewardModel(model, dtype="float32")
        [given] = load_prompts(write_rows(tmp_path / "p.jsonl", [{"id": "p", "prompt": "Hi"}]))
        scores = dict(scorer.score([(given, "good"), (given, "dull")]))
        better, worse = ("good", "dull") if scores[0] > scores[1] else ("dull", "good")
        rows = pairs((better, worse), (worse, better), (better, worse))
        found = json.loads(self.rewarded(capsys, tmp_path, rows, "--reward-model", model, "--json").out)
        accuracy = found["accuracy"]
        assert (accuracy["wins"], accuracy["losses"], accuracy["strict"]["value"]) == (
            2,
            1,
            pytest.approx(2 / 3),
        )
        assert "2 wins, 0 ties, 1 loss" in self.rewarded(capsys, tmp_path, rows, "--reward-model", model).out

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("--judge", "lab"), "--judge: has no use with --reward-model"),
            (("--program", "lab"), "--program: has no use with --reward-model"),
            (("--max-calls", "3"), "--max-calls: has no use with --reward-model"),
            (("--from", "runs/x"), "--from: has no use with --reward-model"),
        ],
    )
    def test_flags_of_a_judge_are_refused(self, tmp_path: Path, capsys, flags: tuple[str, ...], said: str):
        assert said in self.rewarded(capsys, tmp_path, texts("a"), "--reward-model", "m", *flags, code=2).err

    def test_a_wrong_name_is_named(self, tmp_path: Path, capsys):
        err = self.rewarded(capsys, tmp_path, texts("a"), "--reward-model", "vllm:m", code=2).err
        assert "--reward-model.model: 'vllm:m'; expected vllm:MODEL@URL" in err


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_edit_asks_the_changed_question_once_a_text_and_a_rename_nothing(place, fake_server, capsys):
    rows = texts("good", "dull")
    run(place, capsys, rows, "--full")
    asked = len(fake_server.requests)
    assert asked == 2 * 3

    def write(*dimensions: Dimension) -> None:
        principle = PROGRAM.principles[0].model_copy(update={"dimensions": dimensions})
        changed = PROGRAM.model_copy(update={"version": "2", "principles": (principle,)})
        (place / "program.yaml").write_text(dump_yaml(changed))

    tone, length = PROGRAM.principles[0].dimensions
    # other order, other ids, other titles, other clauses, another tree: nothing is asked
    renamed = [q.model_copy(update={"id": f"new.{q.id}", "clause": "else"}) for q in (BRIEF, CLEAR, GATE)]
    write(Dimension(id="new", title="All", questions=tuple(renamed)))
    run(place, capsys, rows, "--full")
    assert len(fake_server.requests) == asked
    # one question in other words: one call a text
    edited = BRIEF.model_copy(update={"text": "Now, How brief is it?"})
    write(tone, length.model_copy(update={"questions": (edited,)}))
    run(place, capsys, rows, "--full")
    assert len(fake_server.requests) == asked + 2
    assert all(edited.text in str(request["messages"]) for request in fake_server.requests[-2:])
    # and back again: all of it is known
    write(tone, length)
    run(place, capsys, rows, "--full")
    assert len(fake_server.requests) == asked + 2


def test_pairs_give_accuracy_with_and_without_ties_and_unknown_apart(place, capsys):
    rows = pairs(("good", "rude"), ("good", "dull"), ("rude", "dull"), ("rude", "good"), ("good", "lost"))
    found = json.loads(run(place, capsys, rows, "--json"))["accuracy"]
    counts = {name: found[name] for name in ("wins", "ties", "losses", "unknown")}
    assert counts == {"wins": 2, "ties": 1, "losses": 1, "unknown": 1}
    # Wilson, 95 %, 2 of 4 and 3 of 4, computed by hand from (p + z2/2n -+ z sqrt(pq/n + z2/4n2)) / (1 + z2/n).
    strict, ties = found["strict"], found["with_ties"]
    assert [strict[k] for k in ("value", "low", "high", "n")] == pytest.approx(
        [0.5, 0.1500, 0.8500, 4], abs=1e-4
    )
    assert [ties[k] for k in ("value", "low", "high", "n")] == pytest.approx(
        [0.75, 0.3006, 0.9544, 4], abs=1e-4
    )


def test_the_printed_report_names_every_number(place, capsys):
    printed = run(place, capsys, pairs(("good", "rude"), ("good", "lost")))
    assert "4 texts, 1 without a total" in printed
    assert "mean total +0.417 [-1.000, +1.000], n=3" in printed
    assert "1 win, 0 ties, 0 losses; 1 pair without two totals, in no rate" in printed
    assert "strict accuracy 100.0% [20.7%, 100.0%], n=1" in printed


def test_explain_shows_every_answer_of_one_text(place, fake_server, capsys):
    printed = run(place, capsys, texts("good", "rude", "lost"), "--explain", "t1")
    lines = [line.strip(" │├└─") for line in printed.splitlines()]
    assert lines == [
        "t1  total -0.250  mean",
        "Manners  -0.250  mean",
        "Tone  -1.000  min",
        "FALSE 1.00 Is it polite?",
        "A 1.00 How clear is it?",
        "Length  +0.500  min",
        "B 1.00 How brief is it?",
    ]
    assert len(fake_server.requests) == 3, "only the text that was asked about is judged"
    assert not (place / "out/scorecards.jsonl").exists()


def test_explain_of_a_pair_shows_both_and_of_a_failure_its_reason(place, capsys):
    printed = run(place, capsys, pairs(("good", "lost"), ("good", "dull")), "--explain", "q0")
    assert "q0/chosen  total +0.750" in printed and "q0/rejected  no total" in printed
    assert "Tone  unknown" in printed and "(failed) Is it polite?" in printed and "HTTP 400" in printed
    assert "q1" not in printed


def test_explain_wraps_what_is_longer_than_the_terminal(place, fake_server, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    said = " ".join(f"word{n}" for n in range(25))
    fake_server.answer = lambda body: error(400, said)
    printed = run(place, capsys, texts("good"), "--explain", "t0", code=1)
    assert max(map(len, printed.splitlines())) <= 60
    assert said in " ".join(printed.replace("│", " ").split())


def test_explain_says_why_a_pair_was_left_out(place, capsys):
    printed = run(place, capsys, pairs(("good", "rude"), ("good", "good")), "--explain", "q1", code=2)
    assert "--explain 'q1': that pair was left out: " in printed
    assert "in.jsonl:2: chosen and rejected are equal" in printed


def test_terminal_escapes_of_a_judge_are_not_printed(place, fake_server, capsys):
    fake_server.answer = lambda body: error(400, "\x1b[31mred\x1b]0;title\x07")
    printed = run(place, capsys, texts("good"), "--explain", "t0", code=1)
    assert "[31mred" in printed and "\x1b" not in printed and "\x07" not in printed


def test_what_broke_off_goes_on_and_keeps_what_was_answered(place, fake_server, capsys):
    rows = texts("good", "dull")
    fake_server.answer = lambda body: (
        rule(body) if "> dull" not in body["messages"][1]["content"] else error(500, "down")
    )
    found = json.loads(run(place, capsys, rows, "--json"))
    assert found["without_total"] == 1 and found["mean"]["value"] == 0.75
    before = len(fake_server.requests)
    fake_server.answer = rule
    assert json.loads(run(place, capsys, rows, "--json"))["without_total"] == 0
    assert len(fake_server.requests) == before + 3
    with Store(place / "out/store.sqlite", read_only=True) as store:
        assert store.count_verdicts()[0] == 6


def test_no_total_at_all_is_exit_1(place, fake_server, capsys):
    fake_server.answer = lambda body: completion("Ich weiss es nicht.")
    printed = run(place, capsys, texts("good"), code=1)
    assert "1 text, 1 without a total" in printed


def test_answers_that_are_all_na_are_the_judges_and_not_the_programs(place, fake_server, capsys):
    path = place / "program.yaml"
    one = Principle(id="p", title="P", dimensions=(Dimension(id="d", title="D", questions=(GATE,)),))
    path.write_text(dump_yaml(Program(name="n", constitution="c", principles=(one,))))
    fake_server.answer = lambda body: completion("NA", {"NA": 1.0})
    (place / "in.jsonl").write_text(json.dumps(texts("good")[0]))
    named = ["--judge", place / "judge.yaml", "--input", place / "in.jsonl", "--out", place / "o"]
    with pytest.raises(SystemExit) as leaving:
        main(["score", "--program", *map(str, [path, *named])])
    told = capsys.readouterr().err
    assert leaving.value.code == 1 and "no text got a total: the judge answered NA to all" in told


def test_a_dead_judge_is_one_line_and_exit_1(place, fake_server, capsys):
    fake_server.stop()
    run(place, capsys, texts("good"), code=1)


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        (texts("good"), ["--explain", "t9"], "no such id in the input (did you mean 't0'?)"),
        ([{"prompt": "Hi"}], [], "in.jsonl:1: no response: expected a column response"),
        ([], [], "in.jsonl: empty"),
        (texts("good"), ["--program", "smal"], "smal"),
        (texts("good"), ["--judge", "labb"], "did you mean 'lab'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(place, capsys, rows, flags, said):
    printed = run(place, capsys, rows, *flags, code=2)
    assert said in printed and printed.startswith("error: ")


def test_a_training_run_is_not_written_into(place, capsys):
    (place / "out").mkdir()
    (place / "out/recipe.yaml").write_text("name: x\n")
    assert "holds a training run" in run(place, capsys, texts("good"), code=2)
    assert [p.name for p in (place / "out").iterdir()] == ["recipe.yaml"]


def test_pairs_that_cannot_be_compared_are_named_and_left_out(place, capsys):
    found = json.loads(run(place, capsys, pairs(("good", "rude"), ("good", "good")), "--json"))
    assert found["texts"] == 2 and "in.jsonl:2: chosen and rejected are equal" in found["skipped"][0]


@given(st.lists(st.tuples(*[st.none() | st.sampled_from([-1.0, 0.1, 0.5])] * 2), max_size=12))
def test_every_pair_is_counted_once(totals):
    found = accuracy([total for pair in totals for total in pair])
    known = [(a, b) for a, b in totals if a is not None and b is not None]
    assert found.unknown == len(totals) - len(known)
    assert (found.wins, found.ties, found.losses) == (
        sum(a > b for a, b in known),
        sum(a == b for a, b in known),
        sum(a < b for a, b in known),
    )
    assert (found.strict is None) is (not known)


def test_two_processes_in_one_folder_do_not_pay_twice(place, fake_server, capsys):
    run(place, capsys, texts("good"))
    asked = len(fake_server.requests)
    with claim(place / "out"):
        said = run(place, capsys, texts("good", "rude"), code=2)
        assert "out: another process is at work in it" in said
        assert len(fake_server.requests) == asked
    run(place, capsys, texts("good", "rude"))
    assert len(fake_server.requests) > asked
