"""Options of stage SFT."""

from typing import Literal

from pydantic import Field

from rubrica.core.config import Config
from rubrica.recipes.options import DemonstrationSource, TrainerOptions


class Sft(Config):
    """Supervised fine-tuning on demonstrations as they are."""

    type: Literal["sft"] = "sft"
    """Kind of the stage."""
    demonstrations: list[DemonstrationSource] = Field(min_length=1)
    """Files, datasets on the hub, or the lab's."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's SFTConfig; ours: one epoch, learning_rate 1e-5, batch 16."""

    @property
    def prompts_needed(self) -> int:
        """None: it has demonstrations."""
        return 0
