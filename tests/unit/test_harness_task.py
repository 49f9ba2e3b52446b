"""What is written for lm-evaluation-harness, without it; and what the command refuses before it is asked."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.command_line import run_for

from rubrica.core.config import read_yaml
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Item
from rubrica.core.prompts import Message, Prompt
from rubrica.evals.numerals import flexible_number, strict_number
from rubrica.evals.suite import load_suites
from rubrica.recipes.capability import Asking, questions_of
from rubrica.recipes.evaluation import evaluation_folder
from rubrica.recipes.harness import TASKS, check_task, choice_logprobs, write_task
from rubrica.recipes.harness_run import HarnessSettings
from rubrica.recipes.options import ModelSource
from rubrica.recipes.sources import suite_sources


def choice(number: int, correct: tuple[int, ...] = (1,), suite: str = "arc-challenge") -> Item:
    prompt = Prompt(id=f"p{number}", messages=(Message(role="user", content=f'Is {number} "{{{{odd}}}}"?'),))
    return Item(
        id=f"i{number}", suite=suite, prompt=prompt, cluster="c", choices=("yes", "no"), correct=correct
    )


def test_a_task_reads_the_rows_beside_it(tmp_path: Path) -> None:
    items, pool = [choice(1), choice(2)], [choice(n) for n in range(3, 9)]
    questions = questions_of(items, Asking(shots=2), lambda: pool)
    assert write_task(tmp_path, items, questions) == "rubrica_arc_challenge"
    task = read_yaml(tmp_path / "arc-challenge.yaml")
    assert isinstance(task, dict)
    assert task["num_fewshot"] == 2 and task["fewshot_config"] == {"sampler": "first_n"}
    files = task["dataset_kwargs"]["data_files"]  # type: ignore[index, call-overload]
    [first, _] = [json.loads(line) for line in Path(files["test"]).read_text().splitlines()]  # type: ignore[index, call-overload, arg-type]
    assert first == {
        "id": "i1",
        "question": 'Is 1 "{{odd}}"?',
        "answer": "",
        "choices": ["yes", "no"],
        "gold": 1,
    }
    shown = [
        json.loads(line)["id"]
        for line in (tmp_path / "arc-challenge.examples.jsonl").read_text().splitlines()
    ]
    assert shown == [item.id for item in questions.examples]
    write_task(tmp_path, [choice(1), choice(2, (0, 1))], questions_of(items, Asking(shots=0)))
    rows = [json.loads(line)["gold"] for line in (tmp_path / "arc-challenge.jsonl").read_text().splitlines()]
    assert rows == [[1], [0, 1]], "one row with several right choices makes lists of all"
    assert "fewshot_split" not in read_yaml(tmp_path / "arc-challenge.yaml")  # type: ignore[operator]


def test_every_task_file_is_that_of_a_suite_that_ships() -> None:
    assert set(TASKS) <= set(load_suites())
    with pytest.raises(UsageError, match="no task for lm-evaluation-harness; expected gsm8k"):
        check_task("advbench")
    with pytest.raises(UsageError, match="did you mean 'gsm8k'"):
        check_task("gsmk8")


def test_log_probabilities_are_told_from_texts() -> None:
    samples = [
        {"doc_id": 1, "resps": [[(-1.5, False)], [(-0.5, True)]]},
        {"doc_id": 0, "resps": [["#### 5"]]},
    ]
    assert choice_logprobs(samples) == {1: [-1.5, -0.5]}


def test_worked_examples_of_gsm8k_are_whole_solutions(tmp_path: Path) -> None:
    for name, count in (("test", 2), ("train", 3)):
        rows = [
            {"question": f"{name} {n}?", "answer": f"It is <<{n}={n}>>{n}.\n#### 1,00{n}"}
            for n in range(count)
        ]
        (tmp_path / f"gsm8k_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [source] = suite_sources(["gsm8k"], tmp_path)
    items, examples = list(source.items()), source.examples()
    assert [item.answer for item in items] == ["1,000", "1,001"]
    assert examples[2].answer == "It is <<2=2>>2.\n#### 1,002"
    assert strict_number(examples[2].answer) == flexible_number(examples[2].answer) == "1,002"
    (tmp_path / "gsm8k_train.jsonl").unlink()
    assert questions_of(items, Asking(shots=0), source.examples).examples == [], "nothing is read in vain"


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path) -> None:
    settings = HarnessSettings(label="x", model=ModelSource(model="x"), suites=["gsm8k"])
    with evaluation_folder(tmp_path, settings):
        pass
    more = settings.model_copy(update={"suites": ["arc-challenge"], "batch_size": 2})
    with evaluation_folder(tmp_path, more) as store:
        store.put("result", "a", ModelSource(model="x"))
    with pytest.raises(UsageError, match=r"holds another evaluation \(limit"):
        with evaluation_folder(tmp_path, settings.model_copy(update={"limit": 3})):
            pass
    (tmp_path / "evaluation.yaml").write_text("label: y\njudge: lab\n")
    with pytest.raises(UsageError, match="made by another command or version"):
        with evaluation_folder(tmp_path, settings):
            pass


def test_wrong_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("eval", "harness", "--model", "lab:starter", "--out", tmp_path / "out")
    said = run_for(2, capsys, *given, "--suite", "gsm8k", "--multiturn")
    assert "--multiturn: is for --chat" in said.err
    said = run_for(2, capsys, *given, "--suite", "gsmk8")
    missing = find_spec("lm_eval") is None
    assert ("pip install 'rubrica[eval]'" if missing else "did you mean 'gsm8k'?") in said.err
    assert not (tmp_path / "out").exists()
