"""The token-level Bradley-Terry loss against a reading of its definition token by token."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rubrica.losses.token_bt import compared_positions, held, token_bradley_terry

PAD = 0
texts = st.lists(st.integers(1, 3), min_size=1, max_size=6)


def naive(chosen: list[int], rejected: list[int], r: list[float], s: list[float]) -> float:
    """One pair, by the words of the definition."""
    longer, shorter = max(len(chosen), len(rejected)), min(len(chosen), len(rejected))
    first = next((u for u in range(longer) if u >= shorter or chosen[u] != rejected[u]), None)
    if first is None:
        return 0.0
    losses = []
    for u in range(first, longer):
        margin = r[min(u, len(chosen) - 1)] - s[min(u, len(rejected) - 1)]
        losses.append(math.log1p(math.exp(-margin)))
    return sum(losses) / len(losses)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.integers(0, 1000))
def test_it_is_its_definition(pairs: list[tuple[list[int], list[int]]], seed: int) -> None:
    width = 7
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(2, len(pairs), width, generator=generator, dtype=torch.float64)
    ids = torch.tensor(
        [[one + [PAD] * (width - len(one)) for one in side] for side in zip(*pairs, strict=True)]
    )
    lengths = torch.tensor([[len(one) for one in side] for side in zip(*pairs, strict=True)])
    positions = compared_positions(ids[0], ids[1], lengths[0], lengths[1])
    losses = token_bradley_terry(held(rewards[0], lengths[0]), held(rewards[1], lengths[1]), positions)
    expected = [naive(c, r, rewards[0, i].tolist(), rewards[1, i].tolist()) for i, (c, r) in enumerate(pairs)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_padding_and_the_shared_start_have_no_gradient() -> None:
    # 5 6 | 7 8 9  against  5 6 | 1: the pair is compared at places 2, 3, 4; the second keeps its score of place 2
    ids = torch.tensor([[[5, 6, 7, 8, 9, 0]], [[5, 6, 1, 0, 0, 0]]])
    lengths = torch.tensor([[5], [3]])
    rewards = torch.zeros(2, 1, 6, requires_grad=True)
    positions = compared_positions(ids[0], ids[1], lengths[0], lengths[1])
    loss = token_bradley_terry(held(rewards[0], lengths[0]), held(rewards[1], lengths[1]), positions)
    assert loss.item() == pytest.approx(math.log(2))
    loss.sum().backward()
    # each of the three places has slope sigmoid(0) / 3 = 1/6; the shorter text carries all of it at its last token
    assert rewards.grad is not None
    assert rewards.grad[0, 0].tolist() == pytest.approx([0, 0, -1 / 6, -1 / 6, -1 / 6, 0])
    assert rewards.grad[1, 0].tolist() == pytest.approx([0, 0, 1 / 2, 0, 0, 0])


def test_the_gradient_is_the_slope() -> None:
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(1, 3, (2, 3, 5), generator=generator)
    lengths = torch.tensor([[5, 2, 4], [3, 5, 4]])
    positions = compared_positions(ids[0], ids[1], lengths[0], lengths[1])

    def loss(values: torch.Tensor) -> torch.Tensor:
        return token_bradley_terry(held(values[0], lengths[0]), held(values[1], lengths[1]), positions)

    assert torch.autograd.gradcheck(loss, (rewards,))


def test_sequences_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        compared_positions(torch.ones(1, 2), torch.ones(1, 3), torch.tensor([2]), torch.tensor([3]))
