"""Options of stage ActiveDPO: rounds of answering, selecting, labelling and DPO."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rubrica.core.config import Config
from rubrica.core.records import Sampling
from rubrica.recipes.options import MOST, LoraOptions, TrainerOptions


class JudgeLabels(Config):
    """The recipe's judge labels: the answer with the higher total is preferred."""

    type: Literal["judge"] = "judge"
    """Who labels."""
    noise: float = Field(default=0.0, ge=0)
    """Temperature of Bradley-Terry labels; 0: the sign of the difference (own)."""


class SheetLabels(Config):
    """People label in a table: the run pauses for each round and goes on with ``--resume``."""

    type: Literal["csv"] = "csv"
    """Who labels."""


LabelSource = Annotated[JudgeLabels | SheetLabels, Field(discriminator="type")]


class Selection(Config):
    """How pairs are chosen. Defaults are those of ActiveDPO (arXiv 2505.19241) where the paper gives one."""

    strategy: Literal["activedpo", "random", "aplp", "apo-linear", "entropy"] = "activedpo"
    """activedpo (paper), or a baseline."""
    ridge: float = Field(default=1.0, gt=0)
    """Weight of the identity in V: lambda / kappa (own)."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the implicit reward, for aplp (own)."""
    gradients: Literal["stale", "current"] = "stale"
    """Pairs of earlier rounds count in V with the gradients of their own round, or with new ones (own: stale)."""
    normalise: bool = True
    """Give each answer's projected gradient unit norm (paper)."""
    projection: int = Field(default=8192, ge=1, le=1 << 20)
    """Dimensions that gradients are projected to (paper)."""
    lora: LoraOptions = LoraOptions(r=128, alpha=512)
    """Adapter whose gradients are taken where the policy is trained without one (paper: rank 128, alpha 512)."""
    route: Literal["inverse", "sherman-morrison", "gram"] | None = None
    """How scores are computed; None: the way with the fewest operations. All give the same (own)."""
    batch_size: int = Field(default=8, ge=1, le=MOST)
    """Answers measured at a time (own)."""


class ActiveDpo(Config):
    """ActiveDPO: in each round the policy answers, the pairs that it is least sure about are labelled, DPO follows."""

    type: Literal["active-dpo"] = "active-dpo"
    """Kind of the stage."""
    rounds: int = Field(default=10, ge=1, le=1000)
    """Rounds (own; the paper shows curves)."""
    labels_per_round: int = Field(default=50, ge=1, le=MOST)
    """Pairs labelled in a round (paper)."""
    prompts_per_round: int = Field(default=1000, ge=1, le=MOST)
    """Prompts that are answered in a round (paper)."""
    responses: int = Field(default=3, ge=2, le=100)
    """Answers to each prompt; every two of them are a candidate (paper)."""
    regenerate: bool = True
    """Answer new prompts with the current policy each round (paper), or the first round's prompts once for all."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=512)
    """How the policy answers (own)."""
    selection: Selection = Selection()
    """How pairs are chosen."""
    labels: LabelSource = JudgeLabels()
    """Who labels."""
    train_on: Literal["all", "round"] = "all"
    """All labels so far from the policy before the stage, or a round's labels from the round before (own: all)."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the DPO margin against the policy before the stage (own)."""
    held_out: int = Field(default=0, ge=0, le=MOST)
    """Prompts, answered and judged after each round for a learning curve (paper: 100; own: none)."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's DPOConfig; ours: 4 epochs (paper), learning_rate 1e-4 (paper, for LoRA), batch 16."""

    @model_validator(mode="after")
    def _enough_pairs(self) -> Self:
        pairs = self.prompts_per_round * self.responses * (self.responses - 1) // 2
        wanted = self.labels_per_round * (1 if self.regenerate else self.rounds)
        if wanted > pairs:
            raise ValueError(
                f"{wanted} labels, but prompts_per_round and responses make at most {pairs} pairs; raise one of them"
            )
        return self

    @property
    def asked_per_stage(self) -> int:
        """Prompts that are answered in order to be selected from."""
        return self.prompts_per_round * (self.rounds if self.regenerate else 1)

    @property
    def prompts_needed(self) -> int:
        """Prompts that the stage takes from the recipe, those held out last."""
        return self.asked_per_stage + self.held_out
