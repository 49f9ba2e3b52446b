"""``rubrica align``: the stages of a recipe in order, evaluation in between, a report at the end.

Everything that a stage finished is found again, so the same call with ``resume`` goes on after any kill.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rubrica.core.data import load_prompts
from rubrica.core.instance import program_for
from rubrica.core.ports import Judge, thresholds_of
from rubrica.core.prompts import Prompt
from rubrica.core.run import Run, Stage, disk_errors, write_json
from rubrica.judges.budget import Purse
from rubrica.judges.factory import make_judge
from rubrica.judges.passport import FILE as PASSPORT
from rubrica.judges.passport import passport_file, read_passport
from rubrica.recipes.checks import check_passports, check_prompt_files, check_recipe, program_of
from rubrica.recipes.config import Recipe, recipe_identity
from rubrica.recipes.context import Context, Progress, Surroundings, Weights
from rubrica.recipes.nobody import Nobody, is_nobody
from rubrica.recipes.prompts import StagePrompts, arrange
from rubrica.recipes.spending import WHOLE_RUN, Spending
from rubrica.recipes.stages import StageConfig
from rubrica.recipes.stages.active_dpo import ActiveDpo
from rubrica.recipes.stages.dpo import Dpo
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.stages.irft import Irft
from rubrica.recipes.stages.reward_model import TrainReward
from rubrica.recipes.stages.rft import Rft
from rubrica.recipes.stages.sft import Sft
from rubrica.recipes.stages.spa import Spa
from rubrica.recipes.stages.think_sft import ThinkSft
from rubrica.recipes.tables import read_source

Announce = Callable[[str], None]
"""Gets one line about what was done, with its time."""


def align(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Announce | None = None,
    surroundings: Surroundings | None = None,
    source: str = "recipe",
) -> Path:
    """Run ``recipe`` into ``out`` and return the folder of the final model: the policy, or all that was trained.

    Raises ``UsageError`` and ``DataError``, before anything is written, for what a recipe got wrong;
    ``JudgeError`` when the judge fails too often: everything judged so far is kept, and ``resume`` goes on.
    """
    around = surroundings or Surroundings()
    program = program_of(recipe, source)
    check_recipe(recipe, program, source, around)
    check_passports(recipe, program, source)
    check_prompt_files(recipe, source)
    prompts = arrange(recipe, files=prompts_of, lab=around.prompts)
    for prompt in (*prompts.sft, *prompts.rl):
        program_for(program, prompt)  # refuses questions of prompts for which the program has no place
    from rubrica.recipes.model_checks import check_models, check_training
    from rubrica.recipes.models import model_folder
    from rubrica.train.callbacks import quiet

    check_training(recipe, source)
    folder = model_folder(recipe.policy, around)
    check_models(recipe, prompts, folder, around)
    run = Run.start(out, recipe, program, seed=recipe.seed, resume=resume, identity=recipe_identity)
    with run, quiet():
        _keep_prompts(run, prompts)
        clock = Spending(run.store, WHOLE_RUN)
        purse = Purse(recipe.budget, run.store, hours=lambda: clock.total().seconds / 3600)
        judge: Judge = Nobody()
        if not is_nobody(recipe.judge):
            judge = make_judge(
                recipe.judge, secret=run.store.secret, builtin=dict(around.judges), purse=purse
            )
        context = Context(
            recipe=recipe,
            run=run,
            program=program,
            judge=judge,
            prompts=prompts,
            weights=Weights(folder, chat_template=recipe.policy.chat_template),
            source=source,
            thresholds=thresholds_of(judge),
            surroundings=around,
            progress=progress,
            clock=clock,
            purse=purse,
        )
        say = announce or (lambda line: None)
        for warning in check_passports(recipe, program, source, judge.fingerprint):
            say(f"warning: {warning}")
        _keep_passport(run, recipe)
        _evaluate(context, "starter", say)
        used = 0
        kinds = [config.type for config in recipe.stages]
        for number, config in enumerate(recipe.stages, 1):
            stage = run.stage(number, config.type)
            _run_stage(context, config, stage, prompts.rl[used : used + config.prompts_needed], say)
            used += config.prompts_needed
            if isinstance(config, TrainReward):
                continue  # the policy is as it was
            if isinstance(config, ThinkSft | Grpo):
                context.tags = recipe.written_tags
            _evaluate(context, config.type if kinds.count(config.type) == 1 else stage.name, say)
    if around.report is not None:
        say(f"report: {around.report(out)}")
    alone = all(isinstance(config, TrainReward) for config in recipe.stages)
    return context.reward_model if alone and context.reward_model else context.weights.model


def prompts_of(source: str) -> Sequence[Prompt]:
    """Return the prompts of a file or, where there is no such file, of a hub dataset's train split."""
    return read_source(source, "prompts", load_prompts)


def _run_stage(
    context: Context, config: StageConfig, stage: Stage, prompts: Sequence[Prompt], say: Announce
) -> None:
    """Run one stage, or skip it when it is done; move the context to the weights that it left."""
    from rubrica.recipes.models import next_weights

    if stage.done:
        say(f"{stage.name}: done before")
    else:
        context.spending = spending = Spending(context.run.store, stage.name)
        with disk_errors(stage.path):
            summary = _summary_of(context, config, stage, prompts)
        context.spending, spent = None, spending.total()
        stage.finish({**summary, **spent.model_dump()})
        say(f"{stage.name}: done in {spent.seconds:.0f} s")
        if warning := summary.get("warning"):
            say(f"{stage.name}: {warning}")
    if isinstance(config, TrainReward):
        context.reward_model = stage.model_dir
    else:
        context.weights = next_weights(context, stage)


def _summary_of(
    context: Context, config: StageConfig, stage: Stage, prompts: Sequence[Prompt]
) -> dict[str, object]:
    match config:
        case ThinkSft():
            from rubrica.recipes.think_sft import run_think_sft

            return run_think_sft(context, config, stage)
        case Grpo():
            from rubrica.recipes.grpo import run_grpo

            return run_grpo(context, config, stage, prompts)
        case TrainReward():
            from rubrica.recipes.reward_model import run_reward_model

            return run_reward_model(context, config, stage, prompts)
        case Dpo():
            from rubrica.recipes.dpo import run_dpo

            return run_dpo(context, config, stage, prompts)
        case ActiveDpo():
            from rubrica.recipes.active_dpo import run_active_dpo

            return run_active_dpo(context, config, stage, prompts)
        case Spa():
            from rubrica.recipes.spa import run_spa

            return run_spa(context, config, stage, prompts)
        case Sft():
            from rubrica.recipes.sft import run_sft

            return run_sft(context, config, stage)
        case Irft():
            from rubrica.recipes.irft import run_irft

            return run_irft(context, config, stage)
        case Rft():
            from rubrica.recipes.rft import run_rft

            return run_rft(context, config, stage)


def _evaluate(context: Context, label: str, say: Announce) -> None:
    """Evaluate the current weights on each of the recipe's suites, unless the result is there."""
    hook = context.surroundings.evaluate
    if hook is None:
        return
    for suite in context.recipe.evaluate.suites:
        path = context.run.path / "eval" / f"{label}-{suite}.json"
        if not path.exists():
            started = time.monotonic()
            write_json(path, hook(context, label, suite))
            say(f"{suite} of {label}: done in {time.monotonic() - started:.0f} s")


def _keep_passport(run: Run, recipe: Recipe) -> None:
    """Lay the judge's passport beside the run that relies on it; the report shows its figures."""
    named = None if isinstance(recipe.judge, str) else recipe.judge.passport
    if named is not None and passport_file(named).is_file():
        write_json(run.path / PASSPORT, read_passport(named))


def _keep_prompts(run: Run, prompts: StagePrompts) -> None:
    with run.store.batch():
        for prompt in (*prompts.sft, *prompts.replay, *{p.id: p for p in prompts.rl}.values()):
            if run.store.get("prompt", prompt.id, Prompt) is None:
                run.store.put("prompt", prompt.id, prompt)
