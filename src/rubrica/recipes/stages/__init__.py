"""The stages that a recipe may have: their options, one module each."""

from typing import Annotated

from pydantic import Field

from rubrica.judges.factory import JudgeConfig
from rubrica.recipes.options import DemonstrationSource
from rubrica.recipes.stages.active_dpo import ActiveDpo, JudgeLabels
from rubrica.recipes.stages.dpo import Dpo
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.stages.irft import Irft
from rubrica.recipes.stages.reward_model import TrainReward
from rubrica.recipes.stages.rft import Rft
from rubrica.recipes.stages.sft import Sft
from rubrica.recipes.stages.spa import Spa
from rubrica.recipes.stages.think_sft import ThinkSft

StageConfig = Annotated[
    ThinkSft | Grpo | Dpo | Spa | ActiveDpo | Sft | Irft | Rft | TrainReward,
    Field(discriminator="type"),
]


def reference_of(stage: StageConfig) -> str | JudgeConfig | None:
    """Return the second judge that a stage names, if it does."""
    return stage.reference if isinstance(stage, ThinkSft | Grpo | Spa) else None


def demonstrations_of(stage: StageConfig) -> list[DemonstrationSource]:
    """Return where a stage's demonstrations come from, if it has any."""
    return stage.demonstrations if isinstance(stage, Sft | Irft | Rft) else []


def asks_judge(stage: StageConfig) -> bool:
    """Tell whether a stage cannot do without the recipe's judge."""
    match stage:
        case Grpo():
            return stage.reward_model is None
        case Dpo():
            return stage.offset is not None
        case TrainReward():
            return not stage.pairs and stage.preferred == "judge"
        case Spa():
            return stage.judge is None
        case ActiveDpo():
            return isinstance(stage.labels, JudgeLabels) or stage.held_out > 0
        case Sft() | Irft() | Rft():
            return False
        case ThinkSft():
            return True
