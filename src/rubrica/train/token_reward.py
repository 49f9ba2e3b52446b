"""A reward model trained token by token (RFT, arXiv 2405.17888, Algorithm 1), by TRL's RewardTrainer.

The model is an ordinary one for sequence classification with one output: hidden states and a linear head without
bias, so whatever loads such a model loads this one. Training reads the head at every position, and the loss is
:func:`rubrica.losses.token_bt.token_bradley_terry` in place of one comparison at the end.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from rubrica.core.config import Json
from rubrica.core.errors import ModelError, TrainingError
from rubrica.core.run import Stage
from rubrica.losses.token_bt import compared_positions, held, token_bradley_terry
from rubrica.train.arguments import Numerics, common_defaults, common_fixed, trainer_arguments
from rubrica.train.callbacks import Progress, StageLog, quiet
from rubrica.train.policy import Start
from rubrica.train.running import laid_out, run_trainer


class TextPair(NamedTuple):
    """Two conversations that differ in their last turn, the better one first, as the reward model reads them."""

    chosen_ids: list[int]
    rejected_ids: list[int]


class _Inputs(Protocol):
    """Token ids and mask of the chosen, then of the rejected sequences, padded on the right."""

    def __getitem__(self, name: str) -> Tensor: ...


def reward_arguments(
    options: Mapping[str, Json], numerics: Numerics, output_dir: Path, seed: int, source: str | Path
) -> RewardConfig:
    """Return RewardConfig; ours unless ``options`` say otherwise: one epoch, learning rate 1e-6, batches of 16."""
    defaults = {
        **common_defaults(numerics),
        "learning_rate": 1e-6,
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


def token_rewards(model: PreTrainedModel | PeftModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the head's score at every position (B, T), in float32; ``ModelError`` for a model without such a head."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    head = getattr(plain, "score", None)
    if head is None:
        raise ModelError(
            f"reward model: {type(plain).__name__} has no head named score; expected a decoder such as Llama, Qwen, "
            "Mistral, Gemma, GPT-2 or GPT-NeoX"
        )
    hidden = plain.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return cast(Tensor, head(hidden.last_hidden_state)[..., 0]).float()


class TokenRewardTrainer(RewardTrainer):  # type: ignore[misc]
    """TRL's trainer with the token-level loss."""

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: _Inputs,
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over pairs; accuracy and margin are those of the finished texts' scores."""
        ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(dim=1)
        with self.accelerator.autocast():
            rewards = token_rewards(self.accelerator.unwrap_model(model), ids, inputs["attention_mask"])
        chosen, rejected = held(rewards, lengths).chunk(2)
        positions = compared_positions(*ids.chunk(2), *lengths.chunk(2))
        loss = token_bradley_terry(chosen, rejected, positions).mean()
        margin = (chosen - rejected)[:, -1].detach()
        kept = self._metrics["train" if self.model.training else "eval"]
        kept["accuracy"].append((margin > 0).float().mean().item())
        kept["margin"].append(margin.mean().item())
        return (loss, {"rewards": rewards}) if return_outputs else loss


def train_token_reward(
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
) -> dict[str, float]:
    """Train, write ``stage.model_dir`` and return steps, first and last loss and accuracy; continues after a kill.

    ``start.model`` is a causal model, whose head is then new and drawn from ``seed``, or a reward model to go on
    with; ``start.lora`` puts a new adapter on it. Raises ``TrainingError`` without rows, ``DataError`` on options
    that RewardConfig refuses.
    """
    if not rows:
        raise TrainingError(f"{stage.name}: got no pair; expected at least one")
    with quiet():
        args = reward_arguments(options, Numerics(dtype=start.dtype), stage.checkpoints, seed, source)
        ordered, total = laid_out(rows, args, seed)
        args.model_init_kwargs = start.init_kwargs()
        trainer = TokenRewardTrainer(
            model=str(start.model),
            args=args,
            train_dataset=_dataset(ordered),
            processing_class=tokenizer,
            peft_config=None if start.lora is None else start.lora.peft("SEQ_CLS"),
            callbacks=[StageLog(stage, label, total, progress)],
        )
        steps = run_trainer(trainer, tokenizer, stage, start)
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


def _dataset(rows: Sequence[TextPair]) -> Dataset:
    return Dataset.from_list([row._asdict() for row in rows])
