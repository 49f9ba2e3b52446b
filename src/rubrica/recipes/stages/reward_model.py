"""Options of stage reward-model: preference pairs, and the training of a scalar reward model on them."""

from typing import Literal

from pydantic import Field

from rubrica.core.base import NonEmpty
from rubrica.core.config import Config
from rubrica.core.records import Sampling
from rubrica.recipes.options import MOST, LoraOptions, ModelSource, TrainerOptions


class TrainReward(Config):
    """A scalar reward model by Bradley-Terry; the policy stays as it is."""

    type: Literal["reward-model"] = "reward-model"
    """Kind of the stage."""
    model: ModelSource | None = None
    """What gets the head, or a reward model to go on with; None: the recipe's policy before its first stage (own)."""
    pairs: list[NonEmpty] = Field(default_factory=list)
    """Files of preference pairs; empty: pairs are made from the recipe's prompts."""
    examples: int = Field(default=1600, ge=2, le=MOST)
    """Prompts that pairs are made for (own)."""
    preferred: Literal["teacher", "judge"] = "teacher"
    """Of made pairs, the teacher's answer over the policy's, or the best over the worst of several by the program (own)."""
    samples: int = Field(default=2, ge=1, le=64)
    """For ``judge``: answers of the policy to a prompt, beside the teacher's where there is one (own)."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=512)
    """How answers are sampled (own)."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the prompts whose pairs measure the accuracy and are not trained on (own)."""
    lora: LoraOptions | None = None
    """Train an adapter instead of all weights; the head is trained whole (own: all weights)."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's RewardConfig; ours: one epoch, learning_rate 1e-5, batch 16 (own)."""

    @property
    def prompts_needed(self) -> int:
        """Prompts that the stage takes from the recipe."""
        return 0 if self.pairs else self.examples
