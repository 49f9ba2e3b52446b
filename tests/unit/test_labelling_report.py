"""The report's section on labels: rounds, what selecting took, the learning curve."""

from pathlib import Path

import sample_run
from rubrica.core.run import Run
from rubrica.reports import render_report
from rubrica.reports.labelling import LabelRound, labellings
from rubrica.reports.run_data import RunData

COST = {"candidates": 90, "route": "gram", "measuring_seconds": 2.5, "selecting_seconds": 0.5}
SUMMARY = {
    "strategy": "active<b>dpo",
    "labels": 20,
    "preferences": 13,
    "rounds": [
        {"round": 1, "spent": 10, "labelled": 8, "undecided": 2, "open": 0},
        {"round": 2, "spent": 10, "labelled": 5, "undecided": 1, "open": 4},
    ],
    "costs": [{"round": 1, "measuring_flops": 2e9, "selecting_flops": 1e9, **COST}],
}


def run_with_labels(path: Path) -> Path:
    folder = sample_run.build(path / "run")
    with Run.open(folder) as run:
        stage = run.stage(3, "active-dpo")
        for spent, score in ((0, 0.1), (10, 0.4), (20, 0.3)):
            stage.log(spent, {"held_out/score": score})
        stage.finish(SUMMARY)
    return folder


def test_every_round_is_told_with_what_it_took(tmp_path: Path) -> None:
    with RunData(run_with_labels(tmp_path)) as data:
        (found,) = labellings(data)
    first, second = found.rounds
    assert first == LabelRound(1, 90, 10, 8, 2, 0, "gram", 3.0, 3e9)
    assert (second.open, second.route) == (4, "")
    assert (found.labels, found.preferences) == (20, 13) and found.curve is not None


def test_the_page_shows_and_escapes_it(tmp_path: Path) -> None:
    page = render_report(run_with_labels(tmp_path))
    assert "active&lt;b&gt;dpo" in page and "active<b>dpo" not in page
    assert 'id="labels1"' in page and '<a href="#labels1">' in page and "labels spent" in page


def test_a_run_without_labels_has_no_such_section(tmp_path: Path) -> None:
    assert "labels1" not in render_report(sample_run.build(tmp_path / "run"))
