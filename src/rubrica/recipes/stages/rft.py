"""Options of stage RFT."""

from typing import Literal

from pydantic import Field

from rubrica.core.config import Config
from rubrica.core.records import Sampling
from rubrica.recipes.options import MOST, DemonstrationSource, LoraOptions, TrainerOptions


class RewardStep(Config):
    """How the reward model is trained in each round."""

    lora: LoraOptions | None = None
    """Train an adapter, merged after each round, instead of all weights (own: all weights)."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's RewardConfig; ours: one epoch, learning_rate 1e-6, batch 16 (paper, all three)."""


class PolicyStep(Config):
    """How the policy is improved in each round."""

    steps: int = Field(default=100, ge=1, le=MOST)
    """Updates (own; the paper makes 2,000 in all)."""
    prompts_per_step: int = Field(default=16, ge=1, le=MOST)
    """Prompts of one update (own; the paper's rollouts are 64 at a time)."""
    group_size: int = Field(default=4, ge=2, le=MOST)
    """Completions of one prompt, the baseline of each other (own)."""
    temperature: float = Field(default=1.0, gt=0)
    """Rollout temperature (paper)."""
    save_steps: int = Field(default=5, ge=1)
    """Steps between checkpoints; a killed run loses at most these (own)."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's GRPOConfig; ours: learning_rate 1e-6 (paper), loss_type dr_grpo and scale_rewards none, with
    which the step follows the gradient of E[r] - beta KL (own)."""


class Rft(Config):
    """Reward-learning fine-tuning (arXiv 2405.17888, Algorithm 1): a reward model learnt from demonstrations and the
    policy's own answers, in turns with the policy that follows it."""

    type: Literal["rft"] = "rft"
    """Kind of the stage."""
    demonstrations: list[DemonstrationSource] = Field(min_length=1)
    """Files, datasets on the hub, or the lab's."""
    rounds: int = Field(default=5, ge=1, le=1000)
    """T: turns of reward model and policy, each on another part of the demonstrations (paper: 5)."""
    answers: Sampling = Sampling(temperature=1.0, max_tokens=128)
    """How the policy answers, here and in its rollouts' length (paper: 128 new tokens)."""
    beta: float = Field(default=0.05, gt=0)
    """Weight of the KL divergence from the policy before the stage; rewards have deviation 1 (paper: 0.05)."""
    reward: RewardStep = RewardStep()
    """The reward model's part of a round."""
    policy: PolicyStep = PolicyStep()
    """The policy's part of a round."""

    @property
    def prompts_needed(self) -> int:
        """None: it has demonstrations."""
        return 0
