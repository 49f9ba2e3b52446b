"""Recipes with reward models: what is refused before anything is loaded, what must stay the same, pairs, forecasts."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rubrica.core.errors import UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Preference, Response, Sampling
from rubrica.methods.dpo import NO_SCORE, NOT_BETTER, TOO_FEW, best_over_worst
from rubrica.program.program import load_program
from rubrica.recipes.checks import check_recipe
from rubrica.recipes.config import Recipe, recipe_identity
from rubrica.recipes.forecast import forecast
from rubrica.recipes.reward_model import split
from rubrica.recipes.reward_source import open_reward_model, served
from rubrica.recipes.stages.grpo import ScalarReward
from rubrica.recipes.surroundings import default_surroundings

LAB = load_program("lab")
TRAIN = {"type": "reward-model", "examples": 10}


def recipe(reward_model: dict | None, *before: dict, **changes: object) -> Recipe:
    grpo = {"type": "grpo", "steps": 3, "prompts_per_step": 2, "group_size": 2, "reward_model": reward_model}
    base = {
        "name": "r",
        "policy": {"model": "m"},
        "teacher": {"model": "t"},
        "prompts": {"train": ["train"]},
        "reflect": False,
        "stages": [*before, grpo],
    }
    return Recipe.model_validate(base | changes)


def check(loaded: Recipe) -> None:
    check_recipe(loaded, LAB, "r.yaml", default_surroundings())


@pytest.mark.parametrize(
    "model",
    [
        {"model": "owner/name", "label": "GOOD", "batch_tokens": 4096},
        {"model": "vllm:owner/name@http://localhost:8000/v1", "label": 0, "endpoint": "pooling"},
        {"model": "rubrica:http://localhost:8700", "timeout": 600},
    ],
)
def test_a_recipe_with_a_reward_model_needs_no_judge(model: dict) -> None:
    check(recipe(model))
    check(recipe({"model": "stage:reward-model"}, TRAIN))


@pytest.mark.parametrize(
    ("given", "before", "said"),
    [
        ({"model": "stage:reward-model"}, (), "no stage of type reward-model stands before this one"),
        ({"model": "stage:rewardmodel"}, (TRAIN,), r"did you mean 'stage:reward-model'\?"),
        ({"model": "vllm:m@localhost:8000"}, (), "expected vllm:MODEL@URL or rubrica:URL"),
        ({"model": "m", "endpoint": "pooling"}, (), "reward_model.endpoint: is for a server alone"),
        (
            {"model": "rubrica:http://h:1", "head": "x"},
            (),
            "reward_model.head: is for a model in this process alone",
        ),
        ({"model": "vllm:m@http://h:1", "label": "GOOD"}, (), "expected an index"),
        ({"model": "m", "head": "nowhere.safetensors"}, (), "nowhere.safetensors: no such file"),
        (None, (), r"judge: none is named, but stages\.0 \(grpo\) asks one; name one, for example lab"),
        (
            {"model": "m"},
            ({**TRAIN, "preferred": "judge"},),
            r"stages\.0 \(reward-model\) asks one",
        ),
        ({"model": "m"}, ({**TRAIN, "pairs": ["none.jsonl"]},), r"pairs\.0: none\.jsonl: no such file"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(
    given: dict | None, before: tuple[dict, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check(recipe(given, *before))


def test_pairs_need_somebody_who_writes_the_better_answer() -> None:
    with pytest.raises(UsageError, match="nobody writes the preferred answers"):
        check(recipe({"model": "m"}, TRAIN, teacher=None))
    alone = {**TRAIN, "preferred": "judge", "samples": 1}
    with pytest.raises(UsageError, match="samples is 1; expected 2 or more"):
        check(recipe({"model": "m"}, alone, teacher=None, judge="lab-oracle"))


@pytest.mark.parametrize("extra", [{"reference": "lab-oracle"}, {"overlap": True}])
def test_what_only_a_judge_does_is_refused_beside_a_reward_model(extra: dict) -> None:
    with pytest.raises(ValidationError, match="a reward model has none; remove one of the two"):
        recipe(None, {"type": "grpo", "reward_model": {"model": "m"}, **extra})


def identity(**model: object) -> object:
    return recipe_identity(recipe(model).model_dump(mode="json"))


def test_a_run_goes_on_when_the_server_has_moved_but_not_with_another_model() -> None:
    one = identity(model="vllm:m@http://one:8000", concurrency=4)
    assert one == identity(model="vllm:m@http://two:9000/v1", concurrency=64, timeout=9)
    assert one != identity(model="vllm:other@http://one:8000")
    assert one != identity(model="vllm:m@http://one:8000", version="2")
    assert one != identity(model="vllm:m@http://one:8000", texts="revision")
    assert identity(model="a") != identity(model="b")


def test_the_servers_spec() -> None:
    assert served("vllm:owner/m@http://h:1/v1") == ("owner/m", "http://h:1/v1")
    assert served("rubrica:https://h/x") == ("", "https://h/x")
    assert served("owner/name") is None and served("stage:reward-model") is None
    source = ScalarReward(model="vllm:m@http://h:1", version="2")
    assert (
        open_reward_model(source).fingerprint
        != open_reward_model(ScalarReward(model="vllm:m@http://h:1")).fingerprint
    )


def test_the_forecast_counts_no_judge_call_that_nobody_makes() -> None:
    """3 steps of 2 x 2 completions; diagnostics on step 1 alone would be 16 texts x 24 questions."""
    found = forecast(recipe({"model": "m"}, TRAIN), LAB)
    assert (found.questions, found.judges, found.total("judge_calls")) == (0, 0, 0)
    assert [(stage.texts, stage.tokens) for stage in found.stages] == [(20, 20 * 512), (12, 12 * 1536)]
    judged = forecast(recipe({"model": "m"}, {**TRAIN, "preferred": "judge"}, judge="lab"), LAB)
    # two answers of the policy, one of the teacher; what is diagnosed
    assert [stage.judge_calls for stage in judged.stages] == [10 * 3 * 24, 16 * 24]


# --- pairs ----------------------------------------------------------------------------------------


def ask(id: str, text: str = "") -> Prompt:
    return Prompt(id=id, messages=(Message(role="user", content=text or id),))


def answer(text: str, *, finished: bool = True) -> Response:
    return Response(
        id=text or "-", prompt_id="p", text=text, model="m", sampling=Sampling(), tokens=1, finished=finished
    )


def test_the_best_answer_is_paired_with_the_worst() -> None:
    prompts = [ask(id) for id in ("three", "tied", "unscored", "cut")]
    answers = [
        [answer("low"), answer("high"), answer("middle"), answer("higher but cut", finished=False)],
        [answer("a"), answer("b")],
        [answer("a"), answer("b")],
        [answer("a"), answer("", finished=True), answer("b", finished=False)],
    ]
    totals = [[-0.5, 0.75, 0.1, 1.0], [0.5, 0.5], [0.5, None], [0.5, -1.0, 1.0]]
    pairs, dropped = best_over_worst(prompts, answers, totals)
    [pair] = pairs
    assert (pair.prompt.id, pair.chosen, pair.rejected, pair.gap) == ("three", "high", "low", 1.25)
    assert dropped == [NOT_BETTER, NO_SCORE, TOO_FEW]


def pair(id: str, text: str) -> Preference:
    return Preference(id=id, prompt=ask(f"p{id}", text), chosen="yes", rejected="no")


def test_pairs_of_one_prompt_are_held_out_together() -> None:
    pairs = [pair(str(n), f"Question {n % 7}?" if n % 2 else f"question  {n % 7}?") for n in range(28)]
    train, held_out = split(pairs, 0.3, seed=0)
    sides = [{p.prompt.messages[0].content.casefold().split()[1] for p in side} for side in (train, held_out)]
    assert not sides[0] & sides[1] and len(sides[1]) == 2  # 0.3 of 7 prompts
    assert sorted(p.id for p in train + held_out) == sorted(p.id for p in pairs)
    assert split(pairs, 0.3, seed=0) == (train, held_out) != split(pairs, 0.3, seed=1)
    assert split(pairs, 0.0, seed=0) == (pairs, [])
    assert [len(side) for side in split(pairs[:2], 0.01, seed=0)] == [1, 1]
    assert [len(side) for side in split(pairs[:1], 0.5, seed=0)] == [1, 0]


def test_a_recipe_says_where_its_own_model_lies(tmp_path: Path) -> None:
    from rubrica.models.reward import HFRewardModel
    from tiny import tiny_reward_model

    folder = tiny_reward_model(tmp_path / "rm")
    opened = open_reward_model(ScalarReward(model="stage:reward-model", dtype="float32"), trained=folder)
    assert opened.fingerprint == HFRewardModel(folder, dtype="float32").fingerprint
