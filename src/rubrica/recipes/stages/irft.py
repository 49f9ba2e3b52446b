"""Options of stage IRFT."""

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from rubrica.core.config import Config
from rubrica.core.records import Sampling
from rubrica.methods.irft import Guard
from rubrica.recipes.options import MOST, DemonstrationSource, TrainerOptions

_SPIN: dict[str, JsonValue] = {"stages": 1, "link": "sigmoid", "reference": "stage"}


class Irft(Config):
    """Implicit-reward fine-tuning (arXiv 2405.17888, Algorithm 2): demonstrations over the policy's own answers."""

    type: Literal["irft"] = "irft"
    """Kind of the stage."""
    preset: Literal["spin"] | None = None
    """``spin``: one stage, the logistic link, its start as the reference (SPIN, arXiv 2401.01335)."""
    demonstrations: list[DemonstrationSource] = Field(min_length=1)
    """Files, datasets on the hub, or the lab's (paper: 50,000 of ultrachat200k)."""
    stages: int = Field(default=5, ge=1, le=1000)
    """T: how often the policy answers anew, each time another part of the prompts (paper: 5)."""
    steps: int | None = Field(default=None, ge=1, le=MOST)
    """K: updates of each stage; None: as many as ``trainer`` says, one pass over the part by default (paper)."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the implicit reward (paper: 0.1)."""
    link: Literal["sigmoid", "hinge", "literal"] = "sigmoid"
    """From the difference of rewards to the loss: ``sigmoid`` (paper), ``hinge``, or ``literal``."""
    reference: Literal["stage", "initial"] = "stage"
    """The model before each stage (paper's code), or the one before the first."""
    sft: float = Field(default=0.0, ge=0)
    """Times the demonstrations' mean negative log-likelihood a token, added against collapse (own: none)."""
    answers: Sampling = Sampling(temperature=1.0, max_tokens=256)
    """How the policy answers (paper: samples of at most 256 tokens; its code decodes greedily)."""
    guard: Guard = Guard()
    """What is done when the demonstrations themselves become unlikely."""
    trainer: TrainerOptions = Field(default_factory=dict)
    """Options of TRL's DPOConfig for each stage; ours are the paper's: learning_rate 5e-7, linear, RMSprop, warm-up
    over a tenth; batch 16 (own)."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: object) -> object:
        if not isinstance(given, dict) or given.get("preset") != "spin":
            return given
        for key, value in _SPIN.items():
            if given.get(key, value) != value:
                raise ValueError(f"preset spin has {key}: {value}, not {given[key]!r}; remove one of the two")
        return {**_SPIN, **given}

    @model_validator(mode="after")
    def _steps_once(self) -> Self:
        if self.steps is not None and {"max_steps", "num_train_epochs"} & set(self.trainer):
            raise ValueError(
                "steps, and max_steps or num_train_epochs of the trainer, are both given; remove one"
            )
        return self

    @property
    def prompts_needed(self) -> int:
        """None: it has demonstrations."""
        return 0
