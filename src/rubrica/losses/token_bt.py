"""Token-level Bradley-Terry loss of a reward model (RFT: Li et al., NeurIPS 2024, arXiv 2405.17888, Algorithm 1).

    L = mean over pairs of  1/|U|  sum_{u in U}  -log sigmoid( r_u(y) - r_u(y~) )

y is the demonstration, y~ the policy's own answer, r_u the reward model's score at position u, and U the positions
from the first token in which the two differ to the end of the longer one (as in the paper's published code). What
the shorter one scores after its end is left open; ours: it keeps the score of its last token, so that padding is
never read and the last position compares the two scores that the model gives to the finished texts.

Shapes: P pairs, T tokens; sequences are prompt and answer, padded on the right to one T.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def compared_positions(
    chosen: Tensor, rejected: Tensor, chosen_length: Tensor, rejected_length: Tensor
) -> Tensor:
    """Return U as a mask (P, T) from token ids (P, T) and lengths (P,); empty where two texts are the same."""
    if chosen.shape != rejected.shape or chosen.ndim != 2:
        raise ValueError(
            f"token ids {tuple(chosen.shape)} and {tuple(rejected.shape)}; expected one shape P x T"
        )
    place = torch.arange(chosen.shape[1], device=chosen.device)
    shorter = torch.minimum(chosen_length, rejected_length)[:, None]
    longer = torch.maximum(chosen_length, rejected_length)[:, None]
    differs = ((chosen != rejected) | (place >= shorter)) & (place < longer)
    return (differs.cumsum(dim=1) > 0) & (place < longer)


def held(rewards: Tensor, length: Tensor) -> Tensor:
    """Return rewards (P, T) in which every position after a text's end has the score of its last token."""
    place = torch.arange(rewards.shape[1], device=rewards.device)
    return rewards.gather(1, torch.minimum(place, length[:, None] - 1))


def token_bradley_terry(chosen_rewards: Tensor, rejected_rewards: Tensor, positions: Tensor) -> Tensor:
    """Return the loss of each pair (P,) from rewards (P, T) and the mask U; 0 where U is empty."""
    each = -logsigmoid(chosen_rewards - rejected_rewards).masked_fill(~positions, 0.0)
    return each.sum(dim=1) / positions.sum(dim=1).clamp(min=1)
