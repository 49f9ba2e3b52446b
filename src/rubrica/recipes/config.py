"""The recipe: one YAML file that says everything about a run.

Defaults are the values of QA-LIGN (arXiv 2506.08123) where the paper gives one, marked *paper*; the others
are ours, marked *own*. ``trainer`` mappings go to TRL's configuration of the stage, which checks them.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from rubrica.core.attempt import Tags
from rubrica.core.base import NonEmpty, Slug
from rubrica.core.config import Config, Json
from rubrica.core.records import Sampling
from rubrica.judges.budget import Budget
from rubrica.judges.factory import JudgeConfig, judge_identity
from rubrica.program.reward import RewardConfig

_JUDGES = ("judge", "reference")
"""Keys of a recipe or a stage that name a judge."""
_OPERATIONAL = ("budget", "overlap")
"""Keys of a recipe or a stage that change no result."""
DType = Literal["float32", "bfloat16", "float16"]
MOST = 10_000_000
"""No count of a recipe may be larger: a slip of the pen is refused before it fills the memory."""


def _learnable(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    rate = options.get("learning_rate", 0)
    if isinstance(rate, int | float) and not 0 <= rate <= 1:
        raise ValueError(f"learning_rate is {rate:g}; expected 0 to 1, for example 1.0e-5")
    return options


TrainerOptions = Annotated[dict[str, JsonValue], AfterValidator(_learnable)]
"""Options for TRL, which checks them when the run starts."""


class LoraOptions(Config):
    """A low-rank adapter instead of full fine-tuning (the paper does not say which it used)."""

    r: int = Field(default=64, ge=1, le=MOST)
    """Rank (own)."""
    alpha: int = Field(default=128, ge=1)
    """Scale of the update is alpha / r (own)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input (own: none, so that rollouts are sampled from the trained policy)."""
    target_modules: str | list[str] = "all-linear"
    """Which layers get one: names, or ``all-linear`` (own)."""


class ModelSource(Config):
    """A causal language model in Hugging Face format."""

    model: NonEmpty
    """Directory, hub id, or ``lab:starter`` and ``lab:teacher`` for the models that ship with Rubrica."""
    revision: str | None = None
    """Commit or branch on the hub; None is its main branch (own)."""
    dtype: DType = "bfloat16"
    """Weights' type (paper: BF16)."""
    chat_template: str | None = None
    """Path of a Jinja file used instead of the tokenizer's chat template (own)."""


class PolicySource(ModelSource):
    """The model that is aligned."""

    lora: LoraOptions | None = None
    """Train an adapter instead of all weights (own: all weights)."""


class LabPrompts(Config):
    """Prompts of the embedded lab."""

    lab: NonEmpty
    """Kind of prompt that the lab generates, for example ``harmful`` or ``benign``."""


PromptSource = NonEmpty | LabPrompts
"""A file (CSV, JSON, JSONL, TXT, Parquet), a dataset on the hub, or a kind of the lab's prompts."""


class PromptConfig(Config):
    """What the policy is asked while it is trained."""

    train: list[PromptSource] = Field(min_length=1)
    """Prompts of the RL stage (paper: 1,600 harmful prompts of WildJailbreak)."""
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


class Grpo(Config):
    """Stage 3: group-relative policy optimisation on the program's reward."""

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
    judge_retries: int = Field(default=2, ge=0)
    """How often a text without a total is judged again before its completion gives no signal (own)."""
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
        return self


StageConfig = Annotated[ThinkSft | Grpo, Field(discriminator="type")]


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
    judge: str | JudgeConfig
    """Answers the program's questions: lab, lab-oracle, local:PATH, openai:MODEL@URL or a mapping."""
    program: NonEmpty = "hhh"
    """Questions: hhh (paper's shape: 3 principles, 40 dimensions, 167 questions), lab, or a YAML file."""
    reward: RewardConfig = RewardConfig()
    """From two scorecards to one number."""
    prompts: PromptConfig
    """What the policy is asked."""
    tags: Tags = Tags()
    """Tags around the reflection (paper: two spellings)."""
    stages: list[StageConfig] = Field(min_length=1)
    """What is done, in order."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""
    budget: Budget = Budget()
    """Where the run pauses; a higher one and ``--resume`` go on (own: nowhere)."""

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
    found = {
        key: judge_identity(value) if key in _JUDGES else value
        for key, value in recipe.items()
        if key not in _OPERATIONAL
    }
    if isinstance(stages := found.get("stages"), list):
        found["stages"] = [recipe_identity(stage) for stage in stages]
    return found
