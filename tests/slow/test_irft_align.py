"""Stages irft and rft on a tiny policy: a killed run ends like a straight one, references, guard, adapters."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from align_setup import CAREFUL, REQUESTS, ROUGH, command, environment, run, write_policy
from safetensors.torch import load_file

from rubrica.core.config import dump_yaml
from rubrica.core.errors import TrainingError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Response, Rollout
from rubrica.core.run import Run, Stage
from rubrica.models.reward import HFRewardModel
from rubrica.recipes.align import align
from rubrica.recipes.config import Recipe
from rubrica.recipes.surroundings import default_surroundings

pytestmark = pytest.mark.slow
Options = dict[str, object]
TRAINER: Options = {"learning_rate": 1e-3, "optim": "adamw_torch", "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("irft")
    write_policy(folder / "policy", ROUGH)
    rows = [{"prompt": text, "response": CAREFUL[n % len(CAREFUL)]} for n, text in enumerate(REQUESTS[:24])]
    (folder / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(folder: Path, type: str = "irft", lora: Options | None = None, **stage: object) -> Recipe:
    shared = {
        "type": type,
        "demonstrations": [str(folder / "shown.jsonl")],
        "answers": {"temperature": 1.0, "max_tokens": 16},
    }
    policy: Options = {"model": str(folder / "policy"), "dtype": "float32", "lora": lora}
    return Recipe.model_validate(
        {
            "name": "r",
            "policy": policy,
            "judge": "lab-oracle",
            "program": "lab",
            "stages": [{**shared, **stage}],
        }
    )


def trained(out: Path, of: Recipe) -> Stage:
    align(of, out, surroundings=default_surroundings())
    return Stage(next((out / "stages").iterdir()))


def answers(out: Path) -> dict[str, dict[str, str]]:
    """What was answered to which prompt in each stage."""
    opened = Run.open(out)
    with opened.store:
        found = {n: opened.store.all("answer", Response, stage=f"01-irft/{n}") for n in ("01", "02", "03")}
    return {n: {response.prompt_id: response.text for response in each} for n, each in found.items()}


def kill_at(path: Path, out: Path, pattern: str) -> None:
    """Run the recipe at ``path`` and kill it as soon as there is a file like ``pattern`` in its folder."""
    process = subprocess.Popen(
        command("align", str(path), "--out", str(out)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    limit = time.monotonic() + 120
    while not list(out.glob(pattern)):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_run_ends_like_a_straight_one(folder: Path) -> None:
    """Killed while the second of three stages trains, after its answers and its first checkpoint."""
    of = recipe(folder, stages=3, trainer=TRAINER | {"num_train_epochs": 6, "save_steps": 2})
    path = folder / "recipe.yaml"
    path.write_text(dump_yaml(of))
    straight, killed = folder / "straight", folder / "killed"
    done = run("align", str(path), "--out", str(straight), "--json")
    assert done.returncode == 0, done.stderr
    kill_at(path, killed, "stages/01-irft/02/checkpoints/checkpoint-*/trainer_state.json")
    before = answers(killed)
    assert len(before["02"]) == 8 and not before["03"]
    assert run("align", str(path), "--out", str(killed), "--resume").returncode == 0
    assert answers(killed) == answers(straight) and answers(killed)["01"] == before["01"]
    weights = [load_file(out / "stages/01-irft/model/model.safetensors") for out in (straight, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    stages = [Stage(out / "stages/01-irft") for out in (straight, killed)]
    assert [row.step for row in stages[1].metrics()] == list(range(1, 37))
    assert stages[0].metrics() == stages[1].metrics()
    found = stages[1].summary()
    assert (found["demonstrations"], found["stages"], found["pairs"], found["steps"]) == (24, 3, 24, 36)
    assert found["accuracy"] == [1.0, 1.0, 1.0] and found["log_prob"][-1] > found["log_prob"][0]
    assert not list((killed / "stages").rglob("checkpoint-*")), "finished inner stages keep no checkpoints"
    assert len(list((killed / "stages").rglob("model.safetensors"))) == 1


def test_the_reference_is_the_stages_start_or_the_first(folder: Path) -> None:
    """At its reference the margin is 0; from the second stage on only ``stage`` starts there."""
    margins = {}
    for reference in ("stage", "initial"):
        stage = trained(
            folder / reference, recipe(folder, stages=2, reference=reference, steps=4, trainer=TRAINER)
        )
        margins[reference] = [row.metrics["pairs/margin"] for row in stage.metrics()]
    assert margins["stage"][:4] == margins["initial"][:4] and margins["stage"][0] == 0
    assert margins["stage"][4] == pytest.approx(0, abs=1e-6) and margins["initial"][4] > 0.05


def test_an_adapter_goes_on_from_stage_to_stage(folder: Path) -> None:
    lora: Options = {"r": 4, "alpha": 8}
    of = recipe(folder, lora=lora, stages=2, steps=5, trainer=TRAINER | {"learning_rate": 0.02})
    stage = trained(folder / "lora", of)
    margins = [row.metrics["pairs/margin"] for row in stage.metrics()]
    assert margins[0] == 0 and margins[4] > 0.1 and margins[5] == pytest.approx(0, abs=1e-5)
    assert (stage.path / "adapter/adapter_model.safetensors").exists()
    assert not list(stage.path.glob("0*/adapter"))


def test_the_guard_undoes_a_stage_that_makes_demonstrations_unlikely(folder: Path) -> None:
    hard = TRAINER | {"learning_rate": 0.1}
    options: Options = {"stages": 2, "steps": 20, "link": "literal", "trainer": hard}
    warned = trained(folder / "warned", recipe(folder, guard={"fall": 0.5}, **options))
    assert "log-probability fell" in str(warned.summary()["warning"])
    stopped = trained(folder / "stopped", recipe(folder, guard={"fall": 0.5, "then": "stop"}, **options))
    found = stopped.summary()
    assert str(found["warning"]).startswith("stage 2 of 2 was undone") and found["steps"] == 20
    assert found["log_prob"] == warned.summary()["log_prob"][:2]
    assert len(list(stopped.path.rglob("model.safetensors"))) == 1
    broken = options | {"trainer": TRAINER | {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9}}
    with pytest.raises(TrainingError, match="log-probability is nan; lower"):
        trained(folder / "broken", recipe(folder, **broken))
    calm = trained(
        folder / "calm", recipe(folder, guard={"then": "stop"}, stages=2, steps=2, trainer=TRAINER)
    )
    assert calm.summary()["warning"] is None


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_rft_rewards_with_its_own_model_and_keeps_the_first_reference(
    folder: Path, lora: Options | None
) -> None:
    out = folder / f"rft-{lora is None}"
    of = recipe(
        folder,
        "rft",
        lora,
        rounds=2,
        reward={"trainer": {"learning_rate": 1e-2, "max_steps": 30}},
        policy={"steps": 6, "prompts_per_step": 4, "group_size": 4, "trainer": {"learning_rate": 5e-3}},
    )
    stage = trained(out, of)
    found = stage.summary()
    assert [each["last_accuracy"] for each in found["reward"]] == [1.0, 1.0]
    divergence = [row.metrics["kl"] for row in stage.metrics()]
    assert len(divergence) == 12 and divergence[0] == pytest.approx(0, abs=1e-6)
    assert divergence[6] > 1e-4, "the second round starts away from the first one's reference"
    opened = Run.open(out)
    with opened.store:
        rollouts = opened.store.all("rollout", Rollout, stage="01-rft/02-policy")
        prompts = {r.prompt_id: opened.store.get("prompt", r.prompt_id, Prompt) for r in rollouts}
    assert len(rollouts) == 6 * 16
    model = HFRewardModel(stage.path / "reward", dtype="float32")
    items = [(prompts[r.prompt_id], r.response.text) for r in rollouts]
    scale = found["policy"][1]["scale"]
    scores = dict(model.score(items))
    for index, rollout in enumerate(rollouts):
        assert rollout.reward == pytest.approx(scores[index] / scale, abs=1e-3)
    assert len(list((out / "stages").rglob("model.safetensors"))) == 2


def test_a_killed_rft_goes_on_inside_its_round(folder: Path) -> None:
    """Killed while the second of two policies trains: reward models and the first policy are not trained again."""
    of = recipe(
        folder,
        "rft",
        rounds=2,
        reward={"trainer": {"learning_rate": 1e-2, "max_steps": 4}},
        policy={"steps": 4, "prompts_per_step": 2, "group_size": 2, "save_steps": 1},
    )
    path = folder / "rft.yaml"
    path.write_text(dump_yaml(of))
    straight, killed = folder / "rft-straight", folder / "rft-killed"
    trained(straight, of)
    kill_at(path, killed, "stages/01-rft/02-policy/checkpoints/checkpoint-*/trainer_state.json")
    done = [
        killed / "stages/01-rft" / name / "summary.json" for name in ("01-reward", "01-policy", "02-reward")
    ]
    times = [summary.stat().st_mtime_ns for summary in done]
    assert run("align", str(path), "--out", str(killed), "--resume").returncode == 0
    assert [summary.stat().st_mtime_ns for summary in done] == times
    for name in ("model", "reward"):
        weights = [
            load_file(out / "stages/01-rft" / name / "model.safetensors") for out in (straight, killed)
        ]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    metrics = [Stage(out / "stages/01-rft").metrics() for out in (straight, killed)]
    assert [row.metrics["reward"] for row in metrics[0]] == [row.metrics["reward"] for row in metrics[1]]
