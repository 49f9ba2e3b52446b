"""A scalar reward model from preference pairs, by TRL's RewardTrainer, unmodified.

    L = mean over pairs of  -log sigmoid( r(x, y+) - r(x, y-) )        Bradley and Terry 1952

The model is an ordinary one for sequence classification with one label: whatever loads such a model loads this one.
``trainer.center_rewards_coefficient`` adds ``c (r+ + r-)^2`` (Eisenstein et al. 2023, arXiv 2312.09244, Eq. 2), which
fixes the free constant.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from rubrica.core.config import Json
from rubrica.core.errors import TrainingError
from rubrica.core.run import Stage
from rubrica.train.arguments import Numerics, common_defaults, common_fixed, trainer_arguments
from rubrica.train.callbacks import Progress, StageLog, quiet
from rubrica.train.policy import Start
from rubrica.train.running import laid_out, run_trainer


class TextPair(NamedTuple):
    """Two conversations that differ in their last turn, the better one first, as the reward model reads them."""

    chosen_ids: list[int]
    rejected_ids: list[int]


def reward_arguments(
    options: Mapping[str, Json],
    numerics: Numerics,
    output_dir: Path,
    seed: int,
    source: str | Path,
    learning_rate: float = 1e-6,
) -> RewardConfig:
    """Return RewardConfig; ours unless ``options`` say otherwise: one epoch, ``learning_rate``, batches of 16."""
    defaults = {
        **common_defaults(numerics),
        "learning_rate": learning_rate,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "save_steps": 50,
    }
    fixed = {
        **common_fixed(output_dir, seed),
        "train_sampling_strategy": "sequential",
        "max_length": None,  # who calls leaves out what is too long
    }
    return trainer_arguments(RewardConfig, options, defaults=defaults, fixed=fixed, source=source)


def pad_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give ``tokenizer`` a pad token that ends no text, where it has one to spare.

    A classifier reads the last token that is no padding. Where padding is the end token, that is the token before
    the end; a server that pads nothing reads the end itself, and so another score.
    """
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return
    special = [t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special and i not in taken]
    for sign in ("pad", "unk", "reserved"):
        for token in special:
            if sign in token.casefold():
                tokenizer.pad_token = token
                return


def train_reward_model(
    start: Start,
    rows: Sequence[TextPair],
    tokenizer: PreTrainedTokenizerBase,
    stage: Stage,
    options: Mapping[str, Json],
    *,
    seed: int,
    source: str | Path = "recipe",
    progress: Progress | None = None,
    label: str = "reward model",
    trainer: type[RewardTrainer] = RewardTrainer,
    learning_rate: float = 1e-6,
) -> dict[str, float]:
    """Train, write ``stage.model_dir`` and return steps, first and last loss and accuracy; continues after a kill.

    ``start.model`` is a causal model, whose head is then new and drawn from ``seed``, or a reward model to go on
    with; ``start.lora`` puts a new adapter on it. ``learning_rate`` is what ``options`` may replace. Raises
    ``TrainingError`` without rows, ``DataError`` on options that RewardConfig refuses.
    """
    if not rows:
        raise TrainingError(f"{stage.name}: got no pair; expected at least one")
    with quiet():
        numerics = Numerics(dtype=start.dtype)
        args = reward_arguments(options, numerics, stage.checkpoints, seed, source, learning_rate)
        ordered, total = laid_out(rows, args, seed)
        args.model_init_kwargs = start.init_kwargs()
        trained = trainer(
            model=str(start.model),
            args=args,
            train_dataset=Dataset.from_list([row._asdict() for row in ordered]),
            processing_class=tokenizer,
            peft_config=None if start.lora is None else start.lora.peft("SEQ_CLS"),
            callbacks=[StageLog(stage, label, total, progress)],
        )
        steps = run_trainer(trained, tokenizer, stage, start)
    logged = [row.metrics for row in stage.metrics() if "loss" in row.metrics]
    if not logged:
        raise TrainingError(
            f"{stage.name}: no finite loss was logged; lower the reward's trainer.learning_rate"
        )
    return {
        "steps": float(steps),
        "first_loss": logged[0]["loss"],
        "last_loss": logged[-1]["loss"],
        "last_accuracy": logged[-1]["accuracy"],
    }
