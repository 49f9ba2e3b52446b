"""Supervised fine-tuning on completions, by TRL's SFTTrainer.

Rows arrive as token ids: those of the rendered prompt, then those of the completion and the end token, each
made by itself. GRPO continues the same prompt ids, so both stages see one sequence, and no tokenizer can merge
the last character of the prompt with the first of the completion. The loss is on the completion alone.
"""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import SFTConfig, SFTTrainer

from rubrica.core.config import Json
from rubrica.core.errors import TrainingError
from rubrica.core.run import Stage
from rubrica.train.arguments import Numerics, common_defaults, common_fixed, trainer_arguments
from rubrica.train.callbacks import Progress, StageLog, newest_checkpoint, quiet, silence
from rubrica.train.policy import Start, open_policy, save_policy

RowT = TypeVar("RowT")
IGNORED = -100
"""Label of a token without loss."""


class TokenRow(NamedTuple):
    """One example: prompt, then completion with its end token."""

    prompt_ids: list[int]
    completion_ids: list[int]


def sft_arguments(
    options: Mapping[str, Json], numerics: Numerics, output_dir: Path, seed: int, source: str | Path
) -> SFTConfig:
    """Return SFTConfig; ours unless ``options`` say otherwise: one epoch, learning rate 1e-5, batches of 16."""
    defaults = {
        **common_defaults(numerics),
        "learning_rate": 1e-5,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "max_length": None,
        "save_steps": 50,
    }
    fixed = {
        **common_fixed(output_dir, seed),
        # One epoch over a dataset that is shuffled and repeated beforehand resumes exactly, also past epoch 1.
        "train_sampling_strategy": "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "packing": False,
        "padding_free": False,
    }
    return trainer_arguments(SFTConfig, options, defaults=defaults, fixed=fixed, source=source)


def updates_of(args: TrainingArguments, rows: int) -> tuple[int, float]:
    """Return how many updates ``args`` ask for, and how many passes over the rows these take."""
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if args.max_steps > 0:
        return args.max_steps, args.max_steps * per_step / rows
    return math.ceil(math.ceil(args.num_train_epochs * rows) / per_step), args.num_train_epochs


def epochs_in_order(rows: Sequence[RowT], epochs: float, seed: int) -> list[RowT]:
    """Return ``epochs`` passes over ``rows`` one after another, each in its own order."""
    generator = random.Random(f"sft/{seed}")
    wanted = math.ceil(epochs * len(rows))
    ordered: list[RowT] = []
    while len(ordered) < wanted:
        ordered += generator.sample(list(rows), len(rows))
    return ordered[:wanted]


def train_sft(
    start: Start,
    rows: Sequence[TokenRow],
    tokenizer: PreTrainedTokenizerBase,
    stage: Stage,
    options: Mapping[str, Json],
    *,
    seed: int,
    source: str | Path = "recipe",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train, write ``stage.model_dir`` and return steps and the first and last loss; continues after a kill.

    Rows longer than ``max_length`` must be left out before: a cut example teaches to stop half-way.
    Raises ``TrainingError`` without rows, ``DataError`` on options that SFTConfig refuses.
    """
    if not rows:
        raise TrainingError(f"{stage.name}: got no example; expected at least one")
    with quiet():
        args = sft_arguments(options, Numerics(dtype=start.dtype), stage.checkpoints, seed, source)
    total, epochs = updates_of(args, len(rows))
    ordered = epochs_in_order(rows, epochs, seed)
    args.num_train_epochs = 1
    with quiet():
        model, peft_config = open_policy(start)
        if isinstance(model, str):
            args.model_init_kwargs = start.init_kwargs()
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=_dataset(ordered),
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[StageLog(stage, "think-sft: training", total, progress)],
        )
        silence(trainer)
        newest = newest_checkpoint(stage.checkpoints)
        stage.rewind(newest[1] if newest else 0)
        trainer.train(resume_from_checkpoint=str(newest[0]) if newest else None)
        save_policy(trainer.model, tokenizer, stage.model_dir, stage.path / "adapter", start.dtype)
    losses = [row.metrics["loss"] for row in stage.metrics() if "loss" in row.metrics]
    if not losses:
        raise TrainingError(f"{stage.name}: no finite loss was logged; lower trainer.learning_rate")
    return {"steps": float(trainer.state.global_step), "first_loss": losses[0], "last_loss": losses[-1]}


def _dataset(rows: Sequence[TokenRow]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": [*row.prompt_ids, *row.completion_ids],
                "labels": [IGNORED] * len(row.prompt_ids) + list(row.completion_ids),
            }
            for row in rows
        ]
    )
