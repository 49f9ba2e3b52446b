"""Options of stage DPO: preference pairs, and the loss on them."""

from typing import Literal

from pydantic import Field

from rubrica.core.base import NonEmpty
from rubrica.core.config import Config
from rubrica.core.records import Sampling
from rubrica.recipes.options import MOST, ModelSource, TrainerOptions


class Offset(Config):
    """Offset-DPO: how much more likely the chosen answer must become the better it was scored."""

    scale: float = Field(default=1.0, gt=0)
    """Times the difference in score (own)."""
    form: Literal["linear", "log"] = "linear"
    """The difference itself, or its logarithm as in the experiments of Amini et al. 2024 (own)."""


class Dpo(Config):
    """Direct preference optimisation on pairs: an aligned model's answers over the policy's own, or given ones."""

    type: Literal["dpo"] = "dpo"
    """Kind of the stage."""
    pairs: list[NonEmpty] = Field(default_factory=list)
    """Files of preference pairs; empty: pairs are made from the recipe's prompts."""
    examples: int = Field(default=1600, ge=1, le=MOST)
    """Prompts that pairs are made for (paper: 1,600)."""
    chosen: ModelSource | None = None
    """Who writes the chosen answers (paper: Llama-3.1-8B-Instruct); None: the recipe's teacher."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=512)
    """How both models answer (own)."""
    loss: Literal["dpo", "simpo"] = "dpo"
    """DPO against the policy as it stands before the stage, or SimPO without a reference."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the margin (own; 2 to 2.5 is usual for SimPO)."""
    gamma: float = Field(default=0.0, ge=0)
    """Target margin of SimPO (own)."""
    offset: Offset | None = None
    """Offset by how much better the program scores the chosen answer; None: none."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's DPOConfig; ours: one epoch (paper), learning_rate 1e-6, batch 16 (paper)."""

    @property
    def prompts_needed(self) -> int:
        """Prompts that the stage takes from the recipe."""
        return 0 if self.pairs else self.examples
