"""Recipes: errors that name the line, prompts without overlap, a forecast that loads and writes nothing."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.config import load_config
from rubrica.core.errors import DataError, UsageError
from rubrica.core.programs import When
from rubrica.core.prompts import Message, Prompt
from rubrica.lab.checkpoints import DEMO_RECIPE
from rubrica.program.program import load_program, questions
from rubrica.recipes.config import Recipe
from rubrica.recipes.context import Surroundings
from rubrica.recipes.examples import REFLECTION_TOKENS
from rubrica.recipes.forecast import forecast, judging_cost
from rubrica.recipes.options import LabPrompts
from rubrica.recipes.prompts import arrange, gather, in_order
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.stages.think_sft import ThinkSft

PAPER = Path(__file__).parents[2] / "recipes/qa-lign-8b.yaml"


def prompt(text: str, kind: str = "", id: str = "") -> Prompt:
    tags = {"kind": kind} if kind else {}
    return Prompt(id=id or text, messages=(Message(role="user", content=text),), tags=tags)


def recipe(**changes: object) -> Recipe:
    base = {
        "name": "r",
        "policy": {"model": "m"},
        "judge": "lab",
        "prompts": {"train": ["train"]},
        "stages": [{"type": "think-sft", "examples": 4}, {"type": "grpo", "steps": 3, "prompts_per_step": 2}],
    }
    return Recipe.model_validate(base | changes)


def nowhere(name: str) -> list[Prompt]:
    raise AssertionError(f"asked for {name}")


# --- the file ---


def test_the_papers_recipe_holds_the_papers_values():
    loaded = load_config(Recipe, PAPER)
    sft, grpo = loaded.stages
    assert isinstance(sft, ThinkSft) and isinstance(grpo, Grpo)
    assert (sft.examples, sft.trainer["num_train_epochs"], sft.trainer["max_length"]) == (500, 1, 1536)
    assert (grpo.steps, grpo.prompts_per_step, grpo.group_size, grpo.temperature) == (100, 16, 5, 1.0)
    assert (grpo.trainer["learning_rate"], grpo.trainer["beta"]) == (1e-6, 0.001)
    assert loaded.reward.weights == (10, 1) and loaded.policy.dtype == "bfloat16"


def test_every_default_of_a_stage_that_the_paper_gives_is_the_papers():
    assert (ThinkSft().examples, Grpo().steps, Grpo().prompts_per_step, Grpo().group_size) == (
        500,
        100,
        16,
        5,
    )
    assert Grpo().temperature == 1.0 and Grpo().max_completion_tokens == 1536


@pytest.mark.parametrize("model", [Recipe, ThinkSft, Grpo])
def test_every_field_says_what_it_is(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("line", "written", "said"),
    [
        (2, "policy: {modle: m}", "did you mean 'model'"),
        (5, "stages: [{type: gpro}]", "did you mean 'grpo'"),
        (5, "stages: [{type: grpo, stepz: 3}]", "unknown key 'stages.0.stepz'"),
        (5, "stages: [{type: grpo, trainer: {learning_rate: -5}}]", "stages.0.trainer: learning_rate is -5"),
        (
            5,
            "stages: [{type: dpo, trainer: {max_length: 0}}]",
            "stages.0.trainer: max_length is 0; expected 2",
        ),
        (
            5,
            "stages: [{type: grpo, steps: 9e9}]",
            "stages.0: steps x prompts_per_step x group_size is 7.2e+11",
        ),
        (
            5,
            "stages: [{type: irft, demonstrations: [d], beta: .inf}]",
            "stages.0.beta: expected a finite number",
        ),
        (1, "seed: 99999999999999999999\nname: r", "seed: expected less than 4294967296"),
        (5, "stages: [{type: grpo, group_size: 1}]", "greater than or equal to 2"),
        (4, "prompts: {train: [a], mix: {harmful: 0.5}}", "add up to 1"),
    ],
)
def test_an_error_names_file_line_and_nearest_choice(tmp_path, line, written, said):
    rows = ["name: r", "policy: {model: m}", "judge: lab", "prompts: {train: [a]}", "stages: [{type: grpo}]"]
    rows[line - 1] = written
    path = tmp_path / "r.yaml"
    path.write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        load_config(Recipe, path)
    assert f"{path}:{line}: " in str(caught.value) and said in str(caught.value)


def test_the_demo_takes_the_constants_of_the_preset_that_is_asked_for():
    assert load_config(Recipe, DEMO_RECIPE).reward.weights == (0.5, 0.5)
    assert load_config(Recipe, DEMO_RECIPE, ["reward.preset=qa-lign"]).reward.weights == (10, 1)


# --- forecast ---


def test_forecast_of_the_paper_counts_every_question_about_every_text():
    found = forecast(load_config(Recipe, PAPER), load_program("hhh"))
    sft, grpo = found.stages
    # 500 drafts and as many revisions x 167 questions; 100 steps x 16 prompts x 5 completions x 2 texts x 167 questions
    assert (sft.stage, sft.judge_calls) == ("01-think-sft", 167_000)
    assert (grpo.stage, grpo.judge_calls) == ("02-grpo", 2_672_000)
    assert (found.questions, found.judges, found.total("judge_calls")) == (167, 1, 2_839_000)
    # a draft and a revision of 640 tokens for each example, completions of 1,536
    assert (sft.texts, sft.tokens) == (1_000, 500 * 2 * 640)
    assert (grpo.texts, grpo.tokens, grpo.updates) == (8_000, 8_000 * 1_536, 100)


def test_questions_about_prompts_and_both_judges_of_a_cascade_count():
    """Where every prompt differs and everything applies, each text is asked all questions, its prompt's included."""
    when = When(ask="Does the prompt ask for help?")
    program = load_program("lab")
    first, *others = program.principles
    program = program.model_copy(update={"principles": (first.model_copy(update={"when": when}), *others)})
    stages = [{"type": "grpo", "steps": 2, "prompts_per_step": 3, "group_size": 2}]
    found = forecast(recipe(stages=stages), program)
    assert found.total("judge_calls") == 2 * 3 * 2 * 2 * (len(list(questions(program))) + 1)
    mapping = {"cheap": "lab", "expensive": "openai:m@http://x", "thresholds": "t.json"}
    two = forecast(recipe(stages=stages, judge={"cascade": mapping}), program)
    assert two.total("judge_calls") == found.total("judge_calls")
    assert judging_cost(two, None, None).calls == 2 * judging_cost(found, None, None).calls
    assert judging_cost(two, None, None).tokens == 2 * judging_cost(found, None, None).tokens


def test_tokens_that_a_judge_writes_follow_its_mode():
    hhh, asked = load_program("hhh"), 4 * 2 * 167  # drafts and revisions of 4 examples
    for judge, each in (("lab", 1), ({"spec": "openai:m@http://x", "mode": "reason"}, 30)):
        found = forecast(recipe(judge=judge, stages=[{"type": "think-sft", "examples": 4}]), hhh)
        assert found.total("judge_completion_tokens") == asked * each + 4 * REFLECTION_TOKENS


def test_updates_of_every_kind_of_stage() -> None:
    """Rows over batch, rounded up, times epochs; 16 rows and one epoch where the recipe says nothing."""

    def updates(**stage: object) -> int | None:
        (found,) = forecast(recipe(stages=[stage]), load_program("lab")).stages
        return found.updates

    lab = [{"lab": "teacher", "examples": 50}]
    assert updates(type="think-sft", examples=20, replay_examples=13) == 3
    assert updates(type="dpo", examples=33, trainer={"num_train_epochs": 2}) == 6
    assert updates(type="dpo", examples=33, trainer={"max_steps": 5, "num_train_epochs": 2}) == 5
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert updates(type="sft", demonstrations=lab, trainer=batch) == 7
    assert updates(type="sft", demonstrations=["mine.jsonl"]) is None
    assert updates(type="sft", demonstrations=["mine.jsonl"], trainer={"max_steps": 9}) == 9
    assert updates(type="irft", demonstrations=lab, stages=3) == 3 * 2  # 17 demonstrations a stage
    assert updates(type="irft", demonstrations=lab, stages=3, steps=4) == 12
    assert updates(type="rft", demonstrations=lab, rounds=2, policy={"steps": 5}) == 2 * (2 + 5)
    assert updates(type="reward-model", examples=40) == 3
    assert updates(type="reward-model", pairs=["mine.jsonl"]) is None
    asked = {"rounds": 3, "labels_per_round": 20, "prompts_per_round": 50}
    assert updates(type="active-dpo", **asked) == 4 * (2 + 3 + 4)  # 20, 40, 60 labels, four epochs
    assert updates(type="active-dpo", **asked, train_on="round") == 4 * 3 * 2


def dry_run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``rubrica align --dry-run --json``, which fails if it imports torch."""
    code = (
        "import sys\n"
        "from rubrica.cli import main\n"
        "try:\n"
        "    main(['align', *sys.argv[1:], '--dry-run', '--json'])\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'trl', 'datasets', 'openai'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    said = [sys.executable, "-c", code, *words]
    return subprocess.run(said, capture_output=True, text=True, cwd=folder, timeout=120, check=False)


def test_dry_run_prints_the_forecast_without_torch_and_writes_nothing(tmp_path):
    done = dry_run(tmp_path, str(PAPER), "--set", "stages.1.steps=50")
    printed = json.loads(done.stdout)
    grpo = printed["forecast"]["stages"][1]
    assert (grpo["judge_calls"], printed["plan"]["name"]) == (1_336_000, "qa-lign-8b")
    # the plan is known before the prompts are there
    assert done.returncode == 0, done.stderr
    for said in (
        "prompts.train.0: data/wildjailbreak-rl-1600.jsonl",
        "prompts.sft.0: data/wildjailbreak-sft-500",
    ):
        assert f"not there yet: {said}" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stages.1.steps=3", None),
        ("prompts.train=[owner/name]", None),
        ("program=none.yaml", "r.yaml with --set: program: none.yaml: no such file in"),
        ("policy.chat_template=none.jinja", "policy.chat_template: none.jinja: no such file in"),
        ("policy.model=lab:startr", "did you mean 'starter'?"),
        ("prompts.mix={nope: 1}", "no prompt has kind 'nope'"),
        ("stages.0={type: think-sft, reflection: template}", "needs a phrase for every question"),
        ("judge=openai:ok", "expected openai:MODEL@URL"),
        ("evaluate.suites=[lba]", "did you mean 'lab'?"),
        ("stages.0.examples=5", "examples: 5 needs more prompts than the 3 given"),
        ("stages.0.examples=3", "think-SFT takes all of its 3 prompts"),
    ],
)
def test_dry_run_checks_all_that_needs_no_torch(tmp_path, setting, said):
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    (tmp_path / "r.yaml").write_text(
        "name: r\npolicy: {model: m}\njudge: openai:m@http://x\nprogram: lab\nprompts: {train: [p.txt]}\n"
        "stages: [{type: think-sft, examples: 2}, {type: grpo, steps: 2}]\n"
    )
    done = dry_run(tmp_path, "r.yaml", "--set", setting)
    assert "Traceback" not in done.stderr and done.returncode == (2 if said else 0), done.stderr
    assert (said or "checked when the run starts") in done.stderr


# --- prompts ---


def test_think_sft_takes_its_prompts_out_of_those_of_rl():
    pool = [prompt(f"p{i}") for i in range(9)]
    found = arrange(recipe(), files=lambda name: pool, lab=nowhere)
    sft, rl = {p.id for p in found.sft}, [p.id for p in found.rl]
    assert len(found.sft) == len(sft) == 4 and len(rl) == 6 and not sft & set(rl)
    assert len(set(rl[:5])) == 5, "each of the five others comes before one comes again"


def test_order_depends_on_the_seed_alone():
    pool = [prompt(f"p{i}") for i in range(30)]
    made = [arrange(recipe(seed=s), files=lambda name: pool, lab=nowhere) for s in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_a_prompt_given_for_both_stages_is_refused_whatever_its_case():
    files = {
        "train": [prompt("Brew  Tea"), prompt("x")],
        "sft": [prompt(t) for t in ("brew tea", "a", "b", "c")],
    }
    chosen = recipe(prompts={"train": ["train"], "sft": ["sft"]})
    with pytest.raises(DataError, match="given for SFT and for RL"):
        arrange(chosen, files=files.__getitem__, lab=nowhere)


def test_too_few_prompts_are_named():
    with pytest.raises(UsageError, match=r"examples: 4 needs more prompts than the 3 given"):
        arrange(recipe(), files=lambda name: [prompt(c) for c in "abc"], lab=nowhere)
    with pytest.raises(UsageError, match="takes all of its 4 prompts"):
        arrange(recipe(), files=lambda name: [prompt(c) for c in "abcd"], lab=nowhere)


def test_sources_are_joined_without_repeats_and_ids_must_differ():
    files = {"a": [prompt("x"), prompt("y")], "b": [prompt("Y", id="other"), prompt("z")]}
    found = gather(["a", LabPrompts(lab="k"), "b"], files.__getitem__, lambda kind: [prompt(kind)])
    assert [p.id for p in found] == ["x", "y", "k", "z"]
    files["b"].append(prompt("w", id="x"))
    with pytest.raises(DataError, match="'x' stands for two prompts"):
        gather(["a", "b"], files.__getitem__, nowhere)


@given(st.integers(1, 9), st.integers(1, 200), st.integers(0, 3))
def test_every_prefix_holds_the_shares_of_the_mix(tenths, count, seed):
    pool = [prompt(f"h{i}", "harmful") for i in range(5)] + [prompt(f"b{i}", "benign") for i in range(3)]
    mix = {"harmful": tenths / 10, "benign": 1 - tenths / 10}
    taken = list(itertools.islice(in_order(pool, mix, seed), count))
    harmful = sum(p.tags["kind"] == "harmful" for p in taken)
    assert abs(harmful - count * tenths / 10) <= 1


def test_a_kind_without_prompts_is_named():
    with pytest.raises(UsageError, match=r"no prompt has kind 'benign'; kinds found: harmful"):
        next(in_order([prompt("x", "harmful")], {"harmful": 0.5, "benign": 0.5}, 0))


def test_the_lab_is_a_seam():
    with pytest.raises(UsageError, match="needs the lab"):
        Surroundings().prompts("harmful")
    with pytest.raises(UsageError, match="needs the lab"):
        Surroundings().model("lab:starter")
    assert Surroundings().model("owner/name") == "owner/name"
    assert Surroundings(lab_model=lambda name: Path("/x") / name).model("lab:teacher") == "/x/teacher"
