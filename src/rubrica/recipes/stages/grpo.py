"""Options of stage GRPO."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rubrica.core.config import Config
from rubrica.judges.factory import JudgeConfig
from rubrica.recipes.options import MOST, RewardModelSource, TrainerOptions


class ScalarReward(RewardModelSource):
    """A scalar reward model in place of the program's reward."""

    texts: Literal["both", "revision"] = "both"
    """Score draft and revision, and reward both as a rubric would, or the revision alone (the paper does not say)."""


class Grpo(Config):
    """Stage 3: group-relative policy optimisation on the program's reward, or on a reward model's."""

    type: Literal["grpo"] = "grpo"
    """Kind of the stage."""
    steps: int = Field(default=100, ge=1)
    """Updates (paper)."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Prompts of one update (paper)."""
    group_size: int = Field(default=5, ge=2)
    """Completions of one prompt (paper)."""
    max_completion_tokens: int = Field(default=1536, ge=8, le=MOST)
    """Tokens of draft, reflection and revision together (paper: sequences of at most 1,536)."""
    temperature: float = Field(default=1.0, gt=0)
    """Rollout temperature (paper)."""
    reward_model: ScalarReward | None = None
    """A scalar reward model (paper: baselines Skywork and URM); None: the program's reward."""
    judge_retries: int = Field(default=2, ge=0)
    """How often a text without a total or a score is asked for again before its completion gives no signal (own)."""
    failure_budget: float = Field(default=0.2, ge=0, le=1)
    """Share of the latest judge calls that may fail before the run pauses (own)."""
    diagnostics_every: int = Field(default=10, ge=0)
    """Full scorecards of a sample every so many steps; 0 never (own)."""
    diagnostics_texts: int = Field(default=16, ge=2, le=MOST)
    """Texts in that sample: draft and revision of half as many completions (own)."""
    reference: str | JudgeConfig | None = None
    """A second judge that checks every veto, so that the false-veto rate is measured (own: none)."""
    save_steps: int = Field(default=5, ge=1)
    """Steps between checkpoints; a killed run loses at most these (own)."""
    fast_rollouts: bool | None = None
    """Sample with Rubrica's own decode loop; None: on a CPU only (own)."""
    overlap: bool | Literal["auto"] = "auto"
    """Judge completions that have ended while others are generated; auto: judges behind servers (own)."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's GRPOConfig; ours: learning_rate 1e-6 (paper), beta 0.001 (paper), constant schedule."""

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if (count := self.steps * self.prompts_per_step * self.group_size) > MOST:
            raise ValueError(
                f"steps x prompts_per_step x group_size is {count:.3g} completions; expected at most {MOST:,}"
            )
        if self.overlap is True and self.fast_rollouts is False:
            raise ValueError("overlap: true needs Rubrica's own decode loop; expected fast_rollouts: true")
        if self.reward_model is not None and (self.overlap is True or self.reference is not None):
            name = "reference checks vetoes" if self.reference is not None else "overlap is judging"
            raise ValueError(f"{name}, and a reward model has none; remove one of the two")
        return self

    @property
    def prompts_needed(self) -> int:
        """Prompts that the stage takes from the recipe, repeated ones counted again."""
        return self.steps * self.prompts_per_step
