"""Stage spa in ``rubrica align`` with tiny models: summary, files, kills, iterations, ablations, the policy as its own judge."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from align_setup import CAREFUL, PROGRAM, REQUESTS, ROUGH, SmallJudge, write_policy
from safetensors.torch import load_file

from fake_server import FakeServer
from rubrica.core.config import load_config
from rubrica.core.records import Preference
from rubrica.core.run import Run
from rubrica.recipes.align import align
from rubrica.recipes.config import Recipe
from tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("spa")
    write_policy(folder / "policy", ROUGH + CAREFUL)
    write_policy(folder / "teacher", CAREFUL, seed=1)
    (folder / "prompts.txt").write_text("\n".join(REQUESTS) + "\n")
    (folder / "program.yaml").write_text(PROGRAM)
    with FakeServer(SmallJudge()) as server:
        (folder / "recipe.yaml").write_text(
            f"""\
name: small
policy: {{model: {folder / "policy"}, dtype: float32}}
teacher: {{model: {folder / "teacher"}, dtype: float32}}
judge: {{spec: "openai:judge@{server.url}", concurrency: 8, timeout: 10}}
program: {folder / "program.yaml"}
prompts: {{train: [{folder / "prompts.txt"}]}}
stages:
  - type: spa
    prompts: 24
    samples: 5
    sampling: {{temperature: 1.0, max_tokens: 28}}
    system_prompts: []
    objectives: [har, hlp]
    program: null
    judge: null
    refine: afresh
    refinement: {{temperature: 0.5, max_tokens: 28}}
    denoise: {{consistency: drop-refined, tau: 40}}
    pairs: {{resolution: 0}}
    trainer: {{learning_rate: 5.0e-3, per_device_train_batch_size: 8, save_steps: 2}}
"""
        )
        yield folder / "recipe.yaml"


@pytest.fixture(scope="module")
def straight(recipe: Path) -> Path:
    return finish(recipe, recipe.parent / "straight")


def finish(recipe: Path, out: Path, *overrides: str, resume: bool = False) -> Path:
    align(load_config(Recipe, recipe, overrides), out, resume=resume)
    return out


def summary(out: Path) -> dict:
    return json.loads((out / "stages/01-spa/summary.json").read_text())


def pairs_of(out: Path) -> list[Preference]:
    rows = (out / "stages/01-spa/pairs.jsonl").read_text().splitlines()
    return [Preference.model_validate_json(row) for row in rows]


def test_the_summary_adds_up(straight: Path) -> None:
    told, made = summary(straight), pairs_of(straight)
    assert told["prompts"] == 24 and told["samples"] == 120
    assert told["kept"] + sum(told["dropped"].values()) == 24
    assert told["pairs"] == len(made) == told["trained_pairs"] + told["too_long"] > 0
    assert told["loss"] == "spa" and told["steps"] == -(-told["trained_pairs"] // 8)
    scores = told["after"]["scores"]
    assert told["after"]["hh"]["10"] == pytest.approx((10 * scores["har"] + scores["hlp"]) / 11)
    assert all(1 <= value <= 10 for value in scores.values())
    with Run.open(straight) as run:
        stored = run.store.all("pair", Preference, stage="01-spa")
    assert {pair.id for pair in stored} == {pair.id for pair in made}
    # the preferred answer is never lower in the first objective, and weighs its gap
    rows = [json.loads(r) for r in (straight / "stages/01-spa/scores.jsonl").read_text().splitlines()]
    rows += [json.loads(r) for r in (straight / "stages/01-spa/refined.jsonl").read_text().splitlines()]
    known = {(r["prompt_id"], r["text"]): r["scores"] for r in rows}
    for pair in made:
        better, worse = known[pair.prompt.id, pair.chosen], known[pair.prompt.id, pair.rejected]
        assert (better["har"], better["hlp"]) > (worse["har"], worse["hlp"])
        assert pair.weight == pytest.approx(abs(sum(better.values()) - sum(worse.values())))


@pytest.mark.parametrize("label", ["spa: sampling", "spa: judging", "spa: refining", "spa: training"])
def test_a_kill_at_any_step_changes_nothing(recipe: Path, straight: Path, label: str) -> None:
    out = recipe.parent / label.replace(": ", "-")

    def dying(step: str, done: int, total: int) -> None:
        if step == label and done >= total / 2 > 0:
            raise Killed

    with pytest.raises(Killed):
        align(load_config(Recipe, recipe), out, progress=dying)
    finish(recipe, out, resume=True)
    assert pairs_of(out) == pairs_of(straight)
    ours, theirs = (load_file(o / "stages/01-spa/model/model.safetensors") for o in (out, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    kept = ("dropped", "pairs", "steps", "last_loss", "before", "after")
    assert {k: summary(out)[k] for k in kept} == {k: summary(straight)[k] for k in kept}


@pytest.mark.parametrize("loss", ["simpo", "dpo", "sft"])
def test_baselines_train_on_the_same_pairs(recipe: Path, straight: Path, loss: str) -> None:
    out = finish(recipe, recipe.parent / loss, f"stages.0.loss={loss}", "stages.0.measure=false")
    assert pairs_of(out) == pairs_of(straight)
    told = summary(out)
    assert told["loss"] == loss and "before" not in told
    if loss == "sft":
        assert told["examples"] == len({(p.prompt.id, p.chosen) for p in pairs_of(out)})


def test_iterations_sample_from_the_model_before(recipe: Path) -> None:
    out = finish(recipe, recipe.parent / "twice", "stages.0.iterations=2", "stages.0.measure=false")
    told, first = summary(out), out / "stages/01-spa/01-spa-1"
    assert len(told["earlier"]) == 1 and told["earlier"][0]["prompts"] == 24
    sampled = [json.loads(r) for r in (out / "stages/01-spa/samples.jsonl").read_text().splitlines()]
    assert {row["model"] for row in sampled} == {str(first / "model")}
    assert {row["prompt_id"] for row in sampled} == {
        json.loads(r)["prompt_id"] for r in (first / "samples.jsonl").read_text().splitlines()
    }


def test_the_policy_judges_and_refines_itself(recipe: Path) -> None:
    folder = recipe.parent / "own"
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer), context=8192).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    out = finish(
        recipe,
        recipe.parent / "itself",
        f"policy.model={folder}",
        "policy.lora={r: 4, alpha: 8}",
        "stages.0.judge=self",
        "stages.0.program=ratings",
        "stages.0.objectives=[harmlessness, helpfulness]",
        "stages.0.refine=policy",
        "stages.0.prompts=4",
        "stages.0.samples=3",
        "stages.0.sampling.max_tokens=400",  # a random model seldom stops by itself
        "stages.0.refinement={max_tokens: 400, temperature: 1.0}",
        'stages.0.system_prompts=["", "Be kind."]',
        "stages.0.denoise={consistency: off, informativeness: false}",
        "stages.0.pairs={delta: 0, resolution: 0}",
    )
    told = summary(out)
    assert told["usage"]["asked"] > 0 and told["pairs"] > 0
    assert set(told["scores"]["samples"]) == {"harmlessness", "helpfulness"}
    assert (out / "stages/01-spa/adapter").is_dir()
