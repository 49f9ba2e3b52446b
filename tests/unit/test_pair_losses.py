"""Losses on pairs against closed forms and finite differences, and which pairs DPO trains on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Response, Sampling
from rubrica.losses.pairs import length_margin, linked, ratio_margin
from rubrica.methods.dpo import CUT_OFF, EMPTY, EQUAL, NO_SCORE, NOT_BETTER, answered_pairs, offset, with_gaps
from rubrica.train.pairs import relative_weights

real = st.floats(-20, 20)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@given(real, real, real, real, st.floats(0.01, 5))
def test_the_ratio_margin_is_the_difference_of_implicit_rewards(a, b, c, d, beta):
    margin = ratio_margin(*map(scalar, (a, b, c, d)), beta)
    assert float(margin) == pytest.approx(beta * (a - c) - beta * (b - d), abs=1e-9)


@given(real, real, st.integers(1, 50), st.integers(1, 50), st.floats(0.01, 5))
def test_the_length_margin_is_the_difference_of_means(a, b, n, m, beta):
    margin = length_margin(scalar(a), scalar(b), torch.tensor([n]), torch.tensor([m]), beta)
    assert float(margin) == pytest.approx(beta * a / n - beta * b / m, abs=1e-9)


@given(real)
def test_links_are_their_formulas_and_their_slopes_agree_with_differences(u):
    for link, formula in (
        ("sigmoid", lambda x: math.log1p(math.exp(-x))),
        ("hinge", lambda x: max(0.0, 1 - x)),
        ("literal", lambda x: -x),
    ):
        assert float(linked(scalar(u), link)) == pytest.approx(formula(u), abs=1e-9)
        if link == "hinge" and abs(u - 1) < 1e-3:
            continue  # the corner has no slope
        x = scalar(u).requires_grad_()
        linked(x, link).sum().backward()
        h = 1e-5
        assert float(x.grad) == pytest.approx((formula(u + h) - formula(u - h)) / (2 * h), abs=1e-5)


def test_a_policy_that_is_its_reference_loses_log_2_whatever_the_pair():
    logs = scalar(-7.0), scalar(-3.0)
    assert float(linked(ratio_margin(*logs, *logs, 0.1), "sigmoid")) == pytest.approx(math.log(2))


def test_relative_weights_have_mean_one_in_each_update_and_power_zero_makes_them_equal():
    weights = [1.0, 2.0, 3.0, 6.0, 0.0, 0.0]
    assert relative_weights(weights, 2, None) == weights
    assert relative_weights(weights, 2, 1.0) == pytest.approx([2 / 3, 4 / 3, 2 / 3, 4 / 3, 1.0, 1.0])
    assert relative_weights(weights, 2, 2.0)[:2] == pytest.approx([4 / 9, 16 / 9])
    assert relative_weights(weights, 4, 0.0) == [1.0] * 6


def response(prompt: str, text: str, finished: bool = True) -> Response:
    return Response(
        id=f"{prompt}-{text}",
        prompt_id=prompt,
        text=text,
        model="m",
        sampling=Sampling(),
        tokens=3,
        finished=finished,
    )


def test_pairs_that_tell_nothing_are_named():
    prompts = [Prompt(id=i, messages=(Message(role="user", content=i),)) for i in "abcd"]
    better = [response("a", "yes"), response("b", "same "), response("c", " "), response("d", "cut", False)]
    worse = [response("a", "no"), response("b", "same"), response("c", "x"), response("d", "y")]
    pairs, dropped = answered_pairs(prompts, better, worse)
    assert [(p.id, p.chosen, p.rejected, p.source) for p in pairs] == [("a", "yes", "no", "m over m")]
    assert dropped == [EQUAL, EMPTY, CUT_OFF]


def test_gaps_are_positive_differences_of_totals():
    prompt = Prompt(id="a", messages=(Message(role="user", content="a"),))
    (pair,), _ = answered_pairs([prompt], [response("a", "yes")], [response("a", "no")])
    kept, dropped = with_gaps([pair] * 4, [(0.5, -0.25), (None, 0.0), (0.1, 0.1), (-1.0, 0.0)])
    assert [k.gap for k in kept] == [0.75]
    assert dropped == [NO_SCORE, NOT_BETTER, NOT_BETTER]


def test_the_offset_grows_with_the_gap_and_is_the_gap_or_its_logarithm():
    assert offset(0.75, 2.0, "linear") == 1.5
    assert offset(math.e, 0.5, "log") == pytest.approx(0.5)
    assert offset(0.5, 1.0, "log") < offset(0.6, 1.0, "log") < 0
