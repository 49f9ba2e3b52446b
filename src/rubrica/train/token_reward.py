"""A reward model trained token by token (RFT, arXiv 2405.17888, Algorithm 1), by TRL's RewardTrainer.

The model is an ordinary one for sequence classification with one output: hidden states and a linear head without
bias, so whatever loads such a model loads this one. Training reads the head at every position, and the loss is
:func:`rubrica.losses.token_bt.token_bradley_terry` in place of one comparison at the end.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardTrainer

from rubrica.core.config import Json
from rubrica.core.errors import ModelError
from rubrica.core.run import Stage
from rubrica.losses.token_bt import compared_positions, held, token_bradley_terry
from rubrica.train.callbacks import Progress
from rubrica.train.policy import Start
from rubrica.train.reward_model import TextPair as TextPair
from rubrica.train.reward_model import train_reward_model


class _Inputs(Protocol):
    """Token ids and mask of the chosen, then of the rejected sequences, padded on the right."""

    def __getitem__(self, name: str) -> Tensor: ...


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

    The arguments are those of :func:`rubrica.train.reward_model.train_reward_model`.
    """
    return train_reward_model(
        start,
        rows,
        tokenizer,
        stage,
        options,
        seed=seed,
        source=source,
        progress=progress,
        label=label,
        trainer=TokenRewardTrainer,
    )
