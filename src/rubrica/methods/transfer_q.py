"""Transfer Q*: principled decoding for alignment (Chakraborty et al. 2024, arXiv 2405.20495).

    pi(z|s) ~ pi_base(z|s) exp(Q(s,z) / alpha)            maximises E Q - alpha KL(pi || pi_base)

    direct     Q(s,z) = E_{tau ~ rho_BL(.|s,z)} [ r(s z tau) ]                         rho_BL is aligned to r
    indirect   Q(s,z) = E_{tau ~ rho_BL(.|s,z)} [ w r ],   w ~ exp((r - r_BL) / beta)    rho_BL is aligned to r_BL

rho_BL is a model that some training aligned at the level of answers (a DPO model). Rollouts by the base itself give
controlled decoding (Mudgal et al. 2023, arXiv 2310.17022), rollouts of no length ARGS (Khanov et al. 2024, arXiv
2402.01694). With rho_BL ~ rho_base exp(r_BL / beta), w turns it into the model aligned to r with the same beta.

The paper leaves open how w is normalised; C_BL / C_r, the constant in front of it, is unknown:

    raw      mean of w r, the constant dropped, as in the published code. With r < 0 a larger advantage makes the value
             smaller, so it can prefer the worse candidate.
    snis     sum of w r / sum of w over the candidate's own rollouts (self-normalised): the constant cancels. One rollout
             alone cancels the weight as well.
    shift    raw with r - min r, the minimum over all rollouts of the decision: no reward is negative.

A rollout without a reward counts for nothing. A candidate without any has no value and is not chosen; where no candidate
has one, the base decides.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weighting = Literal["raw", "snis", "shift"]


class Rollout(NamedTuple):
    """What one rollout of a candidate is worth."""

    reward: float | None
    """None: it could not be scored."""
    baseline_reward: float | None = None
    """Under the reward that the rollouts' model is aligned to; unread in direct transfer."""


class Indirect(NamedTuple):
    """How rollouts of a model that is aligned to another reward are weighted."""

    weighting: Weighting
    beta: float
    """Temperature of that model's alignment."""
    max_log_weight: float
    """Log-weights are clipped to [-this, this]."""


def values(candidates: Sequence[Sequence[Rollout]], indirect: Indirect | None = None) -> list[float | None]:
    """Return the value of each candidate from its rollouts; without ``indirect`` their mean reward."""
    if indirect is None:
        found = [[r.reward for r in rollouts if r.reward is not None] for rollouts in candidates]
        return [float(np.mean(rewards)) if rewards else None for rewards in found]
    known = [[(r.reward, r.baseline_reward) for r in rollouts if None not in r] for rollouts in candidates]
    pairs = [np.array(each, dtype=np.float64).reshape(-1, 2) for each in known]
    lowest = min((float(pair[:, 0].min()) for pair in pairs if len(pair)), default=0.0)
    return [_weighted(pair, indirect, lowest) if len(pair) else None for pair in pairs]


def _weighted(pairs: Floats, indirect: Indirect, lowest: float) -> float:
    """Value of a candidate from ``pairs`` [rollouts, 2] of both rewards."""
    reward = pairs[:, 0]
    weights = np.exp(log_weights(reward, pairs[:, 1], indirect.beta, indirect.max_log_weight))
    if indirect.weighting == "snis":
        return float(weights @ reward / weights.sum())
    return float(np.mean(weights * (reward - lowest if indirect.weighting == "shift" else reward)))


def log_weights(reward: Floats, baseline_reward: Floats, beta: float, limit: float) -> Floats:
    """Return (r - r_BL) / beta, clipped to [-limit, limit]."""
    return np.clip((reward - baseline_reward) / beta, -limit, limit)


def policy(
    logprobs: Sequence[float], values: Sequence[float | None], alpha: float, temperature: float = 1.0
) -> Floats:
    """Return pi over the candidates: softmax of (log pi_base + Q / alpha) / temperature, 0 where there is no value.

    Temperature 0 puts all on the largest, the earliest of equal ones. Without any value it is the base's own.
    """
    blind = all(value is None for value in values)
    scores = np.array(
        [
            logprob if blind else -np.inf if value is None else logprob + value / alpha
            for logprob, value in zip(logprobs, values, strict=True)
        ]
    )
    if temperature == 0:
        return np.array(np.arange(len(scores)) == scores.argmax(), dtype=np.float64)
    shares: Floats = np.exp((scores - scores.max()) / temperature)
    return np.array(shares / shares.sum())


def divergence(shares: Floats, logprobs: Sequence[float]) -> float:
    """Return KL(pi || pi_base) of one decision: ``logprobs`` are the base's, over its whole vocabulary."""
    at = shares > 0
    return float(shares[at] @ (np.log(shares[at]) - np.array(logprobs)[at]))
