"""What reward-guided decoding leaves: the answer, what every decision was made from, and what it cost."""

from pydantic import Field, FiniteFloat

from rubrica.core.base import Record
from rubrica.core.prompts import Prompt
from rubrica.core.records import Estimate, Response


class Candidate(Record):
    """One possible continuation at a decision."""

    text: str
    """What it would add to the answer; empty where that is the end of it."""
    logprob: FiniteFloat
    """Log-probability of its first token under the model that proposed it."""
    value: FiniteFloat | None
    """Estimate of Q; None: none of its rollouts could be scored."""
    probability: float = Field(ge=0, le=1)
    """With which it was chosen."""


class Decision(Record):
    """One choice between candidates."""

    at: int = Field(ge=0)
    """Tokens of the answer that stood before it."""
    candidates: tuple[Candidate, ...]
    chosen: int


class Spent(Record):
    """What a text, or a run, cost."""

    new_tokens: int = 0
    """Tokens of answers."""
    prompt_tokens: int = 0
    """Tokens of prompts, once for each model that read them; part of ``computed``."""
    computed: int = 0
    """Tokens that went through a model."""
    least: int = 0
    """Distinct prefixes among these: what no implementation of the same algorithm can go below."""
    texts: int = 0
    """Texts that were put to the reward, equal ones once."""
    missing: int = 0
    """Texts among these that have none."""


class Decoded(Record):
    """One decoded answer."""

    prompt: Prompt
    response: Response
    reward: FiniteFloat | None
    """Of the answer; None: it could not be scored."""
    kl: FiniteFloat
    """KL to the base along the answer, in nats; an upper bound for blocks and best-of-n."""
    decisions: int = 0
    blind: int = 0
    """Decisions without any value, which the proposing model took alone."""
    trace: tuple[Decision, ...] = ()
    """The decisions, where a trace was asked for."""
    spent: Spent = Spent()


class DecodeReport(Record):
    """What ``rubrica decode`` did."""

    mode: str
    answers: int
    reward: Estimate | None
    """Mean reward; None where no answer has one."""
    without_reward: int
    kl: Estimate
    """Mean KL to the base by answer."""
    kl_bound: bool
    """Whether it is an upper bound."""
    tokens: Estimate
    """Mean length of an answer in tokens."""
    unfinished: int
    """Answers that ran into ``max_tokens``."""
    decisions: int
    blind: int
    spent: Spent
    seconds: float
    """Of this session's answers alone."""
    session_tokens: int
    """Tokens of this session's answers."""
    tokens_per_second: FiniteFloat | None
    """Of this session; None where it decoded nothing."""
