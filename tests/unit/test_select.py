"""``rubrica select`` as a user meets it: rounds, tables, judges, budgets, and what is measured only once."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import pytest

from command_line import run, run_for
from rubrica.core.data import load_pairs
from rubrica.core.errors import StorageError
from rubrica.core.store import Store
from rubrica.lab.answers import bad_answer
from rubrica.lab.generator import good_answer, prompts
from rubrica.recipes.ledger import SELECTED, Selected
from rubrica.recipes.select import read_pool
from rubrica.train.gradient_cache import GradientCache, Projection, measured
from rubrica.train.gradients import GradientModel, Measured, Projects
from rubrica.train.policy import Lora, Start
from rubrica.train.sft import TokenRow
from tiny import tiny_checkpoint

SMALL = ("--set", "projection=64", "--set", "lora.r=2", "--set", "batch_size=4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Six prompts with three answers each, and what tells nothing: a repeated answer, an empty one."""
    path = tmp_path / "pool.jsonl"
    rows = [
        {"prompt": f"Brew {thing}", "response": answer}
        for thing in ("tea", "soup", "ale", "broth", "mead", "cider")
        for answer in (f"Boil {thing}.", "No.", f"Never {thing}, nor anything like it.", "No.", "")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sheet(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def filled(path: Path, label: str) -> Path:
    rows = sheet(path)
    done = path.with_name("done.csv")
    with done.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": label} for row in rows)
    return done


def test_rounds_of_selecting_and_labelling(
    tmp_path: Path, model: Path, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ("select", pool, "--model", model, "--count", "4", "--out", out, "--budget", "6", *SMALL)
    report = json.loads(run_for(0, capsys, *command, "--json").out)
    assert (report["candidates"], report["spent"], report["preferences"]) == (18, 4, 0)
    first = sheet(out / "to-label-01.csv")
    assert len(first) == 4 and {row["label"] for row in first} == {""}
    again = json.loads(run_for(0, capsys, *command, "--json").out)
    assert again["spent"] == 4 and sheet(out / "to-label-01.csv") == first

    said = run_for(2, capsys, *command, "--round", "2")
    assert "4 pairs of earlier rounds have no label" in said.err
    said = run_for(2, capsys, *command, "--round", "3")
    assert "round 2 has not been selected" in said.err

    done = filled(out / "to-label-01.csv", "second")
    report = json.loads(run_for(0, capsys, *command, "--labels", done, "--json").out)
    assert report["rounds"] == [{"round": 1, "spent": 4, "labelled": 4, "undecided": 0, "open": 0}]
    trained = load_pairs(out / "preferences.jsonl")
    assert {(pair.chosen, pair.rejected) for pair in trained} == {
        (row["second"], row["first"]) for row in first
    }

    report = json.loads(run_for(0, capsys, *command, "--round", "2", "--json").out)
    assert [round["spent"] for round in report["rounds"]] == [4, 2]  # the budget
    second = sheet(out / "to-label-02.csv")
    assert len(second) == 2 and not {row["id"] for row in first} & {row["id"] for row in second}
    run_for(0, capsys, *command, "--labels", filled(out / "to-label-02.csv", "tie"))
    assert "all of the budget is spent" in run_for(2, capsys, *command, "--round", "3").err
    assert "settings" in run_for(2, capsys, *command, "--seed", "1").err
    run_for(0, capsys, *command, "--set", "batch_size=2")  # how fast it goes is no matter of what is selected


def test_a_filled_table_is_never_overwritten(
    tmp_path: Path, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("select", pool, "--strategy", "random", "--count", "3", "--out", tmp_path / "out")
    run_for(0, capsys, *command)
    path = tmp_path / "out" / "to-label-01.csv"
    path.write_text(filled(path, "first").read_text(encoding="utf-8"), encoding="utf-8")
    before = path.read_bytes()
    run_for(0, capsys, *command)
    assert path.read_bytes() == before
    run_for(0, capsys, *command, "--labels", path)
    assert len(load_pairs(tmp_path / "out" / "preferences.jsonl")) == 3


@pytest.mark.parametrize("strategy", ["activedpo", "apo-linear", "entropy", "aplp", "random"])
def test_every_strategy_selects_the_same_pairs_again(
    tmp_path: Path, model: Path, pool: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    other = ("--reference", tiny_checkpoint(tmp_path / "other", "qwen3")) if strategy == "aplp" else ()
    found = []
    for name in ("a", "b"):
        flags = ("--strategy", strategy, "--model", model, "--count", "5", *SMALL, *other)
        run_for(0, capsys, "select", pool, *flags, "--out", tmp_path / name)
        with Store(tmp_path / name / "store.sqlite") as store:
            found.append({one.pair.id: one.score for one in store.all(SELECTED, Selected)})
    assert list(found[0]) == list(found[1]) and len(found[0]) == 5
    assert list(found[0].values()) == pytest.approx(list(found[1].values()))


def test_current_gradients_and_stale_ones_are_the_same_for_the_same_model(
    tmp_path: Path, model: Path, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = []
    for kind in ("stale", "current"):
        out = tmp_path / kind
        command = (
            "select",
            pool,
            "--model",
            model,
            "--count",
            "4",
            *SMALL,
            "--set",
            f"gradients={kind}",
            "--out",
            out,
        )
        run_for(0, capsys, *command)
        run_for(0, capsys, *command, "--labels", filled(out / "to-label-01.csv", "first"))
        run_for(0, capsys, *command, "--round", "2")
        with Store(out / "store.sqlite") as store:
            second.append([(one.pair.id, one.score) for one in store.all(SELECTED, Selected, step=2)])
    assert [id for id, _ in second[0]] == [id for id, _ in second[1]]
    assert [score for _, score in second[0]] == pytest.approx([score for _, score in second[1]], rel=1e-4)


def test_a_judge_labels_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, pool = Random(0), tmp_path / "pool.jsonl"
    truth = {}
    with pool.open("w", encoding="utf-8") as file:
        for prompt in prompts("harmful", "train", 8, seed=0):
            good = good_answer(prompt.tags, prompt.tags["core"], rng)
            row = prompt.model_dump(mode="json") | {
                "response_a": bad_answer(prompt.tags, rng),
                "response_b": good,
            }
            file.write(json.dumps(row | {"prompt": row.pop("messages")}) + "\n")
            truth[prompt.messages[-1].content] = good
    command = ("select", pool, "--strategy", "random", "--count", "8", "--out", tmp_path / "out")
    flags = ("--judge", "lab-oracle", "--program", "lab")
    report = json.loads(run_for(0, capsys, *command, *flags, "--json").out)
    assert report["rounds"][0]["labelled"] == 8
    for pair in load_pairs(tmp_path / "out" / "preferences.jsonl"):
        assert pair.chosen == truth[pair.prompt.messages[-1].content]


def test_labels_may_come_from_a_file_of_preferences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(9)]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ("select", pool, "--strategy", "random", "--count", "5", "--out", tmp_path / "out")
    said = run_for(2, capsys, *command, "--labels", pool)
    assert "no pair has been selected yet" in said.err
    run_for(0, capsys, *command)
    run_for(0, capsys, *command, "--labels", pool)
    found = load_pairs(tmp_path / "out" / "preferences.jsonl")
    assert len(found) == 5 and all(pair.chosen.startswith("good") for pair in found)


def test_pools_in_every_form_make_the_same_pairs(tmp_path: Path) -> None:
    forms: list[Sequence[Mapping[str, str]]] = [
        [{"prompt": "q", "response": text} for text in ("a", "b")],
        [{"prompt": "q", "first": "b", "second": "a"}],
        [{"prompt": "q", "response_1": "a", "response_2": "b"}],
        [{"prompt": "q", "chosen": "a", "rejected": "b"}],
    ]
    found = []
    for number, rows in enumerate(forms):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        found.append([(p.id, p.first, p.second) for p in read_pool(path)])
    assert len(found[0]) == 1 and all(each == found[0] for each in found)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--strategy", "activ"), "did you mean 'activedpo'?"),
        ((), "--model: missing; activedpo asks the model"),
        (("--strategy", "aplp", "--model", "lab:starter"), "--reference: missing"),
        (("--model", "lab:starter", "--set", "projektion=5"), "did you mean 'projection'?"),
        (("--strategy", "random", "--judge", "lab"), "--program: missing"),
        (("--strategy", "random", "--max-calls", "5"), "--max-calls: has no use without --judge"),
        (("--model", "lab:starter", "--dtype", "int8"), "--dtype 'int8': expected one of"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    tmp_path: Path, pool: Path, capsys: pytest.CaptureFixture[str], flags: Sequence[str], problem: str
) -> None:
    said = run(capsys, "select", pool, "--count", "2", "--out", tmp_path / "out", *flags)
    assert said.code == 2 and problem in said.err and not (tmp_path / "out").exists()


class _Stops(GradientModel):
    """Breaks off behind the first batch."""

    def measure(
        self, rows: Sequence[TokenRow], *, batch_size: int = 8, projector: Projects | None = None
    ) -> Iterator[list[tuple[int, Measured]]]:
        yield next(iter(super().measure(rows, batch_size=batch_size, projector=projector)))
        raise KeyboardInterrupt


def test_what_was_measured_is_not_measured_again(tmp_path: Path, model: Path) -> None:
    rows = {f"k{i}": TokenRow([2, 40 + i, 3], [50 + i, 60, 1]) for i in range(5)}
    start, lora = Start(model=model, dtype="float32"), Lora(r=2, alpha=4)
    cache, opened = GradientCache(tmp_path / "cache"), []

    def open_model(kind: type[GradientModel]) -> GradientModel:
        opened.append(kind)
        return kind(start, lora)

    def work(kind: type[GradientModel]) -> tuple[dict[str, Measured], list[str]]:
        return measured(
            lambda: open_model(kind), rows, cache, projection=Projection(16, 0), batch_size=2, progress=None
        )

    with pytest.raises(KeyboardInterrupt):
        work(_Stops)
    found, fresh = work(GradientModel)
    assert list(found) == list(rows) and len(fresh) == 3
    assert work(GradientModel)[1] == [] and opened == [_Stops, GradientModel]
    straight, _ = measured(
        lambda: GradientModel(start, lora),
        rows,
        GradientCache(tmp_path / "other"),
        projection=Projection(16, 0),
        batch_size=2,
    )
    for key, one in found.items():
        assert one.gradient.tolist() == straight[key].gradient.tolist()
        assert one.log_prob == straight[key].log_prob

    damaged = next((tmp_path / "cache").glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(StorageError, match="delete the file, and it is measured anew"):
        work(GradientModel)
