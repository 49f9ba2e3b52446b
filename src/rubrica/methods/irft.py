"""RFT and IRFT: reward learning from plain demonstrations (Li et al., NeurIPS 2024, arXiv 2405.17888).

Supervised fine-tuning is read as maximum-likelihood inverse reinforcement learning:

    max_theta  E_{(x,y)~D} log pi_theta(y|x)   with   pi_theta = argmax_pi E[ r(x,y;theta) ] - beta KL(pi || pi_ref)
    gradient   (1/beta) E_{y~D, y~ ~ pi_theta} [ grad r(x,y;theta) - grad r(x,y~;theta) ]

    RFT   (Algorithm 1)  r is a model of its own: in each of T rounds the policy answers a part of the prompts, r
                         learns to prefer the demonstrations, the policy is improved under r and the KL penalty
    IRFT  (Algorithm 2)  r = beta log(pi_theta / pi_ref):  in each of T stages pi_{theta_t}, frozen, answers a part of
                         the prompts, then K updates of
                         L = E h( beta [ log(pi_theta/pi_ref)(y|x) - log(pi_theta/pi_ref)(y~|x) ] )
                         with h(u) = -log sigmoid(u), or relu(1 - u), or -u, which is the gradient above as it stands
    SPIN  (arXiv 2401.01335) is IRFT with T = 1, the logistic h and the stage's start as pi_ref

The paper leaves open what becomes of an answer that equals its demonstration (ours: dropped and counted; its margin
is 0 whatever theta is) and gives no guard against the loss lowering the likelihood of the demonstrations along with
that of the answers, which it may do as long as the gap grows (ours: measured after each stage).
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from rubrica.core.config import Config
from rubrica.core.data import Text
from rubrica.core.errors import UsageError
from rubrica.core.records import Response


class Guard(Config):
    """What is done when the demonstrations become unlikely."""

    fall: float = Field(default=0.25, gt=0)
    """Nats per token that their log-probability may fall below the start's (own)."""
    then: Literal["warn", "stop"] = "warn"
    """``warn``: go on and say so; ``stop``: keep the weights from before that stage (own)."""
    examples: int = Field(default=64, ge=1)
    """Demonstrations that are measured (own)."""


class Pair(NamedTuple):
    """A demonstration and the policy's own answer to its prompt."""

    demonstration: Text
    answer: Response


class Paired(NamedTuple):
    """The pairs of one stage."""

    pairs: list[Pair]
    equal: int
    """Demonstrations whose answer says the same, left out."""


def parts(demonstrations: Sequence[Text], stages: int, seed: int) -> list[list[Text]]:
    """Return the part of each of T stages: every demonstration once, sizes that differ by one at most.

    ``UsageError`` when there are fewer demonstrations than stages.
    """
    if len(demonstrations) < stages:
        raise UsageError(
            f"demonstrations: {len(demonstrations)} for {stages} stages; expected one each at least, so lower stages"
        )
    order = random.Random(f"irft/{seed}").sample(list(demonstrations), len(demonstrations))
    return [
        order[stage * len(order) // stages : (stage + 1) * len(order) // stages] for stage in range(stages)
    ]


def monitored(demonstrations: Sequence[Text], guard: Guard, seed: int) -> list[Text]:
    """Return the demonstrations whose likelihood is watched, the same in every stage."""
    count = min(guard.examples, len(demonstrations))
    return random.Random(f"guard/{seed}").sample(list(demonstrations), count)


def pair_up(demonstrations: Sequence[Text], answers: Mapping[str, Response]) -> Paired:
    """Pair each demonstration with the answer under its id; those that say the same up to outer space are dropped.

    An answer that was cut off is no equal: it lacks the end.
    """
    pairs = [Pair(demonstration, answers[demonstration.id]) for demonstration in demonstrations]
    kept = [
        pair
        for pair in pairs
        if not (pair.answer.finished and pair.answer.text.strip() == pair.demonstration.text.strip())
    ]
    return Paired(kept, len(pairs) - len(kept))


def fallen(start: float, now: float, guard: Guard) -> str | None:
    """Return what to say when the demonstrations' log-probability per token fell too far, else None."""
    if start - now <= guard.fall:
        return None
    return (
        f"the demonstrations' log-probability fell from {start:.3f} to {now:.3f} nats per token; lower "
        "trainer.learning_rate, raise beta, or set sft to 0.1"
    )


def reward_scale(rewards: Sequence[float]) -> float:
    """Return the standard deviation of a round's rewards, by which RFT's policy step divides them; 1 if it is 0.

    The learned reward has no scale of its own. The paper's code divides by a running deviation.
    """
    mean = math.fsum(rewards) / len(rewards)
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    return deviation if deviation > 0 else 1.0
