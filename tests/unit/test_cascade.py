"""Attention in parts against softmax over all keys in double precision."""

import pytest
import torch

from rubrica.judges import cascade
from rubrica.judges.cascade import Scores, attention, join


def naive(query, key, value, form, allow=None):
    """One query head at a time, in double precision."""
    query, key, value = query.double(), key.double(), value.double()
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) * form.scale
    if form.cap is not None:
        scores = torch.tanh(scores / form.cap) * form.cap
    if allow is not None:
        scores = scores.masked_fill(~allow, float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0) @ value, scores.logsumexp(-1)


def draw(rows, heads, key_heads, count, keys, dtype, sharpness=1.0):
    torch.manual_seed(0)
    shapes = ((heads, count), (key_heads, keys), (key_heads, keys))
    query, key, value = (torch.randn(rows, h, n, 16).to(dtype) for h, n in shapes)
    return query * sharpness, key, value


def masks(rows, count, keys):
    torch.manual_seed(1)
    some = torch.rand(count, keys) < 0.3
    some[0] = False  # sees nothing
    return {"all": None, "one for all rows": some, "one a row": some.repeat(rows, 1, 1, 1).logical_not()}


@pytest.mark.parametrize("held", [1, 64, 2**20])
@pytest.mark.parametrize("mask", ["all", "one for all rows", "one a row"])
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize(("rows", "heads", "key_heads"), [(1, 6, 2), (3, 4, 4), (2, 3, 1)])
def test_output_and_log_sum_exp(rows, heads, key_heads, cap, mask, held, monkeypatch):
    monkeypatch.setattr(cascade, "_HELD", held)
    form = Scores(0.3, cap)
    for dtype, out_error, lse_error in ((torch.float32, 2e-6, 3e-6), (torch.bfloat16, 0.04, 0.02)):
        query, key, value = draw(rows, heads, key_heads, 7, 11, dtype)
        allow = masks(rows, 7, 11)[mask]
        expected, lse = naive(query, key, value, form, allow)
        found, found_lse = attention(query, key, value, form, allow=allow)
        assert (found.dtype, found_lse.dtype) == (dtype, torch.float32)
        assert torch.allclose(found.double(), expected, atol=out_error, rtol=0)
        assert torch.allclose(found_lse.double(), lse, atol=lse_error, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_order(dtype):
    query, key, value = draw(2, 6, 2, 9, 9, dtype)
    expected, lse = naive(query, key, value, Scores(0.25), torch.ones(9, 9, dtype=torch.bool).tril())
    error = 2e-6 if dtype is torch.float32 else 0.02
    for cap in (None, 1e6):  # by torch's flash attention, and by plain products
        found, found_lse = attention(query, key, value, Scores(0.25, cap), causal=True)
        assert torch.allclose(found.double(), expected, atol=error if cap is None else 10 * error, rtol=0)
        assert torch.allclose(found_lse.double(), lse, atol=error if cap is None else 10 * error, rtol=0)


def test_great_scores_are_not_rounded_in_half_precision():
    """Scores near 300 are multiples of 2 in bfloat16; what is rounded is their distance from the greatest."""
    query, key, value = draw(1, 2, 1, 50, 40, torch.bfloat16)
    key[..., 0], query[..., 0] = 20.0, 15.0
    expected, lse = naive(query, key, value, Scores(1.0))
    assert lse.min() > 280
    found, found_lse = attention(query, key, value, Scores(1.0))
    assert (found.double() - expected).abs().max() < 0.05
    assert (found_lse.double() - lse).abs().max() < 0.02


def test_parts_joined_are_the_whole():
    query, key, value = draw(2, 4, 2, 5, 30, torch.float32)
    form = Scores(0.5)
    whole, _ = attention(query, key, value, form)
    a = attention(query, key[:, :, :11], value[:, :, :11], form)
    b = attention(query, key[:, :, 11:], value[:, :, 11:], form)
    assert torch.allclose(join(*a, *b), whole, atol=1e-6)
    hidden = torch.zeros(5, 19, dtype=torch.bool)
    nothing = attention(query, key[:, :, 11:], value[:, :, 11:], form, allow=hidden)
    assert torch.equal(join(*a, *nothing), a[0])
