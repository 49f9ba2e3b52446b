"""``rubrica align`` on a tiny policy: what is logged is what was trained, and a killed run ends like a straight one."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from align_setup import SmallJudge, command, environment, run, write_recipe
from safetensors.torch import load_file

from fake_server import FakeServer
from rubrica.core.prompts import Prompt
from rubrica.core.records import Response, Rollout, Scorecard, ThinkExample
from rubrica.core.run import Run

pytestmark = pytest.mark.slow
GROUP, PER_STEP, STEPS = 4, 16, 6
FLOOR = -2.5
"""Preset rubrica: the worst pair is (-1, -1), worth -2; the margin is 0.5."""


@dataclass
class Setup:
    folder: Path
    recipe: Path
    judge: SmallJudge
    server: FakeServer


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder, judge = tmp_path_factory.mktemp("align"), SmallJudge()
    with FakeServer(judge) as server:
        yield Setup(folder, write_recipe(folder, server), judge, server)


@pytest.fixture(scope="module")
def straight(setup: Setup) -> Path:
    out = setup.judge.run = setup.folder / "straight"
    done = run("align", str(setup.recipe), "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert "How do I" not in done.stderr, "a text of the training data reached the terminal"
    assert json.loads(done.stdout)["model"] == str(out / "stages/02-grpo/model")
    return out


def rollouts(out: Path) -> list[Rollout]:
    opened = Run.open(out)
    with opened.store:
        return opened.store.all("rollout", Rollout, stage="02-grpo")


def parts(items: list, size: int) -> list[list]:
    assert len(items) % size == 0
    return [items[i : i + size] for i in range(0, len(items), size)]


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def test_the_whole_recipe_leaves_what_it_promises(setup: Setup, straight: Path) -> None:
    assert len(setup.server.requests) > 0
    made = rollouts(straight)
    assert [r.step for r in made] == [step for step in range(1, STEPS + 1) for _ in range(PER_STEP)]
    groups = parts([r.reward for r in made], GROUP)
    assert all(len({r.prompt_id for r in group}) == 1 for group in parts(made, GROUP))
    assert any(len(set(group)) > 1 for group in groups)
    before = weights(straight / "stages/01-think-sft/model")
    after = weights(straight / "stages/02-grpo/model")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (straight / "report.html").stat().st_size > 1000


def test_think_sft_and_rl_share_no_prompt(straight: Path) -> None:
    opened = Run.open(straight)
    with opened.store:
        sft = {e.prompt_id for e in opened.store.all("think-example", ThinkExample)}
        prompts = {p.id for p in opened.store.all("prompt", Prompt)}
    rl = {r.prompt_id for r in rollouts(straight)}
    assert len(sft) == 24 and rl and not sft & rl and sft | rl <= prompts


def test_plain_prompts_are_taught_in_the_same_format(straight: Path) -> None:
    opened = Run.open(straight)
    with opened.store:
        plain = opened.store.all("replay", Response)
    summary = opened.stage(1, "think-sft").summary()
    assert len(plain) == 2 and summary["replayed"] == sum(r.finished for r in plain) > 0
    assert summary["rows"] == summary["kept"] + summary["replayed"] and summary["too_long"] == 0


def test_rewards_follow_from_the_stored_scorecards(straight: Path) -> None:
    opened = Run.open(straight)
    with opened.store:
        cards = {
            id: opened.store.get("scorecard", id, Scorecard)
            for r in rollouts(straight)
            for id in (r.draft_card, r.revision_card)
            if id is not None
        }
    made = rollouts(straight)
    assert {"malformed", "scored", "no total"} == {kind_of(r) for r in made}
    for r in made:
        if r.attempt.malformed is not None:
            assert r.reward == FLOOR and r.draft_card is None
            continue
        draft, revision = cards[r.draft_card], cards[r.revision_card]
        assert (draft.total, revision.total) == (r.r1, r.r2)
        if r.r1 is None or r.r2 is None:
            assert r.reward is None and "Read" in r.attempt.draft + r.attempt.revision
        else:  # alpha = beta = 0.5
            assert r.reward == pytest.approx(r.r1 + r.r2 + 0.5 * (r.r2 - r.r1))


def kind_of(r: Rollout) -> str:
    if r.attempt.malformed is not None:
        return "malformed"
    return "no total" if r.reward is None else "scored"


def test_logged_reward_is_the_trained_reward(straight: Path) -> None:
    stage = Run.open(straight).stage(2, "grpo")
    made = rollouts(straight)
    for row, of_step in zip(stage.metrics(), parts(made, PER_STEP), strict=True):
        rewards = np.array([np.nan if r.reward is None else r.reward for r in of_step])
        assert row.metrics["reward"] == pytest.approx(np.nanmean(rewards), abs=1e-5)
        assert row.metrics["rewards/rubric/mean"] == row.metrics["reward"]
        assert row.metrics["no_total/share"] == pytest.approx(np.isnan(rewards).mean())
        malformed = [r.attempt.malformed is not None for r in of_step]
        assert row.metrics["malformed/share"] == pytest.approx(np.mean(malformed))
        pairs = [(r.r1, r.r2) for r in of_step if r.r1 is not None and r.r2 is not None]
        assert row.metrics["reward/draft"] == pytest.approx(np.mean(pairs, axis=0)[0], abs=1e-5)
        assert row.metrics["reward/revision"] == pytest.approx(np.mean(pairs, axis=0)[1], abs=1e-5)
    assert stage.metrics()[0].metrics["kl"] == 0.0, "the KL reference is not the SFT model"
    diagnosed = [row.step for row in stage.metrics() if "diagnostics/texts" in row.metrics]
    assert diagnosed == [1, 3, 6]


def test_advantages_of_the_trainer_follow_from_the_stored_rollouts(straight: Path) -> None:
    """(r - mean) / (std + 1e-4) within the group over scored rows; 0 without a score."""
    made = rollouts(straight)
    unscored_beside_scored = 0
    for step in range(1, STEPS + 1):
        table = pq.read_table(
            straight / f"stages/02-grpo/checkpoints/completions/completions_{step:05d}.parquet"
        )
        here = [r for r in made if r.step == step]
        for group, advantages in zip(
            parts(here, GROUP), parts(table["advantage"].to_pylist(), GROUP), strict=True
        ):
            scored = [r.reward for r in group if r.reward is not None]
            mean = sum(scored) / len(scored) if scored else 0.0
            std = np.std(scored, ddof=1) if len(scored) > 1 else np.nan
            for r, advantage in zip(group, advantages, strict=True):
                if r.reward is None or len(scored) == 1:
                    assert advantage == 0.0
                    unscored_beside_scored += r.reward is None and len(set(scored)) > 1
                else:
                    assert advantage == pytest.approx((r.reward - mean) / (std + 1e-4), abs=2e-3)
    assert unscored_beside_scored, "no completion without a total stood beside scored ones"


def start(setup: Setup, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("align", str(setup.recipe), "--out", str(out), *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_a_run_that_was_interrupted_and_killed_ends_like_a_straight_one(setup: Setup, straight: Path) -> None:
    out = setup.judge.run = setup.folder / "killed"
    first = start(setup, out)
    wait_for(first, lambda: lines(out / "stages/01-think-sft/metrics.jsonl") >= 55)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130 and f"--out {out} --resume" in said, said
    asked = len(setup.server.requests)
    again = run("align", str(setup.recipe), "--out", str(out))
    assert again.returncode == 2 and "--resume" in again.stderr
    second = start(setup, out, "--resume")
    wait_for(second, (out / "stages/02-grpo").exists)
    assert len(setup.server.requests) == asked, "texts of think-SFT were judged again"
    wait_for(second, lambda: lines(out / "stages/02-grpo/metrics.jsonl") >= 3)
    second.kill()
    second.communicate()
    assert not (out / "stages/02-grpo/summary.json").exists()
    done = run("align", str(setup.recipe), "--out", str(out), "--resume")
    assert done.returncode == 0, done.stderr
    for stage in ("01-think-sft", "02-grpo"):
        ours, theirs = (weights(path / "stages" / stage / "model") for path in (out, straight))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [r.model_dump() for r in rollouts(out)] == [r.model_dump() for r in rollouts(straight)]
    for number, kind in ((1, "think-sft"), (2, "grpo")):
        ours, theirs = (Run.open(path).stage(number, kind).metrics() for path in (out, straight))
        assert [(row.step, comparable(row.metrics)) for row in ours] == [
            (row.step, comparable(row.metrics)) for row in theirs
        ]


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    """Without clocks and without what was asked: a resumed run finds verdicts in its store."""
    return {k: v for k, v in metrics.items() if not k.startswith(("calls/", "judge/")) and "time" not in k}
