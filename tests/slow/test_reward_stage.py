"""Stage reward-model and GRPO by its scores, through ``rubrica align``: what is learnt, kept, and done once."""

import json
import subprocess
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from align_setup import CAREFUL, REQUESTS, ROUGH, command, environment, run, write_policy
from safetensors.torch import load_file
from scipy.optimize import minimize

from rubrica.control import chat_control
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Rollout
from rubrica.core.run import Run, Stage
from rubrica.models.reward import HFRewardModel, conversation_ids
from rubrica.recipes.reward_scores import KIND, RewardScore
from rubrica.train.policy import Lora, Start
from rubrica.train.reward_model import TextPair, pad_apart, train_reward_model
from tiny import tiny_checkpoint, tiny_tokenizer

pytestmark = pytest.mark.slow
UTILITIES = (-1.2, -0.5, 0.0, 0.4, 1.3)
TEXTS = ("No.", "Boil it.", "Let it cool.", "Strain it first.", "Take care and ask.")
PER_PAIR = 8


def comparisons() -> list[tuple[int, int]]:
    """(winner, loser): each pair compared eight times, wins by the logistic law of the planted utilities, rounded."""
    found = []
    for i, j in combinations(range(len(UTILITIES)), 2):
        wins = round(PER_PAIR / (1 + np.exp(UTILITIES[j] - UTILITIES[i])))
        found += [(i, j)] * wins + [(j, i)] * (PER_PAIR - wins)
    return found


def most_likely() -> np.ndarray:
    """Utilities of greatest likelihood under Bradley-Terry, found without any model; their mean is 0."""
    won, lost = np.array(comparisons()).T
    done = minimize(lambda u: np.logaddexp(0, u[lost] - u[won]).sum() + 1e-9 * (u**2).sum(), np.zeros(5))
    return done.x - done.x.mean()


@pytest.mark.parametrize("lora", [None, Lora(r=8, alpha=16)], ids=["full", "lora"])
def test_bradley_terry_recovers_planted_utilities(tmp_path: Path, lora: Lora | None) -> None:
    tokenizer = tiny_tokenizer()
    pad_apart(tokenizer)
    prompt = Prompt(id="p", messages=(Message(role="user", content="How?"),))
    control = chat_control(tokenizer)
    ids = [conversation_ids(tokenizer, control, prompt, text) for text in TEXTS]
    rows = [TextPair(ids[won], ids[lost]) for won, lost in comparisons()]
    stage = Stage(tmp_path / "stage")
    start = Start(model=tiny_checkpoint(tmp_path / "lm"), lora=lora, dtype="float32")
    options = {
        "learning_rate": 5e-3,
        "per_device_train_batch_size": len(rows),
        "max_steps": 150,
        "save_steps": 150,
        "lr_scheduler_type": "cosine",
    }
    train_reward_model(start, rows, tokenizer, stage, options, seed=0)
    model = HFRewardModel(stage.model_dir, dtype="float32")
    scores = np.array([dict(model.score([(prompt, text)]))[0] for text in TEXTS])
    found, best = scores - scores.mean(), most_likely()
    assert found == pytest.approx(best, abs=0.15)
    assert np.corrcoef(found, UTILITIES)[0, 1] > 0.97


def write_recipe(folder: Path, texts: str = "revision") -> Path:
    """No judge anywhere: pairs by the teacher, rewards by the model that the first stage leaves."""
    write_policy(folder / "policy", ROUGH)
    write_policy(folder / "teacher", CAREFUL, seed=1)
    (folder / "prompts.txt").write_text("\n".join(REQUESTS))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""\
name: scalar
policy: {{model: {folder / "policy"}, dtype: float32}}
teacher: {{model: {folder / "teacher"}, dtype: float32}}
program: lab
reflect: false
prompts: {{train: [{folder / "prompts.txt"}]}}
stages:
  - type: reward-model
    examples: 30
    held_out: 0.2
    sampling: {{temperature: 0.5, max_tokens: 28}}
    trainer: {{learning_rate: 5.0e-3, num_train_epochs: 10, per_device_train_batch_size: 8, save_steps: 5}}
  - type: grpo
    reward_model: {{model: "stage:reward-model", dtype: float32, texts: {texts}}}
    steps: 6
    prompts_per_step: 4
    group_size: 4
    max_completion_tokens: 28
    temperature: 1.5
    save_steps: 2
    trainer: {{learning_rate: 1.0e-3}}
"""
    )
    return recipe


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scalar")
    recipe = write_recipe(folder)
    done = run("align", str(recipe), "--out", str(folder / "straight"), timeout=600)
    assert done.returncode == 0, done.stderr
    return recipe, folder / "straight"


def rollouts(out: Path) -> list[Rollout]:
    with Run.open(out) as opened:
        return opened.store.all("rollout", Rollout)


def test_the_model_tells_held_out_pairs_apart_and_the_policy_is_trained_on_it(
    setup: tuple[Path, Path],
) -> None:
    _, out = setup
    with Run.open(out) as opened:
        trained, rl = (opened.stage(n, kind).summary() for n, kind in ((1, "reward-model"), (2, "grpo")))
        metrics = opened.stage(2, "grpo").metrics()
    assert (
        trained["held_out"] == 6
        and trained["accuracy"] > 0.8
        and trained["accuracy_low"] < trained["accuracy"]
    )
    assert rl["reward_model"] == trained["fingerprint"] and rl["texts"] == "revision"
    assert any(row.metrics["frac_reward_zero_std"] < 1 for row in metrics)
    before, after = (
        load_file(path / "model.safetensors")
        for path in (out.parent / "policy", out / "stages/02-grpo/model")
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_rewards_follow_from_the_stored_scores(setup: tuple[Path, Path]) -> None:
    """r2 = (score - centre) / spread of the first step, and that is the reward; the floor for what was cut off."""
    _, out = setup
    made = rollouts(out)
    with Run.open(out) as opened:
        scale = opened.stage(2, "grpo").summary()["scale"]
        kept = opened.store.all(KIND, RewardScore)
    scores = {}
    model = HFRewardModel(out / "stages/01-reward-model/model", dtype="float32")
    well = [r for r in made if r.attempt.malformed is None]
    prompts = {r.prompt_id: r for r in well}
    assert {r.reward_model for r in made} == {model.fingerprint} == {s.model for s in kept}
    with Run.open(out) as opened:
        asked = {id: opened.store.get("prompt", id, Prompt) for id in prompts}
    for index, score in model.score([(asked[r.prompt_id], r.attempt.revision) for r in well]):
        scores[well[index].id] = score
    first = [scores[r.id] for r in well if r.step == 1]
    assert scale["center"] == pytest.approx(np.mean(first), abs=1e-4)
    assert scale["spread"] == pytest.approx(np.std(first), abs=1e-4)
    for r in made:
        if r.attempt.malformed is None:
            assert r.r1 is None and r.draft_card is None
            assert (
                r.reward
                == r.r2
                == pytest.approx((scores[r.id] - scale["center"]) / scale["spread"], abs=1e-3)
            )
        else:
            group = [o.r2 for o in well if (o.step, o.prompt_id) == (r.step, r.prompt_id)]
            assert r.reward == pytest.approx(min([-1.0, *group]) - 0.5)


def test_a_killed_run_ends_like_a_straight_one_and_scores_nothing_twice(setup: tuple[Path, Path]) -> None:
    recipe, straight = setup
    out = straight.parent / "killed"
    for marker in ("01-reward-model/metrics.jsonl", "02-grpo/metrics.jsonl"):
        process = subprocess.Popen(
            command("align", str(recipe), "--out", str(out), "--resume"),
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        log, deadline = out / "stages" / marker, time.monotonic() + 600
        while not log.exists() or log.read_text().count("\n") < 3:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.01)
        process.kill()
        process.communicate()
    done = run("align", str(recipe), "--out", str(out), "--resume", timeout=600)
    assert done.returncode == 0, done.stderr
    for stage in ("01-reward-model", "02-grpo"):
        ours, theirs = (load_file(p / "stages" / stage / "model/model.safetensors") for p in (out, straight))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [r.model_dump() for r in rollouts(out)] == [r.model_dump() for r in rollouts(straight)]
    with Run.open(out) as a, Run.open(straight) as b:
        assert len(a.store.all(KIND, RewardScore)) == len(b.store.all(KIND, RewardScore))


def test_report_and_what_if_say_that_there_are_no_verdicts(setup: tuple[Path, Path]) -> None:
    _, out = setup
    page = (out / "report.html").read_text()
    assert "A reward model scored this completion" in page and "was rewarded by a reward model" in page
    done = run("score", "--from", str(out), "--reward", "qa-lign")
    assert done.returncode == 2 and "no verdicts to value again" in done.stderr


def test_both_texts_may_be_scored_of_plain_answers_too(tmp_path: Path) -> None:
    """A plain answer is draft and revision at once: R(s, s) = 2 s, and each text is scored once."""
    recipe, out = write_recipe(tmp_path, texts="both"), tmp_path / "out"
    done = run("align", str(recipe), "--out", str(out), "--set", "stages.1.steps=1", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"].endswith("02-grpo/model")
    well = [r for r in rollouts(out) if r.attempt.malformed is None]
    assert well and all(r.r1 == r.r2 and r.reward == pytest.approx(2 * r.r1) for r in well)
