"""Reward-guided decoding from one small file: ``rubrica decode``, and ``decode:FILE.yaml`` wherever a model writes."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from rubrica.core.base import NonEmpty
from rubrica.core.config import Config, Json, content_hash, load_config
from rubrica.core.errors import UsageError
from rubrica.core.records import Sampling
from rubrica.judges.budget import Purse
from rubrica.judges.factory import judge_identity
from rubrica.methods.transfer_q import Indirect, Weighting
from rubrica.program.program import load_program, program_hash
from rubrica.recipes.context import Surroundings
from rubrica.recipes.options import MOST, ModelSource
from rubrica.recipes.reward_source import reward_model_identity
from rubrica.recipes.text_reward import JudgeReward, TextReward, check_text_reward, open_text_reward

if TYPE_CHECKING:
    from rubrica.core.store import Store
    from rubrica.recipes.decoders import Decoder, Policy
    from rubrica.recipes.guided import Guide

PREFIX = "decode:"
"""Stands before the file where a model is expected."""
Mode = Literal["transfer-q", "cd", "args", "best-of-n"]
_OPERATIONAL = {"batch_tokens", "store"}
_UNREAD: dict[Mode, set[str]] = {
    "transfer-q": {"n"},
    "cd": {"n", "baseline", "baseline_reward", "candidates", "weighting", "beta", "max_log_weight"},
}
_UNREAD["args"] = _UNREAD["cd"] | {"rollout_tokens", "n_rollouts", "rollout_temperature"}
_UNREAD["best-of-n"] = (_UNREAD["args"] - {"n"}) | {"alpha", "k", "block"}
"""What a mode leaves unread, so that one file serves for all of them."""


class DecodeConfig(Config):
    """What decodes, guided by what."""

    mode: Mode = "transfer-q"
    """``transfer-q`` (rollouts by the baseline), ``cd`` (by the base), ``args`` (none), ``best-of-n``. What a mode has no use
    for it leaves unread."""
    base: ModelSource
    """The model that is steered."""
    baseline: ModelSource | None = None
    """A model with the base's vocabulary that some training aligned: to ``reward``, or to ``baseline_reward``."""
    reward: TextReward
    """What the answer should be worth: ``{judge: ..., program: ...}``, or ``{model: ...}`` as in a recipe's reward_model."""
    baseline_reward: TextReward | None = None
    """What the baseline is aligned to, where that is another reward: transfer is then indirect."""
    alpha: float = Field(default=1.0, gt=0)
    """Reward that a nat of divergence from the base costs (paper: 1, for rewards some units apart; totals of a program
    lie in [-1, 1], so 0.05 to 0.2 for them)."""
    k: int = Field(default=10, ge=2, le=MOST)
    """Candidates at each decision: the likeliest tokens (paper)."""
    candidates: Literal["base", "baseline"] = "base"
    """Whose likeliest tokens, weighted by whose probabilities: pi_base of the closed form, or, as the published code has
    it, the baseline's."""
    rollout_tokens: int | None = Field(default=20, ge=1, le=MOST)
    """Longest rollout (published code: 20, indirect 5); null: to the end of the answer."""
    n_rollouts: int | None = Field(default=None, ge=1, le=MOST)
    """Rollouts of a candidate; null: 1 where they are greedy, else 4 (own; the published code has 1)."""
    rollout_temperature: float | None = Field(default=None, ge=0, le=100)
    """0: greedy, as in the published code; 1: unbiased. null: 0, or 1 for indirect transfer (own)."""
    block: int = Field(default=1, ge=1, le=MOST)
    """Tokens between two decisions (own: 1, as in the paper)."""
    weighting: Weighting = "snis"
    """Indirect: ``raw`` (published code), ``snis`` (own default) or ``shift``."""
    beta: float = Field(default=2.0, gt=0)
    """Indirect: temperature at which the baseline was aligned (published code: 1 / 0.5)."""
    max_log_weight: float = Field(default=10.0, gt=0)
    """Indirect: log-weights are clipped to this size (own)."""
    n: int = Field(default=16, ge=1, le=MOST)
    """Answers of best-of-n (own)."""
    temperature: float | None = Field(default=None, ge=0, le=100)
    """Of the choice: 0 takes the best candidate, 1 draws from the closed form. null: 0, or 1 for best-of-n (own)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Of drawn answers and blocks (own)."""
    max_tokens: int = Field(default=128, ge=1, le=MOST)
    """Longest answer (published code)."""
    seed: int = Field(default=42, ge=0)
    """Of all that is drawn (published code)."""
    batch_tokens: int = Field(default=32_768, ge=1)
    """Tokens whose keys and values are held at a time; more prompts fit beside one another with more of them."""
    store: NonEmpty | None = None
    """As ``decode:FILE.yaml``: a file that keeps what a judge behind a server answers. ``rubrica decode`` keeps it in OUT."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mode in ("transfer-q", "cd") and self.rollouts > 1 and self.rollouts_at == 0:
            raise ValueError(
                "n_rollouts: greedy rollouts are all equal; set rollout_temperature above 0, or one"
            )
        if self.mode != "transfer-q":
            return self
        if self.baseline is None:
            raise ValueError(
                "baseline is missing: mode transfer-q needs a model that writes the rollouts; mode cd takes the base"
            )
        if self.baseline_reward is not None and self.weighting == "snis" and self.rollouts == 1:
            raise ValueError(
                "n_rollouts: with one rollout self-normalised weights cancel; expected 2 or more, or another weighting"
            )
        if self.candidates == "baseline" and self.block > 1:
            raise ValueError("block: candidates of the baseline are single tokens; expected block 1")
        return self

    @property
    def rollouts_at(self) -> float:
        """Temperature of the rollouts."""
        indirect = self.mode == "transfer-q" and self.baseline_reward is not None
        return float(indirect) if self.rollout_temperature is None else self.rollout_temperature

    @property
    def rollouts(self) -> int:
        """Rollouts of a candidate."""
        return self.n_rollouts or (4 if self.rollouts_at else 1)

    @property
    def sampling(self) -> Sampling:
        """How ``rubrica decode`` has answers written."""
        usual = 1.0 if self.mode == "best-of-n" else 0.0
        return Sampling(
            temperature=usual if self.temperature is None else self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )


def decode_identity(config: Json) -> Json:
    """Return what of a config's plain values has to be the same for its answers to be its own."""
    assert isinstance(config, dict)
    mode: Mode = DecodeConfig.model_validate(config).mode
    kept = {key: value for key, value in config.items() if key not in _UNREAD[mode] | _OPERATIONAL}
    for name in ("reward", "baseline_reward"):
        source = kept.get(name)
        if isinstance(source, dict) and "judge" in source:
            kept[name] = source | {"judge": judge_identity(source["judge"])}
        elif source is not None:
            kept[name] = reward_model_identity(source)
    return kept


def decode_key(config: DecodeConfig) -> str:
    """Return a hash of all that answers depend on: the config, and what stands in its programs' files."""
    sources = [config.reward, config.baseline_reward if config.mode == "transfer-q" else None]
    programs: list[Json] = [
        program_hash(load_program(source.program)) for source in sources if isinstance(source, JudgeReward)
    ]
    return content_hash([decode_identity(config.model_dump(mode="json")), programs])


def read_decode(model: str) -> DecodeConfig | None:
    """Return the config that ``decode:FILE.yaml`` names, or None for the name of a model."""
    if not model.startswith(PREFIX):
        return None
    path = model.removeprefix(PREFIX)
    if not path.endswith((".yaml", ".yml")):
        raise UsageError(f"model {model!r}: expected decode:FILE.yaml, a file as for rubrica decode")
    return load_config(DecodeConfig, path)


def check_decode(config: DecodeConfig, surroundings: Surroundings) -> None:
    """Raise ``UsageError`` for what can be seen to be wrong; loads no weights."""
    check_text_reward(config.reward, "reward", surroundings)
    if config.mode == "transfer-q" and config.baseline_reward is not None:
        check_text_reward(config.baseline_reward, "baseline_reward", surroundings)


def open_decoder(
    config: DecodeConfig,
    surroundings: Surroundings,
    store: "Store",
    *,
    purse: Purse | None = None,
    name: str | None = None,
) -> "Decoder":
    """Load the models and open the rewards; verdicts that cost money are kept in ``store``.

    ``name`` stands for the decoder in what it writes; None: its mode and a hash of the config.
    """
    from rubrica.recipes.best_of_n import BestOfN
    from rubrica.recipes.guided import Guided

    check_decode(config, surroundings)
    said = name or f"{config.mode}-{decode_key(config)}"
    transfers = config.mode == "transfer-q"
    base = _open(config.base, surroundings)
    baseline = _open(config.baseline, surroundings) if transfers and config.baseline is not None else None
    reward = open_text_reward(config.reward, "reward", surroundings, store, purse)
    if config.mode == "best-of-n":
        return BestOfN(base, reward, config.n, said, batch_tokens=config.batch_tokens)
    other = None
    if transfers and config.baseline_reward is not None:
        other = open_text_reward(config.baseline_reward, "baseline_reward", surroundings, store, purse)
    return Guided(base, baseline, reward, other, guide_of(config), said)


def guide_of(config: DecodeConfig) -> "Guide":
    """Return how the config has candidates proposed, continued, valued and chosen."""
    from rubrica.recipes.guided import Guide

    transfers = config.mode == "transfer-q"
    indirect = None
    if transfers and config.baseline_reward is not None:
        indirect = Indirect(config.weighting, config.beta, config.max_log_weight)
    return Guide(
        roller="baseline" if transfers else "base" if config.mode == "cd" else "nobody",
        alpha=config.alpha,
        k=config.k,
        rollout_tokens=config.rollout_tokens,
        n_rollouts=config.rollouts,
        rollout_temperature=config.rollouts_at,
        block=config.block,
        from_baseline=transfers and config.candidates == "baseline",
        indirect=indirect,
        batch_tokens=config.batch_tokens,
    )


def _open(source: ModelSource, surroundings: Surroundings) -> "Policy":
    from rubrica.recipes.decoders import load_policy
    from rubrica.recipes.models import model_folder

    folder: Path = model_folder(source, surroundings)
    return load_policy(folder, source.dtype, source.chat_template, source.model)
