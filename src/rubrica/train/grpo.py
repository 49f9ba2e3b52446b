"""Group-relative policy optimisation by TRL's GRPOTrainer, unmodified, with one reward function.

Advantages are (r - mean) / (std + 1e-4) within a group, the sample standard deviation (QA-LIGN, arXiv
2506.08123, section 3). A reward of None takes its completion out of the group: no advantage, no part in the
baseline. There is never a second reward function: a row counts as unscored only if all of them say None, and a
zero-weight one that returns a number would turn a missing reward into a reward of 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from rubrica.core.config import Config, Json
from rubrica.core.errors import DataError, TrainingError
from rubrica.core.run import Stage
from rubrica.train.arguments import Numerics, common_defaults, common_fixed, trainer_arguments
from rubrica.train.callbacks import Progress, StageLog, quiet
from rubrica.train.policy import Start, open_policy
from rubrica.train.running import run_trainer

LogMetric = Callable[[str, float], None]
Rollouts = Callable[[int, Sequence[str], PreTrainedModel], tuple[list[list[int]], list[list[int]]]]
"""Gets (step from 1, prompts, each repeated for its group, the policy); returns prompt ids and completion ids."""


class PromptRow(NamedTuple):
    """One prompt of one step: its id and the rendered text whose tokens the policy continues."""

    prompt_id: str
    text: str


class Progressing(Protocol):
    """What is used of the trainer's state."""

    global_step: int
    """Updates made so far."""


class Completion(NamedTuple):
    """One completion of one prompt, end token included where it ended by itself."""

    prompt_id: str
    token_ids: list[int]


RewardFunction = Callable[[int, Sequence[Completion], LogMetric], Sequence[float | None]]
"""Gets (step from 1, completions with those of a prompt side by side, log_metric); one reward each or None."""


class GrpoSize(Config):
    """What one update consists of."""

    steps: int
    """Updates."""
    prompts: int
    """Prompts of one update."""
    group: int
    """Completions of one prompt."""
    max_completion_tokens: int
    """Tokens of a completion at most."""
    temperature: float
    """Of the rollouts, which are otherwise unfiltered."""
    save_steps: int
    """Updates between checkpoints."""


def grpo_arguments(
    size: GrpoSize,
    options: Mapping[str, Json],
    numerics: Numerics,
    output_dir: Path,
    seed: int,
    source: str | Path,
) -> GRPOConfig:
    """Return GRPOConfig: loss, scaling and batches such that each batch of rollouts gives one update.

    ``per_device_train_batch_size`` may be any divisor of prompts x group; gradients are then accumulated, which
    for ``loss_type`` grpo gives the same update.
    """
    completions = size.prompts * size.group
    micro = options.get("per_device_train_batch_size", completions)
    if not isinstance(micro, int) or micro < 1 or completions % micro:
        raise DataError(
            source,
            f"trainer.per_device_train_batch_size: {micro!r} does not divide the {completions} completions of a "
            f"step ({size.prompts} prompts x {size.group}); choose a divisor",
        )
    defaults = {
        **common_defaults(numerics),
        "learning_rate": 1e-6,
        "beta": 0.001,
        "lr_scheduler_type": "constant",
        "loss_type": "grpo",
        "scale_rewards": "group",
        "per_device_train_batch_size": completions,
    }
    fixed = {
        **common_fixed(output_dir, seed),
        "max_steps": size.steps,
        "save_steps": size.save_steps,
        "num_generations": size.group,
        "gradient_accumulation_steps": completions // micro,
        "steps_per_generation": completions // micro,
        "max_completion_length": size.max_completion_tokens,
        "temperature": size.temperature,
        "shuffle_dataset": False,
        "num_completions_to_print": 0,  # the store holds every rollout
    }
    return trainer_arguments(GRPOConfig, options, defaults=defaults, fixed=fixed, source=source)


def checked_rewards(rewards: Sequence[float | None], expected: int) -> list[float | None]:
    """Return ``rewards`` as a list; ``TrainingError`` unless there is one finite number or None each."""
    if len(rewards) != expected:
        raise TrainingError(
            f"reward: got {len(rewards)} rewards for {expected} completions; expected one each"
        )
    for index, reward in enumerate(rewards):
        if reward is not None and not math.isfinite(reward):
            raise TrainingError(
                f"reward: got {reward} for completion {index}; expected a finite number, or None for no signal"
            )
    return list(rewards)


def train_grpo(
    start: Start,
    rows: Sequence[PromptRow],
    reward: RewardFunction,
    tokenizer: PreTrainedTokenizerBase,
    stage: Stage,
    size: GrpoSize,
    options: Mapping[str, Json],
    *,
    seed: int,
    source: str | Path = "recipe",
    rollout: Rollouts | None = None,
    on_resume: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    name: str = "rubric",
    label: str = "grpo",
    reference: Start | None = None,
) -> dict[str, float]:
    """Train, write ``stage.model_dir`` and return the steps done; continues after a kill.

    ``rows`` are steps x prompts prompts in the order in which they are used: one long epoch, because only
    there a resumed run repeats nothing. ``on_resume`` gets the step of the checkpoint that training goes on
    from (0: from the start), so that the caller can drop what it kept of later steps. ``reference``: the KL
    reference, where it is another than ``start``; a model of the same shape, with an adapter of the same shape.
    """
    if len(rows) != size.steps * size.prompts:
        raise TrainingError(f"grpo: got {len(rows)} prompts; expected {size.steps} steps x {size.prompts}")
    with quiet():
        args = grpo_arguments(size, options, Numerics(dtype=start.dtype), stage.checkpoints, seed, source)
        model, peft_config = open_policy(start)
        if isinstance(model, str):
            args.model_init_kwargs = start.init_kwargs()
        trainer = GRPOTrainer(
            model=model,
            args=args,
            reward_funcs=_trl_reward(reward, name),
            train_dataset=Dataset.from_list([{"prompt": r.text, "prompt_id": r.prompt_id} for r in rows]),
            processing_class=tokenizer,
            peft_config=peft_config,
            rollout_func=None if rollout is None else _trl_rollout(rollout),
            callbacks=[StageLog(stage, label, size.steps, progress)],
        )
        if reference is not None and args.beta:
            _refer(trainer, reference)
        steps = run_trainer(trainer, tokenizer, stage, start, on_resume)
    return {"steps": float(steps)}


def _refer(trainer: GRPOTrainer, reference: Start) -> None:
    """Put the weights of ``reference`` in the place of those that TRL took from the trained model's start."""
    if trainer.ref_model is not None:
        other = AutoModelForCausalLM.from_pretrained(str(reference.model), **reference.init_kwargs())
        trainer.accelerator.unwrap_model(trainer.ref_model).load_state_dict(other.state_dict())
        return
    policy = trainer.accelerator.unwrap_model(trainer.model)
    if "ref" not in policy.peft_config:
        return  # a new adapter: without it, the model is the reference
    if reference.adapter is not None:
        set_peft_model_state_dict(policy, load_peft_weights(str(reference.adapter)), adapter_name="ref")
        return
    for name, weight in policy.named_parameters():
        if ".lora_B.ref." in name:  # an adapter whose second factor is 0 changes nothing
            torch.nn.init.zeros_(weight)


def _trl_rollout(rollout: Rollouts) -> Callable[[list[str], GRPOTrainer], dict[str, list[list[int]] | None]]:
    """Return the function that TRL calls instead of generating; the policy is in evaluation mode meanwhile."""

    def generate(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[list[int]] | None]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        training = model.training
        model.eval()
        try:
            prompt_ids, completion_ids = rollout(trainer.state.global_step + 1, prompts, model)
        finally:
            model.train(training)
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    return generate


def _trl_reward(reward: RewardFunction, name: str) -> Callable[..., list[float | None]]:
    """Return the one function that TRL calls once for each batch of rollouts."""

    def rubric(
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
        prompt_id: list[str],
        trainer_state: Progressing,
        log_metric: LogMetric,
        **unused: object,
    ) -> list[float | None]:
        step = trainer_state.global_step + 1
        batch = [Completion(p, list(ids)) for p, ids in zip(prompt_id, completion_ids, strict=True)]
        return checked_rewards(reward(step, batch, log_metric), len(batch))

    rubric.__name__ = name  # TRL's name for its metrics
    return rubric
