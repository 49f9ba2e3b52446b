"""Stage active-dpo: straight, killed in every step and resumed, with people as the oracle."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from align_setup import SmallJudge, write_recipe
from safetensors.torch import load_file

from fake_server import FakeServer
from rubrica.core.config import load_config
from rubrica.core.errors import Interrupted, TrainingError
from rubrica.core.run import Run, Stage
from rubrica.recipes.align import align
from rubrica.recipes.config import Recipe
from rubrica.recipes.ledger import Ledger, Selected

pytestmark = pytest.mark.slow
STAGE = (
    "stages=[{type: active-dpo, rounds: 3, labels_per_round: 4, prompts_per_round: 10, responses: 4, held_out: 3, "
    "sampling: {temperature: 2.0, max_tokens: 28}, selection: {projection: 32, lora: {r: 2, alpha: 4}}, "
    "trainer: {learning_rate: 1.0e-3, num_train_epochs: 2, per_device_train_batch_size: 2, save_steps: 1}}]"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with FakeServer(SmallJudge()) as server:
        yield write_recipe(tmp_path_factory.mktemp("active"), server)


def recipe(source: Path, *overrides: str) -> Recipe:
    return load_config(Recipe, source, [STAGE, *overrides])


def selected(out: Path) -> list[Selected]:
    with Run.open(out).store as store:
        return Ledger(store, "01-active-dpo").selected()


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "stages/01-active-dpo/model/model.safetensors")


@pytest.fixture(scope="module")
def straight(source: Path) -> Path:
    out = source.parent / "straight"
    align(recipe(source), out)
    return out


def test_labels_are_spent_as_planned_and_the_curve_has_a_point_for_each_round(straight: Path) -> None:
    stage = Stage(straight / "stages/01-active-dpo")
    summary = stage.summary()
    rounds = [one.round for one in selected(straight)]
    assert rounds == [1] * 4 + [2] * 4 + [3] * 4
    assert len({one.pair.id for one in selected(straight)}) == 12
    assert summary["labels"] == 12 and isinstance(summary["curve"], dict)
    assert list(summary["curve"]) == ["0", "4", "8", "12"]
    assert [cost["route"] for cost in summary["costs"]] == ["gram"] * 3
    assert stage.model_dir.exists() and not list(stage.path.glob("rounds/*/model"))


class Killer:
    """Breaks off in the middle of each kind of work, once."""

    def __init__(self) -> None:
        self.killed: list[str] = []

    def __call__(self, label: str, done: int, total: int) -> None:
        if label not in self.killed and 0 < done < total:
            self.killed.append(label)
            raise KeyboardInterrupt


def test_a_run_that_was_killed_in_every_step_ends_like_a_straight_one(source: Path, straight: Path) -> None:
    out, killer = source.parent / "killed", Killer()
    for _ in range(20):
        try:
            align(recipe(source), out, resume=(out / "recipe.yaml").exists(), progress=killer)
            break
        except KeyboardInterrupt:
            pass
    told = " ".join(killer.killed)
    assert all(work in told for work in ("answering", "measuring", "judging", "round 1", "round 3")), told
    assert selected(out) == selected(straight)
    one, other = weights(out), weights(straight)
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert Stage(out / "stages/01-active-dpo").metrics() == Stage(straight / "stages/01-active-dpo").metrics()


def test_people_label_between_the_rounds(source: Path) -> None:
    out, people = source.parent / "people", recipe(source, "stages.0.labels={type: csv}", "stages.0.rounds=2")
    for number in (1, 2):
        with pytest.raises(Interrupted, match=f"to-label-0{number}.csv: 4 pairs wait for a label"):
            align(people, out, resume=number > 1)
        path = out / f"stages/01-active-dpo/to-label-0{number}.csv"
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row | {"label": "tie" if n == 0 else "first"} for n, row in enumerate(rows))
    align(people, out, resume=True)
    summary = Stage(out / "stages/01-active-dpo").summary()
    assert (summary["labels"], summary["preferences"]) == (8, 6)


@pytest.mark.parametrize(
    "overrides",
    [
        ("stages.0.selection.strategy=random", "stages.0.regenerate=false"),
        ("stages.0.selection.strategy=aplp", "stages.0.train_on=round"),
        ("policy.lora={r: 2, alpha: 4}", "stages.0.selection.gradients=current", "stages.0.train_on=round"),
    ],
)
def test_other_ways_to_select_and_to_train(source: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    align(recipe(source, *overrides, "stages.0.rounds=2"), tmp_path / "out")
    before = load_file(source.parent / "policy/model.safetensors")
    after = weights(tmp_path / "out")
    assert any(not torch.equal(before[name], after[name]) for name in after if name in before)
    assert len(selected(tmp_path / "out")) == 8


def test_a_stage_without_any_preference_says_so(source: Path, tmp_path: Path) -> None:
    alone = ("judge=none", "stages.0.held_out=0")  # nobody is asked but people
    people = recipe(source, "stages.0.labels={type: csv}", "stages.0.rounds=1", *alone)
    with pytest.raises(Interrupted):
        align(people, tmp_path / "out")
    path = tmp_path / "out/stages/01-active-dpo/to-label-01.csv"
    path.write_text(path.read_text(encoding="utf-8").replace('","","', '","skip","'), encoding="utf-8")
    with pytest.raises(TrainingError, match="no pair of 4 selected ones got a preference"):
        align(people, tmp_path / "out", resume=True)
