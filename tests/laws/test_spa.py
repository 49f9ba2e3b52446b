"""SPA's loss (Eq. 3) on the shared losses: identities, finite differences, and what a tabular policy learns."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rubrica.losses.pairs import length_margin, linked
from rubrica.methods.spa import Pairing, Scores, pairs
from rubrica.recipes.spa import pair_loss
from rubrica.recipes.stages.spa import Spa
from rubrica.train.pairs import relative_weights

gaps = st.lists(st.floats(0.01, 18), min_size=1, max_size=8)


@given(gaps)
def test_weights_of_an_update_have_mean_one_at_alpha_one(found: list[float]) -> None:
    weights = relative_weights(found, len(found), 1.0)
    assert sum(weights) / len(weights) == pytest.approx(1)


@given(gaps)
def test_alpha_to_zero_is_simpo_exactly(found: list[float]) -> None:
    assert relative_weights(found, len(found), 0.0) == [1.0] * len(found)
    near = relative_weights(found, len(found), 1e-9)
    assert near == pytest.approx([1.0] * len(found), abs=1e-7)


@given(st.floats(0.01, 18), st.floats(0.1, 4), st.integers(1, 6))
def test_equal_gaps_are_simpo_at_every_alpha(gap: float, alpha: float, count: int) -> None:
    assert relative_weights([gap] * count, count, alpha) == pytest.approx([1.0] * count)


def test_weights_by_hand() -> None:
    """Gaps 1, 2, 6 have mean 3: at alpha 2 the weights are 1/9, 4/9, 4. The next update has its own mean."""
    assert relative_weights([1.0, 2.0, 6.0, 5.0], 3, 2.0) == pytest.approx([1 / 9, 4 / 9, 4, 1])


def test_a_pair_without_total_gap_has_no_weight_beside_others() -> None:
    """(9, 2) over (8, 3) beside a gap of 4: weights 0 and 2; alone in its update it counts once."""
    assert relative_weights([0.0, 4.0], 2, 1.0) == [0.0, 2.0]
    assert relative_weights([0.0], 1, 1.0) == [1.0]


def test_what_each_loss_of_the_stage_is() -> None:
    spa, simpo, dpo = (pair_loss(Spa(loss=loss)) for loss in ("spa", "simpo", "dpo"))
    assert (spa.margin, spa.beta, spa.gamma, spa.weight_power) == ("length", 2.5, 1.375, 1.0)
    assert spa.model_copy(update={"weight_power": None}) == simpo
    assert (dpo.margin, dpo.beta, dpo.gamma, dpo.weight_power) == ("ratio", 0.1, 0.0, None)
    assert pair_loss(Spa(loss="dpo", beta=0.3)).beta == 0.3


# --- a model of three tokens ------------------------------------------------------------------------

CHOSEN, REJECTED = (0, 1, 1), (2, 0)


def log_prob(logits: Tensor, answer: tuple[int, ...]) -> Tensor:
    """Log-probability of an answer whose tokens are drawn one by one from the same three."""
    return torch.log_softmax(logits, 0)[list(answer)].sum()


def spa_loss(logits: Tensor, weight: float) -> Tensor:
    lengths = torch.tensor([float(len(CHOSEN))]), torch.tensor([float(len(REJECTED))])
    both = log_prob(logits, CHOSEN)[None], log_prob(logits, REJECTED)[None]
    return (weight * linked(length_margin(*both, *lengths, beta=2.5) - 1.375, "sigmoid")).mean()


def test_the_loss_is_equation_3() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    total = sum(math.exp(x) for x in (0.3, -0.2, 0.9))
    chosen = (0.3 - 0.2 - 0.2 - 3 * math.log(total)) / 3
    rejected = (0.9 + 0.3 - 2 * math.log(total)) / 2
    u = 2.5 * (chosen - rejected) - 1.375
    assert float(spa_loss(logits, 1.7)) == pytest.approx(1.7 * math.log1p(math.exp(-u)), rel=1e-6)


def test_its_gradient_is_that_of_finite_differences() -> None:
    start = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    logits = start.clone().requires_grad_()
    spa_loss(logits, 1.7).backward()
    assert logits.grad is not None
    for k, step in enumerate(torch.eye(3, dtype=torch.float64) * 1e-4):
        slope = float(spa_loss(start + step, 1.7) - spa_loss(start - step, 1.7)) / 2e-4
        assert float(logits.grad[k]) == pytest.approx(slope, abs=1e-6)


# --- a tabular policy -------------------------------------------------------------------------------


def test_a_tabular_policy_learns_the_lexicographic_order() -> None:
    """One logit for each canned answer: more likely means higher in harmlessness, ties by helpfulness."""
    scores: list[Scores] = [(9.0, 2.0), (3.0, 9.0), (9.0, 6.0), (6.0, 1.0), (6.0, 4.0), (1.0, 10.0)]
    found = pairs(scores, Pairing(gap="l1"))
    assert len(found) == math.comb(len(scores), 2)
    weights = torch.tensor(relative_weights([pair.gap for pair in found], len(found), 1.0))
    better, worse = torch.tensor([p.chosen for p in found]), torch.tensor([p.rejected for p in found])
    logits = torch.zeros(len(scores), requires_grad=True)
    one = torch.ones(len(found))
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        log_probs = torch.log_softmax(logits, 0)
        margin = length_margin(log_probs[better], log_probs[worse], one, one, beta=2.5)
        optimizer.zero_grad()
        (weights * linked(margin - 1.375, "sigmoid")).mean().backward()
        optimizer.step()
    learned = torch.argsort(logits.detach(), descending=True).tolist()
    assert learned == sorted(range(len(scores)), key=lambda i: scores[i], reverse=True)
    values = logits.detach()[learned].tolist()
    assert all(a > b for a, b in itertools.pairwise(values))
