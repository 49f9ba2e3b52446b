"""Supervised fine-tuning on completions, by TRL's SFTTrainer.

Rows arrive as token ids: those of the rendered prompt, then those of the completion and the end token, each
made by itself. GRPO continues the same prompt ids, so both stages see one sequence, and no tokenizer can merge
the last character of the prompt with the first of the completion. The loss is on the completion alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from rubrica.core.config import Json
from rubrica.core.errors import TrainingError
from rubrica.core.run import Stage
from rubrica.train.arguments import Numerics, common_defaults, common_fixed, trainer_arguments
from rubrica.train.callbacks import Progress, StageLog, quiet
from rubrica.train.policy import Start, open_policy
from rubrica.train.running import laid_out, run_trainer

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
    label: str = "think-sft",
) -> dict[str, float]:
    """Train, write ``stage.model_dir`` and return steps and the first and last loss; continues after a kill.

    Rows longer than ``max_length`` must be left out before: a cut example teaches to stop half-way.
    Raises ``TrainingError`` without rows, ``DataError`` on options that SFTConfig refuses.
    """
    if not rows:
        raise TrainingError(f"{stage.name}: got no example; expected at least one")
    with quiet():
        args = sft_arguments(options, Numerics(dtype=start.dtype), stage.checkpoints, seed, source)
    ordered, total = laid_out(rows, args, seed)
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
            callbacks=[StageLog(stage, f"{label}: training", total, progress)],
        )
        steps = run_trainer(trainer, tokenizer, stage, start)
    losses = [row.metrics["loss"] for row in stage.metrics() if "loss" in row.metrics]
    if not losses:
        raise TrainingError(f"{stage.name}: no finite loss was logged; lower trainer.learning_rate")
    return {"steps": float(steps), "first_loss": losses[0], "last_loss": losses[-1]}


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
