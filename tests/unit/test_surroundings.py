"""What a recipe may name that is not in its file: the lab's suite, asked in the policy's own chat format."""

from pathlib import Path

from rubrica.recipes.config import Recipe
from rubrica.recipes.context import Context, Weights
from rubrica.recipes.surroundings import default_surroundings
from tiny import CHAT_TEMPLATE, tiny_checkpoint


def test_the_starter_is_evaluated_with_the_recipes_chat_template(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(CHAT_TEMPLATE)
    tiny_checkpoint(tmp_path / "model", chat_template=None, context=4096)
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "policy": {"model": str(tmp_path / "model"), "chat_template": str(template)},
            "judge": "lab-oracle",
            "prompts": {"train": ["train.csv"]},
            "stages": [{"type": "grpo"}],
            "evaluate": {"suites": ["lab"], "trials": 1, "samples": 1},
        }
    )
    weights = Weights(tmp_path / "model", chat_template=recipe.policy.chat_template)
    context = Context(recipe, run=None, program=None, judge=None, prompts=None, weights=weights)
    evaluate = default_surroundings().evaluate
    assert evaluate is not None
    result = evaluate(context, "starter", "lab")
    # one harmful prompt of each of the six attack families
    assert [e.n for e in result.estimates if (e.name, e.group) == ("asr", "")] == [6]
