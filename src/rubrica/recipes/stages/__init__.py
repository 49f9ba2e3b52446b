"""The stages that a recipe may have: their options, one module each."""

from typing import Annotated

from pydantic import Field

from rubrica.judges.factory import JudgeConfig
from rubrica.recipes.options import DemonstrationSource
from rubrica.recipes.stages.active_dpo import ActiveDpo
from rubrica.recipes.stages.dpo import Dpo
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.stages.irft import Irft
from rubrica.recipes.stages.sft import Sft
from rubrica.recipes.stages.spa import Spa
from rubrica.recipes.stages.think_sft import ThinkSft

StageConfig = Annotated[ThinkSft | Grpo | Dpo | Spa | ActiveDpo | Sft | Irft, Field(discriminator="type")]


def reference_of(stage: StageConfig) -> str | JudgeConfig | None:
    """Return the second judge that a stage names, if it does."""
    return stage.reference if isinstance(stage, ThinkSft | Grpo | Spa) else None


def demonstrations_of(stage: StageConfig) -> list[DemonstrationSource]:
    """Return where a stage's demonstrations come from, if it has any."""
    return stage.demonstrations if isinstance(stage, Sft | Irft) else []
