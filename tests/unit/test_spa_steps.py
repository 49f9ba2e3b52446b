"""SPA's pure steps against closed forms, enumeration and naive references."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rubrica.methods.spa import (
    INCONSISTENT,
    NO_INFORMATION,
    NO_REFINEMENT,
    NO_SCORES,
    TOO_WIDE,
    Denoising,
    Objective,
    Pair,
    Pairing,
    Pool,
    RvPoint,
    Scores,
    choose_tau,
    determinant,
    examine,
    gap,
    hh,
    is_consistent,
    pairs,
    percentile_tau,
    rank,
    refinement_request,
    rv_coefficient,
    rv_curve,
)

SPREAD: tuple[Scores, ...] = ((1.0, 1.0), (2.0, 3.0), (3.0, 2.0))
"""Variances 2/3 and 2/3, covariance ((-1)(-1) + 0 + 0) / 3 = 1/3: det 4/9 - 1/9 = 1/3."""
SCORE = st.integers(1, 10).map(float)
POINTS = st.lists(st.tuples(SCORE, SCORE), min_size=3, max_size=8)


# --- informativeness ---


def test_determinant_is_that_of_the_population_covariance() -> None:
    assert determinant(SPREAD) == pytest.approx(1 / 3)


@given(POINTS)
def test_determinant_by_the_textbook(points: list[Scores]) -> None:
    n = len(points)
    a, b = ([p[k] for p in points] for k in (0, 1))
    mean_a, mean_b = sum(a) / n, sum(b) / n
    variances = sum((x - mean_a) ** 2 for x in a) / n * sum((y - mean_b) ** 2 for y in b) / n
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / n
    assert determinant(points) == pytest.approx(variances - covariance**2, abs=1e-9)


@given(st.lists(st.tuples(st.floats(1, 10), st.floats(1, 10)), max_size=2))
def test_two_samples_never_hold_information(points: list[Scores]) -> None:
    assert determinant(points) == 0


@pytest.mark.parametrize(
    "samples",
    [
        ((0.1, 1.0), (0.1, 2.0), (0.1, 5.0)),  # the first objective does not vary
        ((1.1, 2.2), (3.3, 6.6), (4.7, 9.4)),  # the second is twice the first
        ((1.0, 9.0), (2.0, 8.0), (7.0, 3.0), (5.0, 5.0)),  # their sum is always 10
        ((1.0, 2.0, 3.0), (4.0, 1.0, 2.0), (5.0, 5.0, 1.0)),  # three samples, three objectives
    ],
)
def test_no_information_is_exactly_zero(samples: tuple[Scores, ...]) -> None:
    assert determinant(samples) == 0


def test_percentile_counts_prompts_with_information_alone() -> None:
    dets = [0.0, 0.0, 4.0, 1.0, 3.0, 2.0]
    assert [percentile_tau(dets, share) for share in (1, 25, 26, 50, 100)] == [1, 1, 2, 2, 4]
    assert percentile_tau([0.0, 0.0], 32) == 0
    assert percentile_tau([*dets, 1e-9, 1e-8], 25, 0.01) == 1


# --- consistency and both tests ---


@pytest.mark.parametrize(
    ("refined", "strict", "pareto"),
    [
        ((4.0, 4.0), True, True),
        ((4.0, 3.0), False, True),  # ties with the best sample in the second
        ((3.0, 3.0), False, False),  # ties in both
        ((9.0, 2.5), False, False),  # below the best sample of the second
        ((2.0, 9.0), False, False),
    ],
)
def test_refined_answer_must_beat_the_best_of_each_objective(
    refined: Scores, strict: bool, pareto: bool
) -> None:
    pool = Pool(SPREAD, refined)
    assert is_consistent(pool) is strict
    assert is_consistent(pool, "pareto") is pareto


def test_readings_a_and_b() -> None:
    pools = [Pool(SPREAD, (4.0, 4.0)), Pool(SPREAD, (4.0, 3.0)), Pool(SPREAD, None)]
    a = examine(pools, Denoising(), 1.0)
    b = examine(pools, Denoising(consistency="drop-refined"), 1.0)
    off = examine(pools, Denoising(consistency="off"), 1.0)
    without = examine(pools, Denoising(), 1.0, refining=False)
    assert [e.dropped for e in a] == [None, INCONSISTENT, NO_REFINEMENT]
    assert [(e.dropped, e.refined) for e in b] == [(None, True), (None, False), (None, False)]
    assert [(e.dropped, e.refined) for e in off] == [(None, True), (None, True), (None, False)]
    assert [e.dropped for e in without] == [None, None, None]


def test_tau_is_kept_and_more_is_dropped() -> None:
    third = determinant(SPREAD)
    flat = Pool(((1.0, 1.0), (2.0, 2.0), (3.0, 3.0)), (4.0, 4.0))
    pools = [Pool(SPREAD, (4.0, 4.0)), flat]
    assert [e.dropped for e in examine(pools, Denoising(), third)] == [None, NO_INFORMATION]
    assert [e.dropped for e in examine(pools, Denoising(), third - 1e-9)] == [TOO_WIDE, NO_INFORMATION]
    assert [e.dropped for e in examine(pools, Denoising(informativeness=False), 0.0)] == [None, None]


def test_expected_scores_that_hardly_differ_hold_no_information() -> None:
    alike = Pool(((7.01, 3.0), (7.0, 3.02), (7.02, 3.01)), (8.0, 4.0))
    whole = Pool(((7.0, 3.0),) * 4 + ((8.0, 3.0), (7.0, 4.0)), (9.0, 9.0))
    # one point each of six: variances 5/36, covariance -1/36, det 24/1296 = 0.0185
    assert determinant(whole.samples) == pytest.approx(24 / 1296)
    assert [e.dropped for e in examine([alike, whole], Denoising(), 1.0)] == [NO_INFORMATION, None]
    assert [e.dropped for e in examine([alike, whole], Denoising(floor=0.0), 1.0)] == [None, None]


def test_one_answer_is_no_pool() -> None:
    rules = Denoising(consistency="off", informativeness=False)
    pools = [Pool(((1.0, 1.0),), None), Pool((), None), Pool(((1.0, 1.0),), (2.0, 2.0))]
    assert [e.dropped for e in examine(pools, rules, 0.0)] == [NO_SCORES, NO_SCORES, None]


def test_tau_below_zero_is_refused() -> None:
    with pytest.raises(ValidationError):
        Denoising(tau=0.0)


# --- RV ---


def naive_rv(weak: list[Scores], strong: list[Scores]) -> float:
    x, y = (np.array(t) - np.mean(t, axis=0) for t in (weak, strong))
    a, b = x @ x.T, y @ y.T
    return float(np.trace(a @ b) / math.sqrt(np.trace(a @ a) * np.trace(b @ b)))


@given(st.lists(st.tuples(SCORE, SCORE, SCORE, SCORE), min_size=3, max_size=12))
def test_rv_is_the_definition(rows: list[tuple[float, float, float, float]]) -> None:
    weak, strong = [row[:2] for row in rows], [row[2:] for row in rows]
    found = rv_coefficient(weak, strong)
    if len(set(weak)) == 1 or len(set(strong)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(naive_rv(weak, strong))
        assert -1e-9 <= found <= 1 + 1e-9


def test_rv_knows_neither_rotation_nor_scale() -> None:
    turned = [(3 * (a + b), 3 * (a - b)) for a, b in SPREAD]
    assert rv_coefficient(SPREAD, turned) == pytest.approx(1)
    assert (
        rv_coefficient([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)], [(1.0,), (-1.0,), (1.0,), (-1.0,)])
        == 0
    )


def test_tau_lies_where_the_scorers_part() -> None:
    """40 prompts by det: on the first 16 the strong scorer agrees, on the others it is unrelated."""
    rng = np.random.default_rng(0)
    weak: list[list[Scores]] = []
    strong: list[list[Scores]] = []
    for j in range(40):
        scores = rng.normal(size=(6, 2)) * (1 + 0.5 * j)
        other = scores if j < 16 else rng.normal(size=(6, 2)) * (1 + 0.5 * j)
        weak.append([(a, b) for a, b in scores.tolist()])
        strong.append([(a, b) for a, b in other.tolist()])
    curve = rv_curve(weak, strong)
    kept = sum(determinant(samples) <= choose_tau(curve) for samples in weak)
    agreeing = sum(point.rv > 0.999 for point in curve)
    assert 0 < agreeing < 40
    # the knee is not before the first disagreement, and not long behind it
    assert agreeing <= kept <= agreeing + 3


def test_without_a_fall_every_prompt_is_kept() -> None:
    rising = [RvPoint(1, 0.1, 0.5), RvPoint(2, 0.2, 0.4), RvPoint(3, 0.3, 0.6)]
    assert choose_tau(rising) == 0.3
    assert choose_tau(rising[:1]) == 0.1
    assert choose_tau([]) == 0
    step = [RvPoint(n, n / 10, 1.0 if n <= 3 else 0.4) for n in range(1, 11)]
    assert choose_tau(step) == 0.3


# --- pairs ---


@given(st.tuples(SCORE, SCORE, SCORE), st.tuples(SCORE, SCORE, SCORE))
def test_order_is_lexicographic(one: Scores, other: Scores) -> None:
    first = next((k for k in range(3) if one[k] != other[k]), None)
    over = first is not None and one[first] > other[first]
    assert (Pair(0, 1, gap(one, other, "total")) in pairs([one, other], Pairing(delta=0))) is over


def test_every_pair_by_enumeration() -> None:
    scores = [(9.0, 2.0), (8.0, 3.0), (9.0, 5.0), (9.0, 2.0)]
    found = {(pair.chosen, pair.rejected) for pair in pairs(scores, Pairing(delta=1))}
    assert found == {(0, 1), (2, 0), (2, 1), (2, 3), (3, 1)}  # 0 and 3 tie


def test_gap_of_total_and_of_distances_differ() -> None:
    """(9, 2) over (8, 3): the sums are equal, so the pair weighs nothing; the distances sum to 2."""
    assert pairs([(9.0, 2.0), (8.0, 3.0)], Pairing(delta=2)) == [Pair(0, 1, 0.0)]
    assert pairs([(9.0, 2.0), (8.0, 3.0)], Pairing(delta=2, gap="l1")) == [Pair(0, 1, 2.0)]
    assert pairs([(9.0, 2.0), (8.0, 3.0)], Pairing(delta=2.1)) == []


def test_the_gap_is_absolute() -> None:
    """(9, 2) over (8, 9): preferred, though its sum is lower by 6."""
    assert pairs([(9.0, 2.0), (8.0, 9.0)], Pairing()) == [Pair(0, 1, 6.0)]


def test_expected_scores_are_compared_in_steps() -> None:
    scores = [(8.02, 2.0), (7.98, 9.0)]
    assert [p.chosen for p in pairs(scores, Pairing(resolution=0))] == [0]
    assert [p.chosen for p in pairs(scores, Pairing())] == [1]
    assert rank((1.5, 2.4999), 1.0) == (2.0, 2.0)
    assert rank((0.25, 0.74), 0.5) == (1.0, 1.0)


def test_threshold_holds_for_the_preferred_answer_alone() -> None:
    scores = [(4.0, 9.0), (6.0, 1.0), (2.0, 2.0)]
    found = {(pair.chosen, pair.rejected) for pair in pairs(scores, Pairing(threshold=5.0))}
    assert found == {(1, 0), (1, 2)}


def test_widest_gaps_come_first_where_pairs_are_limited() -> None:
    scores = [(1.0, 1.0), (5.0, 1.0), (9.0, 1.0)]
    assert pairs(scores, Pairing(per_prompt=2)) == [Pair(2, 0, 8.0), Pair(1, 0, 4.0)]


@given(st.permutations(range(5)))
def test_pairs_do_not_depend_on_the_order_of_answers(order: list[int]) -> None:
    scores = [(9.0, 2.0), (8.0, 3.0), (9.0, 5.0), (1.0, 1.0), (8.0, 8.0)]
    plain = {(scores[p.chosen], scores[p.rejected], p.gap) for p in pairs(scores, Pairing())}
    shuffled = [scores[i] for i in order]
    assert {(shuffled[p.chosen], shuffled[p.rejected], p.gap) for p in pairs(shuffled, Pairing())} == plain


# --- summary and request ---


def test_hh_of_the_paper() -> None:
    """SPA on SafeRLHF, 9.90 and 7.14: 9.44, 9.65 and 9.77 for lambda 5, 10 and 20."""
    assert [round(hh((9.90, 7.14), weight), 2) for weight in (5, 10, 20)] == [9.44, 9.65, 9.77]


def test_hh_of_three_objectives() -> None:
    assert hh((4.0, 2.0, 1.0), 2) == pytest.approx((4 * 4 + 2 * 2 + 1) / 7)
    assert all(hh(scores, 3) == 5 for scores in itertools.repeat((5.0,) * 3, 1))


def test_request_holds_every_answer_between_marks_and_fills_no_placeholder_of_theirs() -> None:
    request = refinement_request(
        "> How do I {answers}?",
        [("> {marker} one", (9.0, 2.5)), ("> two", (1.0, 1.0))],
        [Objective("Safety", ["No harm."]), Objective("Help", ["On topic.", "Complete."])],
        "abc123",
    )
    assert "1. Safety\n   - No harm.\n2. Help\n   - On topic.\n   - Complete." in request
    assert (
        "ANSWER 1 (scores: Safety 9.0, Help 2.5)\n[abc123 ANSWER 1 BEGINS]\n> {marker} one\n[abc123 ANSWER 1 ENDS]"
        in request
    )
    assert "> How do I {answers}?" in request
    assert request.count("[abc123 ANSWER") == 4
    assert "from 1 (worst) to 10 (best)" in request
