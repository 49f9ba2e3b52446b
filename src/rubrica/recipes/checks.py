"""What can be known to be wrong with a recipe before its run is started, so that a mistake costs nothing.

Once a run is started its recipe is fixed; a mistake found later would cost the run as well.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from rubrica.checkpoint import checkpoint_folder
from rubrica.core.errors import UsageError
from rubrica.core.records import Program, Prompt
from rubrica.judges.factory import JudgeConfig, check_spec
from rubrica.recipes.config import Grpo, Recipe, ThinkSft
from rubrica.recipes.context import Surroundings
from rubrica.recipes.examples import REFLECTION_TOKENS
from rubrica.recipes.grpo import grpo_size
from rubrica.recipes.models import load_chat_format, model_folder
from rubrica.recipes.prompts import StagePrompts
from rubrica.recipes.think_sft import check_phrases
from rubrica.recipes.writer import can_write
from rubrica.train.arguments import Numerics, check_devices
from rubrica.train.callbacks import quiet
from rubrica.train.grpo import grpo_arguments
from rubrica.train.sft import sft_arguments


def check_recipe(recipe: Recipe, program: Program, source: str, surroundings: Surroundings) -> None:
    """Check what needs no model: devices, trainer options, suites, judges, phrases; ``UsageError`` or ``DataError``."""
    check_devices()
    _check_trainers(recipe, source)
    for suite in recipe.evaluate.suites:
        if surroundings.check_suite is not None:
            surroundings.check_suite(suite)
    _check_judge(recipe.judge, surroundings)
    for stage in recipe.stages:
        if stage.reference is not None:
            _check_judge(stage.reference, surroundings)
        if not isinstance(stage, ThinkSft):
            continue
        if stage.reflection == "template":
            check_phrases(stage, program, source)
        elif not can_write(recipe.judge):
            raise UsageError(
                f"{source}: reflection: judge needs a judge that writes, local:PATH or openai:MODEL@URL; use "
                "reflection: template"
            )


def check_models(recipe: Recipe, prompts: StagePrompts, policy: Path, surroundings: Surroundings) -> None:
    """Check that tags survive the policy's tokenizer and that every prompt fits each model that answers it.

    Raises ``UsageError`` that names the tags that work, or the prompt and the limit; ``ModelError`` for a folder
    that holds no model.
    """
    chat = load_chat_format(policy, recipe.policy.chat_template)
    answered = [*prompts.sft, *prompts.replay]
    for stage in recipe.stages:
        match stage:
            case Grpo():
                chat.check(recipe.tags, _each(prompts.rl, chat.render), stage.max_completion_tokens)
            case ThinkSft() if recipe.teacher is not None:
                room = max(stage.draft.max_tokens, stage.revision.max_tokens)
                chat.check(recipe.tags, _each(answered, chat.render), room)
                folder = model_folder(recipe.teacher, surroundings)
                teacher = load_chat_format(folder, recipe.teacher.chat_template)
                teacher.check_lengths(_each(answered, teacher.render), stage.revision.max_tokens)
            case ThinkSft():  # the policy writes its revision behind draft and reflection
                room = stage.draft.max_tokens + REFLECTION_TOKENS + stage.revision.max_tokens
                chat.check(recipe.tags, _each(answered, chat.render), room)


def _each(prompts: Sequence[Prompt], render: Callable[[Prompt], str]) -> list[str]:
    return [render(prompt) for prompt in {prompt.id: prompt for prompt in prompts}.values()]


def _check_judge(judge: str | JudgeConfig, surroundings: Surroundings) -> None:
    check_spec(judge, surroundings.judges)
    spec = judge if isinstance(judge, str) else judge.spec
    kind, _, rest = spec.strip().partition(":")
    if kind == "local":
        checkpoint_folder(rest)


def _check_trainers(recipe: Recipe, source: str) -> None:
    """Build every stage's trainer options once, so that a wrong one costs nothing."""
    numerics, nowhere = Numerics(dtype=recipe.policy.dtype), Path("unused")
    with quiet():
        for stage in recipe.stages:
            match stage:
                case ThinkSft():
                    sft_arguments(stage.trainer, numerics, nowhere, recipe.seed, source)
                case Grpo():
                    grpo_arguments(grpo_size(stage), stage.trainer, numerics, nowhere, recipe.seed, source)
