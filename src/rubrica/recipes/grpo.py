"""Stage GRPO: rollouts, their rewards by a rubric or by a reward model, and the training on them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from rubrica.core.prompts import Prompt
from rubrica.core.records import Malformed
from rubrica.core.run import Stage
from rubrica.judges.factory import JudgeConfig, is_remote
from rubrica.models.decoding import Decoder, decode, sampler
from rubrica.recipes.ahead import Ahead
from rubrica.recipes.context import Context
from rubrica.recipes.models import ChatFormat, load_chat_format, training_start
from rubrica.recipes.nobody import is_nobody
from rubrica.recipes.reward_source import open_reward_model
from rubrica.recipes.rubric_reward import Diagnostics, RubricValuer
from rubrica.recipes.scalar_reward import ScalarValuer
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.step_reward import Ended, StepReward, Valuer, read_with
from rubrica.train.arguments import has_accelerator
from rubrica.train.grpo import GrpoSize, PromptRow, Rollouts, train_grpo

WORKERS = 4
"""Threads that judge while others are generated: a completion that ends late finds one that is free."""


def run_grpo(context: Context, config: Grpo, stage: Stage, prompts: Sequence[Prompt]) -> dict[str, object]:
    """Train on ``prompts`` in their order, return the summary."""
    recipe, weights = context.recipe, context.weights
    chat = load_chat_format(weights.model, weights.chat_template)
    rendered = {prompt.id: chat.render(prompt) for prompt in prompts}
    chat.check(recipe.written_tags, list(rendered.values()), config.max_completion_tokens)
    fast, overlap = how_to_roll_out(config, recipe.judge)
    with ExitStack() as opened:
        valuer: Valuer
        ahead: Ahead | None = None
        if config.reward_model is None:
            executor = context.executor(
                "grpo", retries=config.judge_retries, max_failure_rate=config.failure_budget
            )
            if overlap:
                ahead = opened.enter_context(Ahead(executor, WORKERS if is_remote(recipe.judge) else 1))
            valuer = RubricValuer(context, config, executor, ahead)
        else:
            valuer = _scalar(context, config, stage)
        reward = StepReward(
            context, config, stage.name, chat, valuer, prompts, read_with(context.recipe.written_tags)
        )
        ended = None if ahead is None else reward.ended(rendered, ahead)
        trained = train_grpo(
            training_start(context),
            [PromptRow(prompt.id, rendered[prompt.id]) for prompt in prompts],
            reward,
            chat.tokenizer,
            stage,
            grpo_size(config),
            config.trainer,
            seed=recipe.seed,
            source=context.source,
            rollout=fast_rollouts(chat, config, recipe.seed, ended) if fast else None,
            on_resume=reward.forget_after,
            progress=context.report,
            name="rubric" if config.reward_model is None else "reward_model",
        )
    logged = [row.metrics for row in stage.metrics()]
    rows = [metrics["reward"] for metrics in logged if "reward" in metrics]
    return {
        **trained,
        "first_reward": rows[0] if rows else None,
        "last_reward": rows[-1] if rows else None,
        "fast_rollouts": fast,
        "overlap": overlap,
        "warning": malformed_warning(logged),
        **(valuer.summary() if isinstance(valuer, ScalarValuer) else {}),
    }


def _scalar(context: Context, config: Grpo, stage: Stage) -> ScalarValuer:
    """A judge, where the recipe names one, is asked about a sample only: what the score does to the principles."""
    assert config.reward_model is not None
    model = open_reward_model(config.reward_model, context.surroundings.model, context.reward_model)
    diagnostics = None
    if not is_nobody(context.recipe.judge):
        diagnostics = Diagnostics(context, config, context.executor("grpo", retries=config.judge_retries))
    return ScalarValuer(context, config, stage, model, diagnostics)


def grpo_size(config: Grpo) -> GrpoSize:
    """Return what one update consists of."""
    return GrpoSize(
        steps=config.steps,
        prompts=config.prompts_per_step,
        group=config.group_size,
        max_completion_tokens=config.max_completion_tokens,
        temperature=config.temperature,
        save_steps=config.save_steps,
    )


def how_to_roll_out(config: Grpo, judge: str | JudgeConfig) -> tuple[bool, bool]:
    """Return whether completions come from Rubrica's own decode loop, and whether they are judged meanwhile.

    TRL's own generation says nothing before the last completion has ended, so there is nothing to overlap with. A
    reward model reads a step's texts in one go.
    """
    fast = config.fast_rollouts
    if fast is None:
        fast = config.overlap is True or not has_accelerator()
    if config.reward_model is not None:
        return fast, False
    return fast, fast and (is_remote(judge) if config.overlap == "auto" else config.overlap)


def fast_rollouts(chat: ChatFormat, config: Grpo, seed: int, ended: Ended | None = None) -> Rollouts:
    """Return a sampler of completions for TRL: unfiltered, at the rollout temperature, dropout off.

    Random numbers belong to (seed, step, row), so a resumed run samples what a straight one would. ``ended``
    hears of completions as they end.
    """

    def sample(step: int, prompts: Sequence[str], model: Decoder) -> tuple[list[list[int]], list[list[int]]]:
        rows = [chat.prompt_ids(prompt) for prompt in prompts]
        pick = sampler(
            [(step, row) for row in range(len(rows))],
            temperature=config.temperature,
            top_p=1.0,
            seed=seed,
            max_tokens=config.max_completion_tokens,
        )

        def tell(completions: Sequence[tuple[int, list[int]]]) -> None:
            if ended is not None:
                ended([(prompts[row], ids) for row, ids in completions])

        made = decode(
            model,
            rows,
            max_tokens=config.max_completion_tokens,
            stop=chat.end_ids,
            pick=pick,
            on_end=None if ended is None else tell,
        )
        return rows, [completion.ids for completion in made]

    return sample


def malformed_warning(logged: Sequence[Mapping[str, float]]) -> str | None:
    """Say so where no completion of any step was an attempt: then all rewards were the same floor."""
    steps = [metrics for metrics in logged if "malformed/share" in metrics]
    if not steps or any(metrics["malformed/share"] < 1 for metrics in steps):
        return None
    shares = {str(r): sum(m.get(f"malformed/{r}", 0.0) for m in steps) / len(steps) for r in Malformed}
    ranked = sorted(shares.items(), key=lambda item: -item[1])[:3]
    most = ", ".join(f"{reason.replace('_', ' ')} {share:.0%}" for reason, share in ranked if share)
    return (
        f"every completion was malformed ({most}), so nothing could be learned; train think-sft on more examples, "
        "or raise max_completion_tokens where they are truncated"
    )
