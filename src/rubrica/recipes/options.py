"""What several parts of a recipe share: models, prompts, options of trainers."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from rubrica.core.base import NonEmpty
from rubrica.core.config import Config

DType = Literal["float32", "bfloat16", "float16"]
MOST = 10_000_000
"""No count of a recipe may be larger: a slip of the pen is refused before it fills the memory."""


def _learnable(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    rate = options.get("learning_rate", 0)
    if isinstance(rate, int | float) and not 0 <= rate <= 1:
        raise ValueError(f"learning_rate is {rate:g}; expected 0 to 1, for example 1.0e-5")
    length = options.get("max_length")
    if isinstance(length, int) and length < 2:
        raise ValueError(
            f"max_length is {length}; expected 2 tokens or more, or none, which is the model's context"
        )
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


class LabDemonstrations(Config):
    """Demonstrations of the embedded lab: training requests, answered as its teacher was taught to."""

    lab: Literal["teacher"]
    """Whose lessons they are."""
    examples: int = Field(ge=1, le=100_000)
    """How many."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Share that is answered as nobody should prefer (own: none)."""
    seed: int = Field(default=0, ge=0)
    """Which draw (own: the same in all runs)."""


DemonstrationSource = NonEmpty | LabDemonstrations
"""A file or a dataset on the hub with a prompt and a response in each row, or the lab's."""


class RewardModelSource(Config):
    """A scalar reward model: any sequence-classification model, in this process or behind a server."""

    model: NonEmpty
    """Directory or hub id; ``stage:reward-model`` for what that stage of the recipe left; ``implicit:POLICY@REFERENCE``
    for the reward that a policy implies; ``vllm:MODEL@URL`` or ``rubrica:URL`` for a server."""
    revision: str | None = None
    """Commit or branch on the hub; None is its main branch."""
    dtype: DType = "bfloat16"
    """Weights' type in this process."""
    chat_template: str | None = None
    """Path of a Jinja file used instead of the tokenizer's chat template."""
    label: int | str | None = None
    """Index or name of the label whose raw logit is the score; needed where there are several."""
    head: NonEmpty | None = None
    """A safetensors file with a linear head over the model's last hidden state (docs/reward-models.md)."""
    batch_tokens: int = Field(default=16_384, ge=1, le=MOST)
    """Texts scored together: their number times the longest one's tokens."""
    endpoint: Literal["classify", "pooling"] = "classify"
    """What vLLM is asked: classification models, or those that it calls reward models itself."""
    version: str = ""
    """Servers: a name for the weights, where the same model name has served others; new scores for a new one."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Servers: most calls at a time."""
    timeout: float = Field(default=60.0, gt=0)
    """Servers: seconds for one text, repeated calls included."""
    retries: int = Field(default=4, ge=0, le=100)
    """Servers: further attempts after a fault that may pass."""
    api_key_env: NonEmpty | None = None
    """Servers: environment variable with the key; None: OPENAI_API_KEY for vLLM, RUBRICA_API_KEY for Rubrica."""
