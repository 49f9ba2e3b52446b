"""Stage RFT: in each round a reward model learns from demonstrations, then the policy follows it.

The policy step is TRL's GRPO without its scaling (``scale_rewards: none``, ``loss_type: dr_grpo``): REINFORCE with
the mean of a prompt's other completions as the baseline, which follows the gradient of E[r] - beta KL as the paper
states it, with the trainer, the rollouts and the resuming that all other stages use. Best-of-n would need no
trainer, but it can only choose among what the reference says anyway.
"""

import gc
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from rubrica.core.attempt import whole
from rubrica.core.config import Json
from rubrica.core.errors import TrainingError
from rubrica.core.ports import RewardModel
from rubrica.core.prompts import Prompt
from rubrica.core.records import Attempt
from rubrica.core.run import Stage
from rubrica.methods.irft import Paired, pair_up, parts, reward_scale
from rubrica.models.reward import HFRewardModel, conversation_ids
from rubrica.program.reward import Scored
from rubrica.recipes.context import Context, Weights
from rubrica.recipes.demonstrations import TokenDemonstration, gather_demonstrations, keep_prompts, tokens_of
from rubrica.recipes.grpo import fast_rollouts, grpo_size, how_to_roll_out
from rubrica.recipes.models import ChatFormat, load_chat_format, open_generator, training_start
from rubrica.recipes.prompts import in_order
from rubrica.recipes.rounds import hand_over, inner_stage, log_rounds, shed, weights_after, with_weights
from rubrica.recipes.sampling import stored_texts
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.stages.rft import Rft
from rubrica.recipes.step_reward import Sources, StepReward
from rubrica.train.grpo import PromptRow, train_grpo
from rubrica.train.policy import Lora, Start
from rubrica.train.reward_model import TextPair, pad_apart
from rubrica.train.token_reward import train_token_reward

REWARD = "reward"
"""Folder of a finished stage that holds its reward model."""


def run_rft(context: Context, config: Rft, stage: Stage) -> dict[str, object]:
    """Train reward model and policy in turns and return the summary."""
    chat = load_chat_format(context.weights.model, context.weights.chat_template)
    shown = gather_demonstrations(config.demonstrations, context.surroundings)
    tokens, too_long = tokens_of(shown, chat, None)
    known = {demonstration.shown.id: demonstration for demonstration in tokens}
    usable = [demonstration.shown for demonstration in tokens]
    keep_prompts(context.run.store, usable)
    at, rewards, policies = context.weights, list[Stage](), list[Stage]()
    for number, part in enumerate(parts(usable, config.rounds, context.recipe.seed), 1):
        reward, policy = (inner_stage(stage, f"{number:02d}-{what}") for what in ("reward", "policy"))
        if not policy.done:
            paired = _answered(context, config, reward, at, [known[text.id] for text in part], number)
            if not reward.done:
                before = rewards[-1].model_dir if rewards else context.weights.model
                label = f"rft {number}/{config.rounds}: reward model"
                reward.finish(_learn(context, config, reward, before, paired, label))
            policy.finish(_follow(context, config, policy, reward, at, chat, paired, number))
        at = weights_after(context, at, policy)
        for earlier in (*rewards, *policies):
            shed(earlier)
        rewards.append(reward)
        policies.append(policy)
    if not (stage.path / REWARD).exists():
        rewards[-1].model_dir.rename(stage.path / REWARD)
    shed(rewards[-1])
    hand_over(policies[-1], stage)
    log_rounds(stage, [(policy, _about(reward)) for reward, policy in zip(rewards, policies, strict=True)])
    return {
        "demonstrations": len(shown),
        "too_long": too_long,
        "rounds": config.rounds,
        "reward": [dict(reward.summary()) for reward in rewards],
        "policy": [dict(policy.summary()) for policy in policies],
        "reward_model": str((stage.path / REWARD).relative_to(context.run.path)),
    }


def _about(reward: Stage) -> dict[str, float]:
    """What the reward model of a round learnt, as metrics."""
    found = reward.summary()
    named = {"reward_model/accuracy": found["last_accuracy"], "reward_model/loss": found["last_loss"]}
    return {name: float(value) for name, value in named.items() if isinstance(value, int | float)}


def _answered(
    context: Context,
    config: Rft,
    reward: Stage,
    at: Weights,
    part: Sequence[TokenDemonstration],
    number: int,
) -> Paired:
    """The policy's answers to the round's prompts, paired with the demonstrations."""
    generator = open_generator(at.model, context.recipe.policy.dtype, at.chat_template)
    answers = stored_texts(
        context.run.store,
        f"{reward.path.parent.name}/{reward.name}",
        "answer",
        generator,
        [demonstration.shown.prompt for demonstration in part],
        config.answers.model_copy(update={"seed": context.recipe.seed + config.answers.seed}),
        None,
        partial(context.report, f"rft {number}/{config.rounds}: answers"),
    )
    del generator
    gc.collect()  # its weights go before the trainer's come
    paired = pair_up([demonstration.shown for demonstration in part], answers)
    if not paired.pairs:
        raise TrainingError(
            f"{reward.name}: all of {len(part)} answers equal their demonstration, so nothing is left to learn; lower "
            "rounds, or sample with a higher answers.temperature"
        )
    return paired


def _learn(
    context: Context, config: Rft, stage: Stage, start: Path, paired: Paired, label: str
) -> dict[str, object]:
    """Train the reward model on the round's pairs, from where the last round left it."""
    weights = context.weights
    chat = load_chat_format(weights.model, weights.chat_template)
    pad_apart(chat.tokenizer)
    rows = [
        TextPair(
            *(
                conversation_ids(chat.tokenizer, chat.control, pair.demonstration.prompt, text)
                for text in (pair.demonstration.text, pair.answer.text)
            )
        )
        for pair in paired.pairs
    ]
    fitting = [row for row in rows if chat.context is None or max(map(len, row)) <= chat.context]
    lora = config.reward.lora
    trained = train_token_reward(
        Start(
            model=start,
            lora=None if lora is None else Lora(**lora.model_dump()),
            dtype=context.recipe.policy.dtype,
        ),
        fitting,
        chat.tokenizer,
        stage,
        config.reward.trainer,
        seed=context.recipe.seed,
        source=context.source,
        progress=context.report,
        label=label,
    )
    return {"answers": len(rows) + paired.equal, "equal": paired.equal, "pairs": len(fitting), **trained}


def _follow(
    context: Context,
    config: Rft,
    stage: Stage,
    reward: Stage,
    at: Weights,
    chat: ChatFormat,
    paired: Paired,
    number: int,
) -> dict[str, object]:
    """Improve the policy under the learnt reward, less beta times its divergence from the policy before the stage."""
    model = HFRewardModel(reward.model_dir, dtype=context.recipe.policy.dtype)
    answered = [(pair.demonstration.prompt, pair.answer.text) for pair in paired.pairs]
    scores = [score for _, score in model.score(answered) if isinstance(score, float)]
    if not scores:
        raise TrainingError(
            f"{reward.name}: scored none of {len(answered)} answers; lower answers.max_tokens"
        )
    prompts = list({pair.demonstration.id: pair.demonstration.prompt for pair in paired.pairs}.values())
    size = policy_step(config)
    stream = list(islice(in_order(prompts, {}, context.recipe.seed), size.prompts_needed))
    name = f"{stage.path.parent.name}/{stage.name}"
    earned = StepReward(
        context, size, name, chat, LearntValuer(model, reward_scale(scores)), prompts, as_written
    )
    fast, _ = how_to_roll_out(size, context.recipe.judge)
    trained = train_grpo(
        training_start(with_weights(context, at)),
        [PromptRow(prompt.id, chat.render(prompt)) for prompt in stream],
        earned,
        chat.tokenizer,
        stage,
        grpo_size(size),
        policy_options(config),
        seed=context.recipe.seed,
        source=context.source,
        rollout=fast_rollouts(chat, size, context.recipe.seed) if fast else None,
        reference=training_start(context) if number > 1 else None,
        on_resume=earned.forget_after,
        progress=context.report,
        label=f"rft {number}/{config.rounds}: policy",
    )
    rewards = [row.metrics["reward"] for row in stage.metrics() if "reward" in row.metrics]
    return {
        **trained,
        "scale": reward_scale(scores),
        "first_reward": rewards[0] if rewards else None,
        "last_reward": rewards[-1] if rewards else None,
    }


def policy_step(config: Rft) -> Grpo:
    """Return the policy's part of a round as the size of a GRPO stage."""
    step = config.policy
    return Grpo(
        steps=step.steps,
        prompts_per_step=step.prompts_per_step,
        group_size=step.group_size,
        max_completion_tokens=config.answers.max_tokens,
        temperature=step.temperature,
        save_steps=step.save_steps,
    )


def policy_options(config: Rft) -> dict[str, Json]:
    """Return the trainer's options of the policy's part: ours, then the recipe's."""
    ours: dict[str, Json] = {"beta": config.beta, "loss_type": "dr_grpo", "scale_rewards": "none"}
    return {**ours, **config.policy.trainer}


def as_written(text: str, finished: bool) -> Attempt:
    """Take a completion for an answer to the letter: the reward model learnt from texts with their blanks."""
    return whole(text, finished=finished).model_copy(update={"draft": text, "revision": text})


class LearntValuer:
    """A :class:`rubrica.recipes.step_reward.Valuer` by the reward model that the round learnt."""

    def __init__(self, model: RewardModel, scale: float) -> None:
        self._model, self._scale = model, scale

    def value(
        self, step: int, prompts: Sequence[Prompt], attempts: Sequence[Attempt]
    ) -> tuple[list[Scored], dict[str, float]]:
        """Return scores over the scale; no reward for a text that cannot be scored."""
        items = [(prompt, attempt.revision) for prompt, attempt in zip(prompts, attempts, strict=True)]
        found = dict(self._model.score(items))
        scores = [found[index] for index in range(len(items))]
        rewards = [score / self._scale if isinstance(score, float) else None for score in scores]
        return [Scored(None, None, reward) for reward in rewards], {}

    def sources(self, prompt: Prompt, attempt: Attempt) -> Sources:
        """Return the model's fingerprint."""
        return Sources(reward_model=self._model.fingerprint)
