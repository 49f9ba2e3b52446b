"""The report's section on SPA: what each test removed, scores before and after, earlier iterations."""

from pathlib import Path

import sample_run
from rubrica.core.run import Run
from rubrica.reports import render_report
from rubrica.reports.denoising import denoised
from rubrica.reports.run_data import RunData

EARLIER = {"prompts": 10, "kept": 9, "pairs": 30, "dropped": {"det(Sigma) is 0": 1}, "scores": {}}
SUMMARY = {
    "prompts": 20,
    "kept": 5,
    "pairs": 12,
    "dropped": {"det(Sigma) exceeds tau": 4, "refined answer <b>not</b> better": 11},
    "scores": {"samples": {"har": 7.0, "hlp": 4.5}, "refined": {"har": 9.25, "hlp": 8.0}},
    "before": {"answers": 20, "scores": {"har": 6.5, "hlp": 5.0}, "hh": {"5": 6.25}},
    "earlier": [EARLIER],
}


def run_with_spa(path: Path) -> Path:
    folder = sample_run.build(path / "run")
    with Run.open(folder) as run:
        run.stage(3, "spa").finish(SUMMARY)
    return folder


def test_every_iteration_is_told(tmp_path: Path) -> None:
    with RunData(run_with_spa(tmp_path)) as data:
        first, last = denoised(data)
    assert (first.title, first.kept, first.scores) == ("03-spa, iteration 1 of 2", 9, [])
    assert last.dropped == [("refined answer <b>not</b> better", 11), ("det(Sigma) exceeds tau", 4)]
    assert last.objectives == ["har", "hlp"]
    assert last.scores == [
        ("Policy before", [6.5, 5.0], [("5", 6.25)]),
        ("Samples", [7.0, 4.5], []),
        ("Refined", [9.25, 8.0], []),
    ]


def test_the_page_shows_and_escapes_it(tmp_path: Path) -> None:
    page = render_report(run_with_spa(tmp_path))
    assert "refined answer &lt;b&gt;not&lt;/b&gt; better" in page and "<b>not</b>" not in page
    assert "λ=5: 6.25" in page and '<a href="#spa1">' in page and 'id="spa2"' in page
    assert "55.0 %" in page  # 11 of 20


def test_a_run_without_spa_has_no_such_section(tmp_path: Path) -> None:
    assert "#spa1" not in render_report(sample_run.build(tmp_path / "run"))
