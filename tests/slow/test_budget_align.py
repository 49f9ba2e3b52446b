"""``rubrica align`` under a cap: it pauses before one call too many, and ends like a run without a cap."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from align_setup import SmallJudge, run, write_recipe
from safetensors.torch import load_file

from fake_server import FakeServer, Reply
from rubrica.core.records import Rollout
from rubrica.core.run import Run

pytestmark = pytest.mark.slow


class CountingJudge(SmallJudge):
    """Counts the requests of each run by what they ask."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def __call__(self, body: dict) -> Reply:
        self.asked[re.sub(r"[0-9a-f]{16}", "", body["messages"][-1]["content"])] += 1
        return super().__call__(body)


@pytest.fixture(scope="module")
def judge() -> CountingJudge:
    return CountingJudge()


@pytest.fixture(scope="module")
def recipe(judge: CountingJudge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with FakeServer(judge) as server:
        yield write_recipe(tmp_path_factory.mktemp("budget"), server)


@pytest.fixture(scope="module")
def straight(judge: CountingJudge, recipe: Path) -> tuple[Path, Counter[str]]:
    """A run without a cap, and what it asked."""
    out = recipe.parent / "straight"
    done = run("align", str(recipe), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert set(judge.asked.values()) == {1}
    return out, judge.asked.copy()


def result(out: Path) -> tuple[dict[str, torch.Tensor], list[Rollout]]:
    opened = Run.open(out)
    with opened.store:
        rollouts = opened.store.all("rollout", Rollout, stage="02-grpo")
    return load_file(out / "stages/02-grpo/model/model.safetensors"), rollouts


def test_a_capped_run_pauses_exactly_and_ends_like_an_uncapped_one(
    judge: CountingJudge, recipe: Path, straight: tuple[Path, Counter[str]]
) -> None:
    everything = straight[1]
    capped, total = recipe.parent / "capped", everything.total()
    judge.asked.clear()
    caps = (100, (100 + total) // 2)  # while drafts are judged, and in GRPO
    for number, cap in enumerate(caps):
        more = ["--resume"] if number else []
        paused = run("align", str(recipe), "--out", str(capped), "--set", f"budget.calls={cap}", *more)
        assert paused.returncode == 1, paused.stderr
        assert judge.asked.total() == cap
        assert f"budget.calls: the cap of {cap:,} leaves no room" in paused.stderr
        assert f"{cap:,} calls" in paused.stderr and "--resume" in paused.stderr
        assert "Traceback" not in paused.stderr
    done = run("align", str(recipe), "--out", str(capped), "--resume", "--set", "budget.calls=100000")
    assert done.returncode == 0, done.stderr
    assert judge.asked == everything
    weights, rollouts = result(capped)
    expected, others = result(straight[0])
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [r.model_dump() for r in rollouts] == [r.model_dump() for r in others]


def test_judging_while_generating_changes_nothing(
    judge: CountingJudge, recipe: Path, straight: tuple[Path, Counter[str]]
) -> None:
    meanwhile, asked = straight
    after = recipe.parent / "after"
    judge.asked.clear()
    done = run("align", str(recipe), "--out", str(after), "--set", "stages.1.overlap=false", "--json")
    assert done.returncode == 0, done.stderr
    assert judge.asked == asked
    weights, rollouts = result(meanwhile)
    expected, others = result(after)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [r.model_dump() for r in rollouts] == [r.model_dump() for r in others]
    stages = [Run.open(path).stage(2, "grpo") for path in (meanwhile, after)]
    summaries = [stage.summary() for stage in stages]
    assert [summary["overlap"] for summary in summaries] == [True, False]
    clocks = {"seconds": 0, "busy": 0}
    assert summaries[0]["usage"] | clocks == summaries[1]["usage"] | clocks
    for ours, theirs in zip(*(stage.metrics() for stage in stages), strict=True):
        calls = [
            {k: v for k, v in row.metrics.items() if k.startswith("calls/") and k[6:] not in clocks}
            for row in (ours, theirs)
        ]
        assert calls[0] == calls[1]
        assert theirs.metrics["judge/wait_seconds"] >= theirs.metrics["judge/busy_seconds"] >= 0
        assert ours.metrics["judge/busy_seconds"] >= 0


def test_another_change_of_the_recipe_is_still_refused(recipe: Path) -> None:
    out = recipe.parent / "capped"
    refused = run("align", str(recipe), "--out", str(out), "--resume", "--set", "stages.1.steps=7")
    assert refused.returncode == 2 and "stages.1.steps was 6, is 7" in refused.stderr


def test_a_cap_on_money_needs_a_price(recipe: Path) -> None:
    refused = run("align", str(recipe), "--dry-run", "--set", "budget.money=1")
    assert refused.returncode == 2 and "has no price" in refused.stderr
