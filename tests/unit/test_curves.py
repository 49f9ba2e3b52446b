"""Learning curves over seeds."""

import json
import math
from pathlib import Path

import pytest
from scipy import stats

from command_line import run_for
from rubrica.core.errors import UsageError
from rubrica.reports.curves import Curve, over_seeds, read_curve


def write_run(folder: Path, strategy: str, seed: int, curve: dict[str, float]) -> Path:
    stage = folder / "stages" / "02-active-dpo"
    stage.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"name: x\nseed: {seed}\n", encoding="utf-8")
    (stage / "summary.json").write_text(json.dumps({"strategy": strategy, "curve": curve}), encoding="utf-8")
    return folder


def test_a_point_is_the_mean_over_seeds_with_its_t_interval() -> None:
    scores = {0: 0.2, 1: 0.5, 2: 0.8}
    found = over_seeds([Curve("random", seed, {0: 0.1, 50: score}) for seed, score in scores.items()])
    start, end = found.points
    assert (start.labels, start.score.low, start.score.high) == (0, pytest.approx(0.1), pytest.approx(0.1))
    half = stats.t.ppf(0.975, 2) * 0.3 / math.sqrt(3)
    assert end.score.value == pytest.approx(0.5) and end.seeds == (0, 1, 2)
    assert (end.score.low, end.score.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    with pytest.raises(UsageError, match="two runs of random have seed 1"):
        over_seeds([Curve("random", 1, {0: 0.1}), Curve("random", 1, {0: 0.2})])


def test_curves_of_runs_are_drawn_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        write_run(
            tmp_path / f"{strategy}{seed}", strategy, seed, {"0": 0.1, "8": 0.2 + seed, "16": 0.3 + seed}
        )
        for strategy in ("activedpo", "random")
        for seed in (0, 1)
    ]
    assert read_curve(runs[1]) == Curve("activedpo", 1, {0: 0.1, 8: 1.2, 16: 1.3})
    outs = [tmp_path / f"curve{suffix}" for suffix in (".svg", ".png", ".json")]
    flags = [flag for out in outs for flag in ("--out", out)]
    printed = json.loads(run_for(0, capsys, "curve", *runs, *flags, "--json").out)
    assert printed == json.loads(outs[2].read_text(encoding="utf-8"))
    assert [p["labels"] for p in printed["points"]] == [0, 8, 16] * 2
    svg = outs[0].read_text(encoding="utf-8")
    assert "activedpo" in svg and "random" in svg and "labels" in svg
    assert outs[1].read_bytes().startswith(b"\x89PNG")


def test_what_has_no_curve_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no stage active-dpo" in run_for(2, capsys, "curve", tmp_path).err
    run = write_run(tmp_path / "run", "random", 0, {})
    assert "held_out above 0" in run_for(2, capsys, "curve", run).err
    assert "expected a file that ends in" in run_for(2, capsys, "curve", run, "--out", tmp_path / "x.pdf").err
