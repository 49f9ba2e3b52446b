"""``rubrica judge check`` and ``show`` from the command line, and what a recipe and a score make of a passport."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_line import Said, run_for
from fake_server import FakeServer, Reply, completion, error
from rubrica.cli.output import note
from rubrica.core.agreement import rogan_gladen
from rubrica.core.config import dump_yaml
from rubrica.core.errors import UsageError
from rubrica.core.programs import Program
from rubrica.core.records import Estimate
from rubrica.core.run import claim
from rubrica.core.stats import wilson
from rubrica.judges.passport import read_passport
from rubrica.lab.answers import labelled
from rubrica.lab.oracle import read
from rubrica.lab.truth import label
from rubrica.recipes.scorer import open_scorer

SMALL = {
    "name": "small",
    "constitution": "c",
    "principles": [
        {
            "id": "p",
            "title": "Manners",
            "dimensions": [
                {
                    "id": "d",
                    "title": "Tone",
                    "questions": [
                        {
                            "id": "g",
                            "kind": "gate",
                            "text": "Is it polite?",
                            "clause": "c",
                            "protected": True,
                        },
                        {"id": "s", "kind": "graded", "text": "How clear is it?", "clause": "c"},
                    ],
                }
            ],
        }
    ],
}
TEXTS = [f"polite number {n}" for n in range(8)] + [f"rude number {n}" for n in range(4)]
LIES = {"polite number 0", "rude number 0"}
"""Texts about which the server is wrong."""


def rule(body: dict) -> Reply:
    asked = body["messages"][1]["content"]
    text = next((text for text in TEXTS if f"> {text}" in asked), None)
    if text is None:
        return error(400, "no such text")
    if "How clear" in asked:
        return completion("B", {"B": 0.9, "?": 0.1})
    said = "TRUE" if (text.startswith("polite")) is (text not in LIES) else "FALSE"
    return completion(said, {said: 0.9, "?": 0.1})


@pytest.fixture
def place(tmp_path: Path, fake_server: FakeServer) -> Path:
    fake_server.answer = rule
    (tmp_path / "small.yaml").write_text(dump_yaml(Program.model_validate(SMALL)))
    (tmp_path / "judge.yaml").write_text(
        f"spec: openai:m@{fake_server.url}\nretries: 0\ntimeout: 5\nconcurrency: 4\n"
    )
    rows = [
        {"prompt": "Hi", "response": text, "question_id": "g", "label": str(text.startswith("polite"))}
        for text in TEXTS
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(capsys, *argv: str | Path, code: int = 0) -> Said:
    return run_for(code, capsys, *argv)


CHECK_ORACLE = ["judge", "check", "--judge", "lab-oracle", "--program", "lab", "--labels", "lab"]


def check_argv(place: Path, *flags: str) -> list[str]:
    named = {"--judge": "judge.yaml", "--program": "small.yaml", "--labels": "labels.jsonl", "--out": "out"}
    argv = [part for flag, name in named.items() for part in (flag, str(place / name))]
    return ["judge", "check", *argv, "--sample", "3", "--repeats", "1", "--attacks", "0", *flags]


def test_check_measures_a_server_and_a_second_run_asks_nothing(place, fake_server, capsys):
    found = json.loads(run(capsys, *check_argv(place, "--json")).out)
    passport = read_passport(place / "out/passport.json")
    assert found.pop("path") == str(place / "out/passport.json")
    assert found == passport.model_dump(mode="json")
    # 12 texts x 2 questions; 3 texts x 2 questions: a repeat, 3 wordings, 2 frames, 2 lengths
    assert len(fake_server.requests) == 24 + 6 * 8
    assert passport.usage.asked == 72
    # 7 of 8 polite and 3 of 4 rude texts are judged right
    assert (passport.measure("sensitivity", "g").value, passport.measure("sensitivity", "g").n) == (0.75, 4)
    assert (passport.measure("specificity", "g").value, passport.measure("specificity", "g").n) == (7 / 8, 8)
    assert passport.measure("agreement", "g").value == 10 / 12
    assert passport.measure("repeat").value == passport.measure("order").value == 1
    assert "s" not in passport.confusion, "nobody labelled that question"
    run(capsys, *check_argv(place))
    assert len(fake_server.requests) == 72
    again = read_passport(place / "out/passport.json")
    assert again.measures == passport.measures


def test_check_prints_a_table_and_show_prints_it_again(place, capsys):
    first = run(capsys, *check_argv(place, "--questions"))
    assert "specificity 0.875 [0.529, 0.978] 8 g 0.875" in " ".join(first.out.split())
    assert "not asked for" in first.err and "no texts of the judge's own model" in first.err
    shown = run(capsys, "judge", "show", place / "out/passport.json", "--questions")
    assert shown.out.splitlines()[:-1] == first.out.splitlines()[:-1]
    assert shown.out.splitlines()[-1].startswith("fresh:")
    changed = dump_yaml(Program.model_validate(SMALL)).replace("How clear", "How plain")
    (place / "small.yaml").write_text(changed)
    shown = run(capsys, "judge", "show", place / "out/passport.json", "--judge", "lab-oracle")
    told = " ".join(shown.err.split())
    assert "stale: the program changed: question s of small was not measured" in told
    assert "stale: the judge changed" in told
    (place / "small.yaml").unlink()
    found = json.loads(run(capsys, "judge", "show", place / "out/passport.json", "--json").out)
    assert found["stale"] == [] and "program not compared" in found["not_compared"][0]


def test_a_dry_run_asks_nobody(place, fake_server, capsys):
    found = json.loads(run(capsys, *check_argv(place, "--dry-run", "--json")).out)
    assert found["calls"]["base"] == 24 and found["total"] == 72
    assert fake_server.requests == [] and not (place / "out").exists()


def test_bad_use_is_one_line(place, capsys):
    (place / "labels.jsonl").write_text("")
    assert "labels.jsonl" in run(capsys, *check_argv(place), code=2).err
    told = run(
        capsys, "judge", "check", "--judge", "lab-oracle", "--program", "lab", "--out", place / "o", code=2
    )
    assert "give --input FILE of texts, --labels FILE, or both" in told.err
    oracle = ("judge", "check", "--judge", "lab-oracle", "--program", place / "small.yaml", "--labels", "lab")
    assert "oracle does not know question 'g'" in run(capsys, *oracle, "--out", place / "o", code=2).err
    assert "no passport here" in run(capsys, "judge", "show", place / "none.json", code=2).err


def test_a_judges_file_may_ask_for_a_floor(place, capsys):
    judge = place / "judge.yaml"
    floor = f"passport: {place / 'out/passport.json'}\nfloor: {{specificity: 0.5, questions: {{g: {{sensitivity: 0.9}}}}}}\n"
    judge.write_text(judge.read_text() + floor)
    told = " ".join(run(capsys, *check_argv(place), code=1).err.split())
    low, high = wilson(3, 4).low, wilson(3, 4).high
    assert f"below the floor: question g: sensitivity found 0.750 [{low:.3f}, {high:.3f}], n=4" in told
    assert "specificity" not in told.partition("below the floor")[2]
    # nothing is scored by a judge below its floor
    (place / "in.jsonl").write_text(json.dumps({"prompt": "Hi", "response": TEXTS[0]}) + "\n")
    score = ["score", "--program", place / "small.yaml", "--judge", judge, "--input", place / "in.jsonl"]
    refused = run(capsys, *score, "--out", place / "scores", code=2)
    assert "does not reach the floor" in refused.err and "required at least 0.9" in " ".join(
        refused.err.split()
    )


def test_the_reward_server_holds_its_judge_to_the_floor(place, capsys):
    run(capsys, *check_argv(place))
    judge, passport = place / "judge.yaml", place / "out/passport.json"
    whole = judge.read_text()
    judge.write_text(f"{whole}passport: {passport}\nfloor: {{agreement: 0.99}}\n")
    with pytest.raises(UsageError, match="does not reach the floor"):
        open_scorer(place / "small.yaml", str(judge), place / "served")
    # the model was exchanged behind its name
    judge.write_text(f"{whole}version: other\npassport: {passport}\n")
    with pytest.warns(UserWarning, match="is stale: the judge changed"):
        open_scorer(place / "small.yaml", str(judge), place / "served").close()


def test_a_floor_without_a_passport_is_refused(place, capsys):
    judge = place / "judge.yaml"
    judge.write_text(judge.read_text() + "floor: {agreement: 0.5}\n")
    assert "floor needs passport" in run(capsys, *check_argv(place), code=2).err


def test_rates_are_corrected_beside_the_raw_ones(place, capsys):
    run(capsys, *check_argv(place))
    rows = [{"prompt": "Hi", "response": text} for text in TEXTS]
    (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = ["score", "--program", place / "small.yaml", "--judge", place / "judge.yaml", "--input"]
    score += [place / "in.jsonl", "--out", place / "out", "--passport", place / "out/passport.json"]
    (gate,) = json.loads(run(capsys, *score, "--json").out)["gates"]
    # The judge fails 3 rude texts and a polite one of 12: (4/12 + 7/8 - 1) / (3/4 + 7/8 - 1) = 1/3, the truth.
    assert gate["raw"]["value"] == pytest.approx(4 / 12)
    assert gate["corrected"]["value"] == pytest.approx((4 / 12 - 1 / 8) / (5 / 8)) == pytest.approx(4 / 12)
    expected = rogan_gladen(wilson(4, 12), wilson(3, 4), wilson(7, 8))
    assert isinstance(expected, Estimate)
    assert (gate["corrected"]["low"], gate["corrected"]["high"]) == (expected.low, expected.high)
    assert f"g 33.3% [{wilson(4, 12).low:.1%}, {wilson(4, 12).high:.1%}] 33.3% [" in " ".join(
        run(capsys, *score).out.split()
    )
    other = [*score[:4], "lab-oracle", *score[5:]]
    assert other[3] == "--judge"
    refused = run(capsys, *other, "--json", code=2)
    assert "no lab tags" in refused.err


RECIPE = """
name: r
policy: {{model: lab:starter}}
judge: {judge}
program: lab
prompts: {{train: [{{lab: harmful}}]}}
stages: [{{type: grpo, steps: 1, prompts_per_step: 2, group_size: 2, max_completion_tokens: 16}}]
"""


def test_a_recipe_warns_of_a_missing_passport_and_refuses_a_floor_that_is_not_met(place, capsys):
    run(capsys, *CHECK_ORACLE, "--limit", "3", "--sample", "0", "--attacks", "0", "--out", place / "oracle")
    passport, recipe = place / "oracle/passport.json", place / "recipe.yaml"

    def dry(judge: str, code: int = 0) -> str:
        recipe.write_text(RECIPE.format(judge=judge))
        printed = run(capsys, "align", recipe, "--out", place / "run", "--dry-run", code=code)
        return " ".join(printed.err.split())

    assert "warning" not in dry(f"{{spec: lab-oracle, passport: {passport}, floor: {{agreement: 0.5}}}}")
    missing = place / "none.json"
    assert f"recipe.yaml: judge: passport {missing}: not there" in dry(f"{{spec: lab, passport: {missing}}}")
    low = dry(f"{{spec: lab, passport: {passport}, floor: {{agreement: 0.99}}}}", code=2)
    assert "recipe.yaml: judge: the judge does not reach the floor" in low
    assert "all questions: agreement found 1.000" in low and "required at least 0.99" in low
    told = dry(f"{{spec: lab, passport: {passport}, floor: {{injection: 0.05}}}}", code=2)
    assert "injection was not measured (not asked for)" in told
    # the run itself is refused before anything is written
    refused = run(capsys, "align", recipe, "--out", place / "run", code=2).err
    assert "injection was not measured" in " ".join(refused.split())
    assert not (place / "run").exists()
    wrong = dry(f"{{spec: lab, passport: {passport}, floor: {{agrement: 0.5}}}}", code=2)
    assert "agrement" in wrong and "agreement" in wrong


def test_the_lab_judge_has_a_passport(tmp_path, capsys):
    argv = ["judge", "check", "--judge", "lab", "--program", "lab", "--labels", "lab", "--limit", "6"]
    argv += ["--sample", "2", "--repeats", "1", "--attacks", "1", "--out", tmp_path, "--json"]
    found = json.loads(run(capsys, *argv).out)
    passport = read_passport(tmp_path / "passport.json")
    # the oracle's labels, counted by another road
    counts: dict[str, dict[str, int]] = {}
    for prompt, text in labelled("passport", 6):
        reading = read(prompt, text)
        for question in passport.questions:
            right = label(question, reading).value
            counts.setdefault(question, {}).setdefault(right, 0)
            counts[question][right] += 1
    assert {
        q: {r: sum(row.values()) for r, row in t.items()} for q, t in found["confusion"].items()
    } == counts
    assert passport.measure("agreement").n == 6 * 24
    assert passport.measure("agreement").value > 0.85
    assert passport.measure("repeat").value == 1, "the local judge is deterministic"
    assert passport.measure("order").reason.startswith("not applicable")
    assert passport.measure("injection").n > 50


@pytest.mark.slow
def test_a_second_process_on_one_folder_is_refused_and_pays_nothing(place, fake_server, capsys):
    (place / "out").mkdir()
    scoring = ("--judge", place / "judge.yaml", "--program", place / "small.yaml", "--out", place / "out")
    with claim(place / "out"):
        for argv in (
            check_argv(place),
            ["score", *scoring, "--input", place / "labels.jsonl"],
            ["judge", "attack", *scoring, "--input", place / "labels.jsonl"],
        ):
            assert "another process is at work" in run(capsys, *argv, code=2).err
    assert not fake_server.requests
    run(capsys, *check_argv(place))


def test_after_kill_9_only_the_rest_is_asked(place, fake_server, capsys):
    judge = place / "judge.yaml"
    judge.write_text(judge.read_text().replace("concurrency: 4", "concurrency: 1"))

    def slow(body: dict) -> Reply:
        reply = rule(body)
        return Reply(reply.body, reply.status, reply.headers, delay=0.05)

    fake_server.answer = slow
    command = [sys.executable, "-m", "rubrica", *check_argv(place)]
    with subprocess.Popen(
        command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        end = time.monotonic() + 60
        while len(fake_server.requests) < 20 and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    seen = len(fake_server.requests)
    assert 20 <= seen < 72
    fake_server.answer = rule
    run(capsys, *check_argv(place))
    # one call was under way, and its answer died with the process
    assert 72 <= len(fake_server.requests) <= 73


@pytest.fixture
def fit_argv(place, fake_server):
    """``rubrica judge fit-cascade`` on enough labels, of two names of one server."""
    fake_server.answer = lambda body: completion("TRUE", {"TRUE": 0.9, "?": 0.1})
    program = SMALL | {"principles": [json.loads(json.dumps(SMALL["principles"][0]))]}
    program["principles"][0]["dimensions"][0]["questions"].pop()
    (place / "gate.yaml").write_text(dump_yaml(Program.model_validate(program)))
    row = {"prompt": "Hi", "question_id": "g", "label": "TRUE"}
    rows = [row | {"response": f"polite number {n}"} for n in range(30)]
    (place / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("judge", "fit-cascade", "--cheap", f"openai:a@{fake_server.url}", "--labels", place / "many.jsonl"),
        *("--expensive", f"openai:b@{fake_server.url}", "--program", place / "gate.yaml"),
        *("--target-agreement", "0.6", "--confidence", "0.8"),
    ]


def test_fit_cascade_replaces_only_thresholds(place, fake_server, fit_argv, capsys):
    labels = place / "many.jsonl"
    for out in (labels, place / "gate.yaml"):
        before = out.read_bytes()
        assert "exists and holds no thresholds" in run(capsys, *fit_argv, "-o", out, code=2).err
        assert out.read_bytes() == before
    assert "choose t.json" in run(capsys, *fit_argv, "-o", place / "t.sqlite", code=2).err
    assert not fake_server.requests
    run(capsys, *fit_argv, "-o", place / "t.json")
    first = (place / "t.json").read_bytes()
    run(capsys, *fit_argv, "-o", place / "t.json")
    assert (place / "t.json").read_bytes() == first
    assert len(fake_server.requests) == 60


def test_a_second_fit_of_one_file_is_refused_and_pays_nothing(place, fake_server, fit_argv, capsys):
    with claim(place / "t.sqlite"):
        assert "another process is at work" in run(capsys, *fit_argv, "-o", place / "t.json", code=2).err
        assert not fake_server.requests
        run(capsys, *fit_argv, "-o", place / "other.json")


def test_the_folder_of_a_passport_stands_for_it(place, capsys):
    run(capsys, *check_argv(place))
    shown = run(capsys, "judge", "show", place / "out", "--json").out
    assert json.loads(shown)["texts"] == 12
    judge = place / "judge.yaml"
    judge.write_text(f"{judge.read_text()}passport: {place / 'out'}\nfloor: {{agreement: 0.99}}\n")
    argv = ("--program", place / "small.yaml", "--judge", judge, "--input", place / "labels.jsonl")
    assert "does not reach the floor" in run(capsys, "score", *argv, "--out", place / "s", code=2).err


def test_a_floor_on_a_question_that_is_not_there_costs_nothing(place, fake_server, capsys):
    judge = place / "judge.yaml"
    judge.write_text(
        f"{judge.read_text()}passport: {place / 'out'}\nfloor: {{questions: {{gg: {{agreement: 0.1}}}}}}\n"
    )
    said = run(capsys, *check_argv(place), code=2).err
    assert f"{judge}: floor.questions.gg: no such question (did you mean 'g'?)" in said
    assert not fake_server.requests


def test_what_a_judge_is_examined_on_is_looked_at_first(place, fake_server, capsys):
    own = run(capsys, *check_argv(place, "--own", str(place / "labels.jsonl")), code=2).err
    assert "would compare texts with themselves" in own
    out = place / "o"
    said = run(capsys, *CHECK_ORACLE, "--out", out, "--limit", "9" * 20, code=2).err
    assert "the lab writes at most 1,000 texts" in said
    assert not fake_server.requests


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "a finite number, got 'nan'"), ("much", "a number, got 'much'")]
)
def test_a_passport_with_a_value_that_is_no_number_says_so(place, capsys, value, said):
    run(capsys, *check_argv(place))
    path = place / "out/passport.json"
    data = json.loads(path.read_text())
    index = next(n for n, each in enumerate(data["measures"]) if each["value"] is not None)
    data["measures"][index]["low"] = value
    path.write_text(json.dumps(data))
    told = run(capsys, "judge", "show", path, code=2).err
    assert f"measures.{index}.low: expected {said}" in told


def test_a_long_path_in_a_note_stays_whole(capsys):
    path = "/a directory" * 30
    note(f"warning: {path}: not there")
    assert capsys.readouterr().err == f"warning: {path}: not there\n"
