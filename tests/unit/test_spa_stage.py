"""Options of stage spa: what is refused before a run, and what the forecast counts."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rubrica.core.config import load_config
from rubrica.core.errors import UsageError
from rubrica.lab.checkpoints import DEMO_RECIPE
from rubrica.methods.spa import Denoising
from rubrica.program.program import load_program
from rubrica.recipes.checks import check_recipe
from rubrica.recipes.config import Recipe, recipe_identity
from rubrica.recipes.forecast import forecast
from rubrica.recipes.stages.spa import Spa
from rubrica.recipes.surroundings import default_surroundings

FOLDER = Path(__file__).parents[2] / "recipes"


def recipe(**options: object) -> Recipe:
    demo = load_config(Recipe, DEMO_RECIPE)
    return demo.model_copy(update={"stages": [Spa.model_validate({"type": "spa", **options})]})


def check(**options: object) -> None:
    check_recipe(recipe(**options), load_program("lab"), "r.yaml", default_surroundings())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 2}, "expected at least 3"),
        ({"samples": 3, "objectives": ["a", "b", "c"]}, "expected at least 4"),
        ({"objectives": ["harmlessness", "harmlessness"]}, "name each once"),
        ({"objectives": ["harmlessness"]}, "at least 2"),
        ({"denoise": {"tau": "rv"}}, "rv needs reference"),
        ({"refine": "none", "denoise": {"consistency": "drop-refined"}}, "nothing to drop"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Spa.model_validate(options)


def test_two_samples_do_where_no_covariance_is_taken() -> None:
    assert Spa(samples=2, denoise=Denoising(informativeness=False)).samples == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"objectives": ["harmlessness", "helpfullness"]},
            "stages.0: objectives: .* .did you mean 'helpfulness'",
        ),
        ({"judge": "selv"}, "no such judge .did you mean 'self'"),
        ({"program": "missing.yaml"}, "program: missing.yaml: no such file"),
        ({"program": "rating"}, "no program called 'rating' .did you mean 'ratings'"),
    ],
)
def test_names_are_checked_before_the_run(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(**options)


def test_a_teacher_that_refines_must_be_named() -> None:
    alone = recipe(refine="afresh").model_copy(update={"teacher": None})
    with pytest.raises(UsageError, match="refine: afresh needs the recipe's teacher"):
        check_recipe(alone, load_program("lab"), "r.yaml", default_surroundings())
    check(refine="afresh", judge=None, program=None)
    check()


def test_prompts_are_taken_once_or_anew() -> None:
    assert Spa(prompts=10, iterations=3).prompts_needed == 10
    assert Spa(prompts=10, iterations=3, fresh_prompts=True).prompts_needed == 30


def test_forecast_by_hand() -> None:
    """2 iterations of 10 prompts with 4 samples and 1 refined answer, 2 x 10 greedy ones: 120 texts, 2 questions each."""
    options = {"prompts": 10, "iterations": 2, "samples": 4, "sampling": {"max_tokens": 50}}
    options |= {"refinement": {"max_tokens": 70}, "judge": "lab"}
    found = forecast(recipe(**options), load_program("lab"))
    (stage,) = found.stages
    assert (stage.texts, stage.judge_calls) == (2 * 10 * 5 + 2 * 10, (2 * 10 * 5 + 2 * 10) * 2)
    assert stage.tokens == (2 * 10 * 4 + 20) * 50 + 20 * 70
    assert stage.updates == 2 * 7  # all 10 pairs of 5 answers to 10 prompts, 16 an update, in each iteration
    own = forecast(recipe(**(options | {"judge": "self"})), load_program("lab"))
    assert (own.stages[0].judge_calls, own.stages[0].tokens) == (0, stage.tokens)
    few = forecast(recipe(**(options | {"pairs": {"per_prompt": 2}})), load_program("lab"))
    assert few.stages[0].updates == 2 * 2


def test_a_run_goes_on_where_the_judge_has_moved() -> None:
    here, there = (
        recipe(judge=f"openai:m@http://{host}:1/v1").model_dump(mode="json") for host in ("here", "there")
    )
    assert recipe_identity(here) == recipe_identity(there)


@pytest.mark.parametrize("name", ["spa-lab", "spa-8b"])
def test_shipped_recipes_are_valid(name: str) -> None:
    found = load_config(Recipe, FOLDER / f"{name}.yaml")
    assert [stage.type for stage in found.stages] == ["spa"]
    check_recipe(found, load_program(found.program), name, default_surroundings())
