"""Evaluations as Inspect's logs: what is in them, and that Inspect itself reads them."""

import json

import pytest

from command_line import run_for
from rubrica.core.records import Label, Outcome, Sampling, Verdict
from rubrica.lab import suites as lab
from rubrica.models.scripted import ScriptedGenerator, ScriptedJudge
from rubrica.recipes.context import Surroundings
from rubrica.recipes.evaluate import evaluate
from rubrica.recipes.evaluated import Opened
from rubrica.recipes.evaluation import Evaluation
from rubrica.recipes.inspect_log import NO_PROMPT, write_logs
from rubrica.recipes.options import ModelSource
from rubrica.recipes.sources import suite_sources

ITEMS = lab.items("lab-harmful")[:3]


def folder(path, name="lab-harmful", **settings):
    """Three items, two trials: the first answer is judged harmful, the second harmless, the third not at all."""

    def judge(query):
        number = [item.prompt.messages for item in ITEMS].index(query.prompt.messages)
        if number == 2:
            return Verdict(question_id=query.question.id, outcome=Outcome.FAILED, reason="timeout")
        return (Label.FALSE, Label.TRUE)[number]

    def writer():
        return ScriptedGenerator(lambda prompt, sampling, prefix: f"says {prompt.id} <b> \u2028 é")

    [source] = suite_sources(["lab-harmful"], None, limit=3)
    given = {
        "label": "a_b/c",
        "models": [ModelSource(model="m")],
        "suites": [name],
        "judge": "j",
        "trials": 2,
        "limit": 3,
        "sampling": Sampling(temperature=0.5, max_tokens=9),
    }
    evaluate(
        Evaluation(**(given | settings)),
        [source._replace(name=name)],
        path,
        Surroundings(judges={"j": lambda: ScriptedJudge(judge)}),
        opened=lambda seed: Opened(writer, writer),
    )
    return path


def test_a_log_has_every_answer_with_prompt_and_score(tmp_path):
    [log] = write_logs(folder(tmp_path / "e", system="be good"), tmp_path)
    assert (log.samples, log.without_prompt) == (6, "")
    assert log.path.name.split("_")[1:] == ["lab-harmful", log.path.name.split("_")[2]]  # no _ of the label's
    data = json.loads(log.path.read_text())
    assert data["eval"]["config"] == {"epochs": 2}
    assert data["eval"]["dataset"] == {"name": "lab-harmful", "samples": 3}
    [scores] = data["results"]["scores"]
    assert (scores["scored_samples"], scores["unscored_samples"]) == (4, 2)
    assert scores["metrics"]["asr"]["value"] == 0.5
    found = {(each["id"], each["epoch"]): each for each in data["samples"]}
    assert list(found) == [(item.id, epoch) for epoch in (1, 2) for item in ITEMS]
    for item, value in zip(ITEMS, (1.0, 0.0, None), strict=True):
        sample = found[item.id, 2]
        assert [each["content"] for each in sample["input"]] == ["be good", item.prompt.messages[0].content]
        assert sample["output"]["choices"][0]["message"]["content"] == f"says {item.id} <b> \u2028 é"
        assert sample["metadata"]["cluster"] == item.cluster
        if value is None:  # a failure is no number
            assert (sample["scores"], sample["metadata"]["standing"]) == ({}, "unjudged")
        else:
            assert (sample["scores"]["asr"]["value"], sample["scores"]["asr"]["explanation"]) == (
                value,
                "judged",
            )


def test_of_several_models_each_log_has_its_own_rates(tmp_path):
    def writer(seed):
        return lambda: ScriptedGenerator(lambda prompt, sampling, prefix: ("fine", "bad")[seed])

    [source] = suite_sources(["lab-harmful"], None, limit=3)
    evaluate(
        Evaluation(
            label="m", models=[ModelSource(model=f"m{n}") for n in range(2)], suites=[source.name], judge="j"
        ),
        [source],
        tmp_path / "e",
        Surroundings(
            judges={
                "j": lambda: ScriptedJudge(lambda query: Label.FALSE if query.text == "bad" else Label.TRUE)
            }
        ),
        opened=lambda seed: Opened(writer(seed), writer(seed)),
    )
    scores = [
        json.loads(log.path.read_text())["results"]["scores"][0]
        for log in write_logs(tmp_path / "e", tmp_path)
    ]
    rates = [(score["metrics"]["asr"]["value"], score["metrics"]["asr"]["metadata"]["n"]) for score in scores]
    assert rates == [(0.0, 3), (1.0, 3)]


def test_without_the_suite_answers_are_there_and_prompts_are_not(tmp_path):
    path = folder(tmp_path / "e")
    settings = (path / "evaluation.yaml").read_text()
    (path / "evaluation.yaml").write_text(settings.replace("limit: 3", "limit: 2"))
    [log] = write_logs(path, tmp_path)
    assert [each["input"] == NO_PROMPT for each in json.loads(log.path.read_text())["samples"]] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_the_command_needs_a_folder_to_write_to(tmp_path, capsys):
    path = folder(tmp_path / "e")
    assert "--out: missing" in run_for(2, capsys, "eval", "export", path, "--format", "inspect").err
    said = run_for(0, capsys, "eval", "export", path, "--format", "inspect", "--out", tmp_path / "logs")
    assert "6 samples" in said.err
    (path / "evaluation.yaml").write_text("model: m\nshots: 5\n")
    argv = ("eval", "export", path, "--format", "inspect", "--out", tmp_path)
    assert "made by another command" in run_for(2, capsys, *argv).err
    run_for(0, capsys, "report", path)  # which takes settings of every kind
    (path / "store.sqlite").unlink()
    said = run_for(2, capsys, "eval", "export", path, "--format", "inspect", "--out", tmp_path / "logs")
    assert "no store.sqlite" in said.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inspect_reads_it(tmp_path):
    inspect_log = pytest.importorskip("inspect_ai.log", reason="needs pip install inspect-ai")
    list(write_logs(folder(tmp_path / "e"), tmp_path / "e"))
    [info] = inspect_log.list_eval_logs(str(tmp_path / "e"))
    log = inspect_log.read_eval_log(info.name)
    assert (info.task, log.status, log.eval.model, len(log.samples)) == ("lab-harmful", "success", "m", 6)
    assert log.results.scores[0].metrics["asr"].value == 0.5
    first = log.samples[0]
    assert first.input[0].text == ITEMS[0].prompt.messages[0].content
    assert first.output.completion == f"says {ITEMS[0].id} <b> \u2028 é"
    assert first.scores["asr"].as_float() == 1.0
    head = inspect_log.read_eval_log(info.name, header_only=True)
    assert head.results == log.results
