"""What every stage does with its trainer: rows in order, go on from the newest checkpoint, save the policy."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from transformers import PreTrainedTokenizerBase, Trainer

from rubrica.core.run import Stage
from rubrica.train.callbacks import newest_checkpoint, silence
from rubrica.train.policy import Start, save_policy

RowT = TypeVar("RowT")


class Arguments(Protocol):
    """What is used of a trainer's arguments."""

    max_steps: int
    num_train_epochs: float
    per_device_train_batch_size: int
    gradient_accumulation_steps: int


def epochs_in_order(rows: Sequence[RowT], epochs: float, seed: int) -> list[RowT]:
    """Return ``epochs`` passes over ``rows`` one after another, each in its own order."""
    generator = random.Random(f"sft/{seed}")
    wanted = math.ceil(epochs * len(rows))
    ordered: list[RowT] = []
    while len(ordered) < wanted:
        ordered += generator.sample(list(rows), len(rows))
    return ordered[:wanted]


def rows_an_update(args: Arguments) -> int:
    """Return how many rows one update sees."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps


def laid_out(rows: Sequence[RowT], args: Arguments, seed: int) -> tuple[list[RowT], int]:
    """Return the rows in the order in which they are trained on, and the number of updates.

    All epochs become one long one (``args`` is changed to say so), because only there a resumed run repeats
    nothing.
    """
    if args.max_steps > 0:
        ordered = epochs_in_order(rows, args.max_steps * rows_an_update(args) / len(rows), seed)
    else:
        ordered = epochs_in_order(rows, args.num_train_epochs, seed)
    updates = args.max_steps if args.max_steps > 0 else math.ceil(len(ordered) / rows_an_update(args))
    args.num_train_epochs = 1
    return ordered, updates


def run_trainer(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    stage: Stage,
    start: Start,
    on_resume: Callable[[int], None] | None = None,
) -> int:
    """Train from the newest checkpoint on, write ``stage.model_dir`` and return the updates made.

    ``on_resume`` gets the update of the checkpoint that training goes on from (0: from the start), so that the
    caller can drop what it kept of later ones.
    """
    silence(trainer)
    newest = newest_checkpoint(stage.checkpoints)
    done = newest[1] if newest else 0
    stage.rewind(done)
    if on_resume is not None:
        on_resume(done)
    trainer.train(resume_from_checkpoint=str(newest[0]) if newest else None)
    save_policy(trainer.model, tokenizer, stage.model_dir, stage.path / "adapter", start.dtype)
    return int(trainer.state.global_step)
