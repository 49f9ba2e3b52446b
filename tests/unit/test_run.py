"""A run's directory: start, resume, refuse; stages, metrics and what crashes leave behind."""

import json
import math

import pytest
from pydantic import BaseModel

from rubrica.core.config import content_hash, read_yaml
from rubrica.core.errors import DataError, StorageError, UsageError
from rubrica.core.programs import Dimension, Principle, Program, Question, QuestionKind
from rubrica.core.run import Run, Stage, write_atomic, write_json, write_jsonl


class Recipe(BaseModel):
    name: str = "demo"
    rate: float = 1e-06
    note: str = "2024-01-01: yes \x85 or no"


def program(text="Is it kind?"):
    question = Question(id="q", kind=QuestionKind.GRADED, text=text, clause="c")
    dimension = Dimension(id="d", title="D", questions=(question,))
    return Program(
        name="p", constitution="c", principles=(Principle(id="p", title="P", dimensions=(dimension,)),)
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def start(path, recipe=None, prog=None, **options):
    run = Run.start(path, recipe or Recipe(), prog or program(), seed=3, **options)
    run.close()
    return run


# --- starting and resuming --------------------------------------------------------------------------


def test_a_run_explains_itself(path):
    start(path)
    assert {p.name for p in path.iterdir()} == {
        ".lock",
        "recipe.yaml",
        "program.yaml",
        "environment.json",
        "store.sqlite",
        "eval",
    }
    assert Recipe.model_validate(read_yaml(path / "recipe.yaml")) == Recipe()
    assert Program.model_validate(read_yaml(path / "program.yaml")) == program()
    environment = json.loads((path / "environment.json").read_text())
    assert environment["seed"] == 3
    assert environment["recipe_hash"] == content_hash(Recipe())
    assert environment["program_hash"] == content_hash(program())
    assert {"rubrica", "python", "pydantic"} <= set(environment["versions"])


def test_resume_takes_the_same_recipe_and_program_only(path):
    start(path)
    start(path, resume=True)
    with pytest.raises(UsageError, match="holds a run already; continue it with --resume"):
        start(path)
    with pytest.raises(UsageError, match="another recipe"):
        start(path, Recipe(rate=2e-6), resume=True)
    with pytest.raises(UsageError, match="another program"):
        start(path, prog=program("Is it true?"), resume=True)


def test_two_processes_do_not_work_on_one_run(path):
    with Run.start(path, Recipe(), program(), seed=3):
        with pytest.raises(UsageError, match="another process is at work in it"):
            start(path, resume=True)
        Run.open(path).close()
    start(path, resume=True)


def test_places_that_hold_something_else_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        start(tmp_path)
    with pytest.raises(UsageError, match="is a file; --out takes a directory"):
        start(tmp_path / "notes.txt")
    with pytest.raises(StorageError, match="cannot be created"):
        start(tmp_path / "notes.txt" / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_that_was_killed_before_its_recipe_can_start_again(path, resume):
    start(path)
    (path / "recipe.yaml").rename(path / "recipe.yaml.tmp")
    start(path, resume=resume)
    assert (path / "recipe.yaml").exists()


def test_an_empty_directory_is_a_place_to_start(path):
    path.mkdir()
    start(path)


def test_open_is_read_only(path, tmp_path):
    start(path)
    run = Run.open(path)
    with run, pytest.raises(StorageError):
        run.store.put("program", "p", program())
    with pytest.raises(UsageError, match=r"no run here \(no recipe.yaml\)"):
        Run.open(tmp_path)


# --- stages -----------------------------------------------------------------------------------------


def test_stages_in_order(path):
    run = start(path)
    assert run.stages() == []
    for number, kind in ((10, "grpo"), (2, "sft"), (1, "dpo")):
        run.stage(number, kind)
    assert [stage.name for stage in run.stages()] == ["01-dpo", "02-sft", "10-grpo"]


def test_a_stage_is_done_when_its_summary_exists(path):
    stage = Stage(path / "01-sft")
    assert not stage.done
    assert stage.summary() == {}
    stage.finish({"loss": 0.5, "name": "é"})
    assert Stage(path / "01-sft").summary() == {"loss": 0.5, "name": "é"}
    assert stage.done
    (stage.path / "summary.json").write_text("{")
    with pytest.raises(DataError, match="not a stage's summary"):
        stage.summary()


def test_a_stage_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be created"):
        Stage(tmp_path / "file" / "01-sft")


# --- metrics ----------------------------------------------------------------------------------------


def logged(stage, steps):
    for step in steps:
        stage.log(step, {"loss": 1 / 2**step})


def test_metrics_read_back(path):
    stage = Stage(path)
    assert stage.metrics() == []
    logged(stage, [1, 2, 3])
    assert stage.metrics() == [(1, {"loss": 0.5}), (2, {"loss": 0.25}), (3, {"loss": 0.125})]
    stage.rewind(1)
    assert stage.metrics() == [(1, {"loss": 0.5})]


def test_a_metric_that_is_no_number_is_left_out(path):
    stage = Stage(path)
    stage.log(1, {"loss": math.nan, "reward": -math.inf, "kl": 0.5})
    assert stage.metrics() == [(1, {"kl": 0.5})]


def test_logging_goes_on_after_a_line_torn_anywhere(path):
    stage = Stage(path)
    logged(stage, [1, 2])
    file = path / "metrics.jsonl"
    first, second = file.read_text().splitlines()
    for kept in range(1, len(second) + 1):
        file.write_text(f"{first}\n{second[:kept]}")
        before = [1, 2] if kept == len(second) else [1]
        assert [row.step for row in stage.metrics()] == before
        logged(stage, [2, 3])
        assert [row.step for row in stage.metrics()] == [*before, 2, 3]


def test_damage_in_the_middle_is_named(path):
    stage = Stage(path)
    logged(stage, [1, 2, 3])
    file = path / "metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"step": 2}', lines[2]]) + "\n")
    with pytest.raises(DataError, match=r"metrics.jsonl:2: not a metrics row"):
        stage.metrics()


# --- files ------------------------------------------------------------------------------------------


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(
        StorageError, match=r"cannot be written \(No such file or directory\); choose another --out$"
    ):
        write_atomic(tmp_path / "none" / "x.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_jsonl_export(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    rows = [Recipe(note="line\nbreak, é"), Recipe(rate=2)]
    assert write_jsonl(path, rows) == 2
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [Recipe.model_validate(json.loads(line)) for line in lines[:2]] == rows
    assert lines[2:] == [""]

    def stopping():
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, stopping())
    assert path.read_text(encoding="utf-8").split("\n") == lines
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
