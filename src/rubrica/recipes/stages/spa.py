"""Stage spa: self-priority alignment (arXiv 2511.06222).

The paper's main text fixes the method and leaves nearly every number to an appendix that is not at hand; what is marked
*paper* is from the text, beta and gamma are SimPO's own for Llama-3-Instruct.
"""

from importlib import resources
from typing import Literal, Self

from pydantic import Field, model_validator

from rubrica.core.base import NonEmpty, Slug
from rubrica.core.config import Config
from rubrica.core.records import Sampling
from rubrica.judges.factory import JudgeConfig
from rubrica.methods.spa import Denoising, Pairing
from rubrica.recipes.options import MOST, TrainerOptions

SELF = "self"
"""Spec of the policy as its own judge."""
_SYSTEMS = resources.files("rubrica.methods").joinpath("prompts/spa-systems.txt").read_text(encoding="utf-8")


class Spa(Config):
    """Self-priority alignment: a model samples, scores, refines and filters its own answers, and learns from pairs."""

    type: Literal["spa"] = "spa"
    """Kind of the stage."""
    prompts: int = Field(default=400, ge=1, le=MOST)
    """Prompts of one iteration (paper: 300 to 400)."""
    iterations: int = Field(default=1, ge=1, le=1000)
    """How often all of it is done, each time with the model that the last one left (paper: 1; a second helps)."""
    fresh_prompts: bool = False
    """Take other prompts for each iteration (paper: the same are better)."""
    samples: int = Field(default=6, ge=2, le=MOST)
    """Answers to each prompt (own)."""
    sampling: Sampling = Sampling(temperature=1.1, top_p=0.95, max_tokens=512)
    """How they are sampled (paper: at high temperature; the numbers are own)."""
    system_prompts: list[str] = Field(default=["", *_SYSTEMS.strip().split("\n\n")])
    """System prompts that the samples take in turn, an empty one for none (paper: alternative ones; the texts are own)."""
    objectives: list[Slug] = Field(default=["harmlessness", "helpfulness"], min_length=2)
    """Principles of the program, the one of highest priority first (paper: two; more are own)."""
    program: NonEmpty | None = "ratings"
    """Questions that score an answer: ``ratings`` asks one for each objective (paper); None: the recipe's program."""
    judge: str | JudgeConfig | None = SELF
    """Who answers them: ``self``, the policy as it stands (paper), another judge, or None: the recipe's."""
    refine: Literal["policy", "teacher", "afresh", "none"] = "policy"
    """Who writes the refined answer: the policy, shown its answers and scores (paper), the recipe's teacher, shown the
    same, the teacher ``afresh`` from the prompt alone (own), or nobody (paper's ablation)."""
    refinement: Sampling = Sampling(temperature=0.0, max_tokens=512)
    """How it is written (own: greedy)."""
    denoise: Denoising = Denoising()
    """Which prompts are trained on."""
    reference: str | JudgeConfig | None = None
    """For ``denoise.tau: rv``: the stronger judge from which the scorer parts (own: none)."""
    pairs: Pairing = Pairing()
    """Which answers become pairs."""
    loss: Literal["spa", "simpo", "dpo", "sft"] = "spa"
    """``spa``: SimPO with weights from the gaps. The others are the paper's baselines on the same pairs: SimPO and DPO
    without weights, supervised training on the preferred answers."""
    alpha: float = Field(default=1.0, gt=0)
    """``spa``: weights are (gap / mean gap of the batch) ** alpha (own)."""
    beta: float | None = Field(default=None, gt=0)
    """Scale of the margin; None: 2.5 (SimPO), 0.1 for ``dpo`` (own)."""
    gamma: float = Field(default=1.375, ge=0)
    """``spa`` and ``simpo``: target margin (SimPO: 0.55 beta)."""
    measure: bool = True
    """Answer every prompt once before and after, greedily, for HH_lambda in the summary (own)."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of the trainer of pairs, or of TRL's SFTConfig; ours: learning_rate 1e-6 (SimPO), one epoch."""

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives name {self.objectives[0]!r} or another one twice; name each once")
        if self.denoise.informativeness and self.samples <= len(self.objectives):
            raise ValueError(
                f"samples is {self.samples}: the covariance of {len(self.objectives)} objectives is then singular and "
                f"every prompt would be dropped; expected at least {len(self.objectives) + 1}"
            )
        if self.denoise.tau == "rv" and self.denoise.informativeness and self.reference is None:
            raise ValueError("denoise.tau: rv needs reference, the judge that the scorer is held against")
        if self.refine == "none" and self.denoise.consistency == "drop-refined":
            raise ValueError("consistency: drop-refined has nothing to drop with refine: none; leave it out")
        return self

    @property
    def prompts_needed(self) -> int:
        """Prompts that the stage takes."""
        return self.prompts * (self.iterations if self.fresh_prompts else 1)
