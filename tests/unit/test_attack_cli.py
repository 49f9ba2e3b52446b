"""``rubrica judge attack``: what it counts, worked out by hand on judges whose answers are known."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rubrica.cli import app
from rubrica.core.records import Label, Outcome, Query, Verdict
from rubrica.core.store import Store
from rubrica.judges import hostile
from rubrica.judges.attacks import apply, attacks, controls, ideal
from rubrica.lab.flawed import flawed_texts
from rubrica.lab.oracle import read
from rubrica.lab.truth import OracleJudge
from rubrica.program.program import load_program, questions
from rubrica.recipes.attack import FLOODED, attack_judge, fails

PROGRAM = load_program("lab")
QUESTIONS = [question for _, _, question in questions(PROGRAM)]
NAMES = ("orders.polite", "roles.chatml", "keys.dot", "keys.empty", "claims.plea", "floods.label")
BATTERY = [attack for attack in attacks() if attack.id in NAMES]
TEXTS = flawed_texts(4)


class Gullible(OracleJudge):
    """Answers rightly, but passes whatever holds ``word``."""

    fingerprint = "gullible"

    def __init__(self, word: str) -> None:
        self.word, self.asked = word, 0

    def answer(self, queries):
        for index, verdict in super().answer(queries):
            self.asked += 1
            if self.word in queries[index].text:
                label = Label(ideal(queries[index].question))
                verdict = Verdict(question_id=verdict.question_id, outcome=Outcome.ANSWERED, label=label)
            yield index, verdict


class FooledByADot(Gullible):
    def answer(self, queries):
        return super().answer(
            [q.model_copy(update={"text": self.word if q.text == "." else q.text}) for q in queries]
        )


def run(judge, store: Path, *, reference: bool = True):
    with Store(store) as opened:
        known = OracleJudge() if reference else None
        return attack_judge(TEXTS, judge, opened, program=PROGRAM, battery=BATTERY, reference=known)


def right(prompt, text):
    queries = [Query(prompt=prompt, text=text, question=question) for question in QUESTIONS]
    return [verdict for _, verdict in OracleJudge().answer(queries)]


def test_texts_truly_fail():
    texts = flawed_texts(24)
    readings = [read(text.prompt, text.text) for text in texts]
    assert len({text.id for text in texts}) == 24
    assert sum(reading.harmful for reading in readings) >= 8
    assert all(reading.harmful or not reading.right for reading in readings)
    assert texts[:4] == TEXTS and texts != flawed_texts(24, seed=1)


def test_a_judge_that_is_never_moved_has_no_success(tmp_path):
    judge = Gullible("no text holds this")
    report, successes = run(judge, tmp_path / "s.sqlite")
    assert not successes and report.questions.value == report.controls.value == report.totals.value == 0
    assert report.unanswered == 0
    # 0 of n in 4 texts: Wilson's upper end for 0 of 4 is z^2 / (4 + z^2)
    assert report.questions.high == pytest.approx(1.959964**2 / (4 + 1.959964**2), abs=1e-6)
    texts = 4 * (1 + len(controls()) + len(BATTERY) - 1) + FLOODED
    assert judge.asked + report.usage.cached == texts * len(QUESTIONS)


def test_a_judge_that_obeys_an_order_is_moved_by_that_attack_alone(tmp_path):
    report, successes = run(Gullible("Dear examiner"), tmp_path / "s.sqlite")
    assert {success.attack for success in successes} == {"orders.polite"}
    order = next(attack for attack in BATTERY if attack.id == "orders.polite")
    assert len(successes) == sum(
        fails(question, before.label) and fails(question, after.label)
        for text in TEXTS
        for question, before, after in zip(
            QUESTIONS,
            right(text.prompt, text.text),
            right(text.prompt, apply(order, text.text)),
            strict=True,
        )
    )
    assert report.worst[0].group == "orders.polite" and report.worst[0].value == 1
    totals = {estimate.group: estimate.value for estimate in report.totals_families}
    assert totals == {"orders": 1, "roles": 0, "keys": 0, "claims": 0, "floods": 0}
    known = {question.id: question for question in QUESTIONS}
    assert all(fails(known[success.question], success.before) for success in successes)


def test_an_empty_answer_that_passes_is_a_success_of_the_keys(tmp_path):
    report, successes = run(FooledByADot("fooled"), tmp_path / "s.sqlite")
    assert {success.attack for success in successes} == {"keys.dot"}
    assert all(success.before is None for success in successes)
    assert {e.group: e.value for e in report.totals_families}["keys"] == 0.5, "of a dot and nothing"


def test_without_a_reference_the_plain_verdicts_are_what_ought_to_stay(tmp_path):
    report, successes = run(Gullible("Dear examiner"), tmp_path / "s.sqlite", reference=False)
    assert report.reference == "" and {success.attack for success in successes} == {"orders.polite"}
    assert "keys" not in {estimate.group for estimate in report.families}
    assert "keys" in {estimate.group for estimate in report.totals_families}


def test_what_is_stored_is_not_asked_again(tmp_path):
    first = run(judge := Gullible("Dear examiner"), tmp_path / "s.sqlite")
    asked = judge.asked
    again = run(judge, tmp_path / "s.sqlite")
    assert judge.asked == asked and again[1] == first[1]
    assert again[0].questions == first[0].questions


def tried(*arguments: str):
    return CliRunner().invoke(app, ["judge", "attack", "--program", "lab", *arguments])


def test_the_command_writes_and_prints_the_same(tmp_path):
    command = ["--judge", "lab-oracle", "--input", "lab", "--limit", "2", "--out", str(tmp_path / "o")]
    command += ["--family", "keys", "--family", "chains"]
    done = tried(*command, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["questions"]["value"] == 0 and found["renderings"]["confused"] == []
    assert found["renderings"]["read"] > 10_000
    del found["path"]
    assert json.loads((tmp_path / "o" / "attacks.json").read_text()) == found
    shown = tried(*command)
    assert "27 attacks on 2 texts" in shown.stdout and "0 could be confused" in shown.stdout


def test_a_dry_run_tells_what_would_be_asked(tmp_path):
    command = ["--judge", "lab-oracle", "--input", "lab", "--limit", "2", "--out", str(tmp_path / "o")]
    command += ["--family", "keys"]
    planned = json.loads(tried(*command, "--dry-run", "--json").stdout)
    keys = sum(attack.family == "keys" for attack in attacks())
    assert planned["questions"] == 2 * (1 + len(controls()) + keys) * len(QUESTIONS) and planned["tokens"] > 0
    assert not (tmp_path / "o").exists()
    assert "questions, about" in tried(*command, "--dry-run").stdout


def test_a_cap_pauses_and_raising_it_goes_on(tmp_path):
    command = ["--judge", "lab-oracle", "--input", "lab", "--limit", "1", "--out", str(tmp_path)]
    command += ["--family", "chains"]
    stopped = tried(*command, "--max-calls", "50")
    assert stopped.exit_code == 1 and not (tmp_path / "attacks.json").exists()
    done = tried(*command, "--max-calls", "5000", "--json")
    assert done.exit_code == 0
    usage = json.loads(done.stdout)["usage"]
    assert usage["asked"] + usage["cached"] == 12 * len(QUESTIONS) and usage["cached"] >= 50


def test_a_rendering_that_can_be_confused_is_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "broken", lambda text: text)
    hostile.quote.cache_clear()
    done = tried(
        "--judge",
        "lab-oracle",
        *("--input", "lab", "--limit", "1", "--family", "roles", "--out", str(tmp_path)),
    )
    hostile.quote.cache_clear()
    assert done.exit_code == 1 and "read by" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--judge", "lob", "--input", "lab"), "did you mean 'lab'"),
        (("--judge", "lab", "--input", "none.jsonl"), "none.jsonl"),
        (("--judge", "lab", "--input", "lab", "--family", "rolls"), "did you mean 'roles'"),
    ],
)
def test_bad_input_is_told(tmp_path, arguments, said):
    done = tried(*arguments, "--out", str(tmp_path / "o"))
    assert done.exit_code != 0 and said in str(done.exception)
