"""Options of stage think-SFT."""

from typing import Literal

from pydantic import Field

from rubrica.core.base import NonEmpty, Slug
from rubrica.core.config import Config
from rubrica.core.records import Sampling
from rubrica.judges.factory import JudgeConfig
from rubrica.recipes.options import MOST, PromptSource, TrainerOptions


class ThinkSft(Config):
    """Stage 2: draft, critique and revision as supervised examples."""

    type: Literal["think-sft"] = "think-sft"
    """Kind of the stage."""
    examples: int = Field(default=500, ge=1, le=MOST)
    """Prompts to build examples from (paper)."""
    draft: Sampling = Sampling(temperature=1.0, max_tokens=512)
    """How the policy writes drafts (own)."""
    revision: Sampling = Sampling(temperature=0.0, max_tokens=512)
    """How the teacher, or the policy, writes revisions (own: greedy)."""
    reflection: Literal["judge", "template"] = "judge"
    """Who puts the weakness into words: the judge's model (paper), or phrases given for each question."""
    phrases: dict[Slug, NonEmpty] = Field(default_factory=dict)
    """For ``template``: question id -> weakness, for example ``it named the steps`` (own)."""
    reference: str | JudgeConfig | None = None
    """A second judge that checks whether reflections are right and revisions cure (own: none)."""
    keep_clean: bool = True
    """Keep prompts whose draft has no weakness, with the draft as its own revision (own)."""
    replay: list[PromptSource] = Field(default_factory=list)
    """Plain prompts taught in the same format, not judged, against forgetting (own: none)."""
    replay_examples: int = Field(default=0, ge=0, le=MOST)
    """How many of them (own)."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's SFTConfig; ours: one epoch (paper), learning_rate 1e-5, batch 16."""

    @property
    def prompts_needed(self) -> int:
        """None of those for RL: it has prompts of its own."""
        return 0
