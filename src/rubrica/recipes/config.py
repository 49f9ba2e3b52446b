"""The recipe: one YAML file that says everything about a run.

Defaults are the values of QA-LIGN (arXiv 2506.08123) where the paper gives one, marked *paper*; the others
are ours, marked *own*. ``trainer`` mappings go to TRL's configuration of the stage, which checks them.
"""

from typing import Self

from pydantic import Field, model_validator

from rubrica.core.attempt import Tags
from rubrica.core.base import NonEmpty, Slug
from rubrica.core.config import Config, Json
from rubrica.judges.budget import Budget
from rubrica.judges.factory import JudgeConfig, judge_identity
from rubrica.program.reward import RewardConfig
from rubrica.recipes.nobody import NOBODY
from rubrica.recipes.options import MOST, ModelSource, PolicySource, PromptSource
from rubrica.recipes.reward_source import reward_model_identity
from rubrica.recipes.stages import StageConfig
from rubrica.recipes.stages.think_sft import ThinkSft

_JUDGES = ("judge", "reference")
"""Keys of a recipe or a stage that name a judge."""
_OPERATIONAL = ("budget", "overlap")
"""Keys of a recipe or a stage that change no result."""


class PromptConfig(Config):
    """What the policy is asked while it is trained."""

    train: list[PromptSource] = Field(default_factory=list)
    """Prompts of the stages that sample (paper: 1,600 harmful prompts of WildJailbreak); none where all have
    demonstrations or pairs."""
    sft: list[PromptSource] = Field(default_factory=list)
    """Prompts of think-SFT; empty takes them from ``train``, and RL then leaves those out (own)."""
    mix: dict[str, float] = Field(default_factory=dict)
    """Shares by the prompts' ``kind`` tag, for example harmful 0.5, benign 0.5; empty: as they come (own)."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if any(share <= 0 for share in self.mix.values()) or (
            self.mix and abs(sum(self.mix.values()) - 1) > 1e-6
        ):
            raise ValueError("mix: shares must be positive and add up to 1")
        return self


class EvaluateConfig(Config):
    """What is measured before and after training."""

    suites: list[NonEmpty] = Field(default_factory=list)
    """Names of suites; empty evaluates nothing (own)."""
    trials: int = Field(default=3, ge=1, le=MOST)
    """Independent samples of every prompt (paper: 3)."""
    samples: int | None = Field(default=None, ge=1, le=MOST)
    """Prompts of each suite, None for all (own)."""


class Recipe(Config):
    """Policy, judge, program, reward, prompts, stages and evaluation of one run."""

    name: Slug
    """Name of the run."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random (own)."""
    policy: PolicySource
    """The model that is aligned."""
    teacher: ModelSource | None = None
    """Writes the revisions of think-SFT; None: the policy, shown its draft and the reflection."""
    judge: str | JudgeConfig = NOBODY
    """Answers the program's questions: lab, lab-oracle, local:PATH, openai:MODEL@URL or a mapping; none where no stage
    asks any."""
    program: NonEmpty = "hhh"
    """Questions: hhh (paper's shape: 3 principles, 40 dimensions, 167 questions), lab, or a YAML file."""
    reward: RewardConfig = RewardConfig()
    """From two scorecards to one number."""
    prompts: PromptConfig = PromptConfig()
    """What the policy is asked."""
    tags: Tags = Tags()
    """Tags around the reflection (paper: two spellings)."""
    reflect: bool = True
    """Draft, reflect and revise in one completion (paper); false: think-SFT teaches and GRPO rewards the answer alone."""
    stages: list[StageConfig] = Field(min_length=1)
    """What is done, in order."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""
    budget: Budget = Budget()
    """Where the run pauses; a higher one and ``--resume`` go on (own: nowhere)."""

    @property
    def written_tags(self) -> Tags | None:
        """Tags that think-SFT and GRPO make the policy write."""
        return self.tags if self.reflect else None

    @model_validator(mode="after")
    def _one_think_sft(self) -> Self:
        count = sum(isinstance(stage, ThinkSft) for stage in self.stages)
        if count > 1:
            raise ValueError(f"stages: think-sft stands {count} times; expected it once at most")
        return self


def recipe_identity(recipe: Json) -> Json:
    """Return what of a recipe's plain values must be the same for its run to go on.

    A judge may have moved to another URL, and may be asked faster or slower; the budget may be another.
    """
    if not isinstance(recipe, dict):
        return recipe
    found = {key: value for key, value in recipe.items() if key not in _OPERATIONAL}
    found |= {key: judge_identity(found[key]) for key in _JUDGES if key in found}
    if "reward_model" in found:
        found["reward_model"] = reward_model_identity(found["reward_model"])
    if isinstance(stages := found.get("stages"), list):
        found["stages"] = [recipe_identity(stage) for stage in stages]
    return found
