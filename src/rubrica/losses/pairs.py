"""Losses on pairs of answers, one preferred: a margin, a target for it, and a link from both to a number.

    loss_i = w_i h(m_i - gamma - delta_i)

    margin m   ratio   beta [log pi(y+)/ref(y+) - log pi(y-)/ref(y-)]          DPO, Rafailov et al. 2023, Eq. 7
               length  beta [log pi(y+) / |y+| - log pi(y-) / |y-|]             SimPO, Meng et al. 2024, Eq. 4
    target     gamma   the same for all pairs                                   SimPO, Eq. 5
               delta   of one pair, larger the better its chosen answer is      ODPO, Amini et al. 2024, Eq. 8
    link h     sigmoid -log sigma(u), hinge max(0, 1 - u), literal -u           IRFT, Li et al. 2024, section 4

Log-probabilities are sums over the tokens of an answer, shape (pairs,).
"""

from typing import Literal

import torch
from torch import Tensor

Link = Literal["sigmoid", "hinge", "literal"]


def ratio_margin(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Return the difference of implicit rewards ``beta log pi/ref``."""
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def length_margin(
    chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float
) -> Tensor:
    """Return the difference of mean log-probabilities a token, times ``beta``."""
    return beta * (chosen / chosen_tokens - rejected / rejected_tokens)


def linked(margin: Tensor, link: Link) -> Tensor:
    """Return ``h(margin)`` for each pair."""
    match link:
        case "sigmoid":
            return -torch.nn.functional.logsigmoid(margin)
        case "hinge":
            return torch.relu(1 - margin)
        case "literal":
            return -margin
