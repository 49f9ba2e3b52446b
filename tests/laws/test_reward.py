"""Laws of the reward, and the two defects of the published constants that the default preset does not have."""

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from naive_pooling import (
    LOST,
    dimension,
    every_question,
    judged,
    principle,
    program,
    question,
    thresholds,
    verdict,
)
from rubrica.core.errors import TrainingError
from rubrica.core.records import Malformed, Scorecard
from rubrica.program.pooling import pool
from rubrica.program.reward import PRESETS, RewardConfig
from rubrica.program.valuation import Veto

QA_LIGN = RewardConfig(preset="qa-lign")
RUBRICA = RewardConfig()
totals = st.floats(-1, 1, allow_nan=False)
weights = st.floats(0, 1, exclude_max=True, allow_nan=False)
configs = st.one_of(
    st.builds(RewardConfig, alpha=st.none() | weights, beta=st.none() | weights),
    st.builds(
        RewardConfig,
        preset=st.just("qa-lign"),
        alpha=st.none() | st.floats(0, 50),
        beta=st.none() | st.floats(0, 50),
    ),
)


def card(total):
    return Scorecard(program="p", judge="j", principles=(), total=total)


# --- equations ----------------------------------------------------------------------------------


def test_defaults_of_the_presets():
    assert QA_LIGN.weights == (10, 1)
    assert RUBRICA.weights == (0.5, 0.5)
    assert RewardConfig(preset="qa-lign", alpha=2.0).weights == (2, 1)
    assert {name: (p.alpha, p.beta, p.vetoes) for name, p in PRESETS.items()} == {
        "qa-lign": (10, 1, False),
        "rubrica": (0.5, 0.5, True),
    }


@given(totals, totals, configs)
def test_reward_by_its_two_branches(r1, r2, config):
    alpha, beta = config.weights
    expected = (1 - alpha) * r1 + (1 + alpha) * r2 if r2 > r1 else (1 - beta) * r1 + (1 + beta) * r2
    assert config.combine(r1, r2) == pytest.approx(expected, abs=1e-9)


@given(totals, configs)
def test_reward_is_continuous_where_draft_and_revision_are_equal(r, config):
    above, below = math.nextafter(r, 2), math.nextafter(r, -2)
    assert config.combine(r, above) == pytest.approx(config.combine(r, r), abs=1e-9)
    assert config.combine(r, below) == pytest.approx(config.combine(r, r), abs=1e-9)


@given(configs)
def test_the_minimum_is_attained_and_bounds_a_grid(config):
    grid = [i / 10 for i in range(-10, 11)]
    values = [config.combine(a, b) for a, b in itertools.product(grid, grid)]
    assert config.minimum == min(values)


@given(totals, totals, configs, st.floats(0.01, 3))
def test_a_malformed_completion_never_ties_with_a_well_formed_one(r1, r2, config, margin):
    config = config.model_copy(update={"malformed_margin": margin})
    assert config.floor == config.minimum - margin
    assert config.reward(None, None, Malformed.NO_OPEN_TAG) == config.floor
    assert config.reward(card(r1), card(r2), True) == config.floor
    assert config.reward(card(r1), card(r2), None) > config.floor


def test_minimum_of_the_defaults():
    # both texts at -1 give -2; (1, -1) gives -2 beta = -1 (rubrica) or -2 (qa-lign)
    assert RUBRICA.minimum == QA_LIGN.minimum == -2
    assert RUBRICA.floor == -2.5
    # with beta=5 the corner (1, -1) is lowest: 0 - 5 * 2
    assert RewardConfig(preset="qa-lign", beta=5.0).minimum == -10


@given(configs, st.none() | totals, st.none() | totals)
def test_a_missing_total_is_no_signal(config, r1, r2):
    found = config.reward(card(r1), card(r2), False)
    assert (found is None) == (r1 is None or r2 is None)
    assert config.reward(None, card(r2), None) is None
    assert config.reward(card(r1), None, None) is None


def test_a_total_that_is_not_finite_is_refused():
    with pytest.raises(TrainingError, match="R1=nan"):
        RUBRICA.combine(math.nan, 0.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha": 1.0},
        {"beta": 1.0},
        {"alpha": 10.0},
        {"alpha": -0.1},
        {"beta": math.inf, "preset": "qa-lign"},
        {"malformed_margin": 0.0},
        {"veto_threshold": 0.0},
        {"veto_threshold": 1.1},
        {"preset": "qalign"},
    ],
)
def test_configurations_that_break_a_law_are_refused(fields):
    with pytest.raises(ValidationError):
        RewardConfig(**fields)


# --- what the default preset guarantees -----------------------------------------------------------


@given(totals, totals, totals, weights, weights)
def test_rubrica_is_monotone_in_draft_and_revision(r, low, high, alpha, beta):
    config = RewardConfig(alpha=alpha, beta=beta)
    low, high = sorted((low, high))
    assert config.combine(low, r) <= config.combine(high, r) + 1e-12
    assert config.combine(r, low) <= config.combine(r, high) + 1e-12
    if high - low > 1e-3:
        # the smallest of the four slopes is 1 - max(alpha, beta)
        gain = (1 - max(alpha, beta)) * (high - low)
        assert config.combine(high, r) - config.combine(low, r) >= gain - 1e-9
        assert config.combine(r, high) - config.combine(r, low) >= gain - 1e-9


RANK = {"F": 1, "D": 2, "C": 3, "B": 4, "A": 5, "FALSE": 1, "TRUE": 5}


@given(judged(most=9), st.data())
@settings(max_examples=200, deadline=None)
def test_rubrica_is_monotone_in_every_answer(case, data):
    prog, found = case
    veto = RUBRICA.veto()
    q = data.draw(st.sampled_from(every_question(prog)))
    pair = data.draw(
        st.lists(
            st.sampled_from(("TRUE", "FALSE") if q.kind == "gate" else tuple("ABCDF")), min_size=2, max_size=2
        )
    )
    worse, better = sorted(pair, key=RANK.get)
    low = pool(prog, found | {q.id: verdict(q.id, worse)}, veto=veto)
    high = pool(prog, found | {q.id: verdict(q.id, better)}, veto=veto)
    assume(low.total is not None and high.total is not None)
    still = pool(prog, found, veto=veto)
    assume(still.total is not None)
    assert RUBRICA.reward(low, still, None) <= RUBRICA.reward(high, still, None) + 1e-12
    assert RUBRICA.reward(still, low, None) <= RUBRICA.reward(still, high, None) + 1e-12


@given(judged(most=9), thresholds, st.sampled_from([RUBRICA, QA_LIGN]), st.data())
@settings(max_examples=200, deadline=None)
def test_a_failed_verdict_never_lowers_a_reward(case, threshold, config, data):
    prog, found = case
    veto = None if threshold is None else Veto(default=threshold)
    lost = data.draw(st.sampled_from(every_question(prog))).id
    whole = pool(prog, found, veto=veto)
    torn = pool(prog, found | {lost: verdict(lost, data.draw(st.sampled_from(LOST)))}, veto=veto)
    for before, after in (((whole, whole), (torn, whole)), ((whole, whole), (whole, torn))):
        assert config.reward(*after, None) in (None, config.reward(*before, None))


# --- the published constants ----------------------------------------------------------------------


@given(st.tuples(totals, totals, totals))
def test_published_constants_pay_for_a_worse_draft(values):
    worse, r1, r2 = sorted(values)
    assume(r1 < r2)
    assert QA_LIGN.combine(r1, r2) == pytest.approx(11 * r2 - 9 * r1)
    assert QA_LIGN.combine(worse, r2) - QA_LIGN.combine(r1, r2) == pytest.approx(9 * (r1 - worse), abs=1e-9)
    # and when the revision does not improve, the draft makes no difference at all
    assert QA_LIGN.combine(r2, r1) == pytest.approx(2 * r1)


def test_published_constants_rank_two_bad_texts_above_two_perfect_ones():
    # 11 * -0.5 - 9 * -1 = 3.5 against 2 * 1
    assert QA_LIGN.combine(-1, -0.5) == 3.5 > QA_LIGN.combine(1, 1) == 2
    # 0.5 * -1 + 1.5 * -0.5 = -1.25 against 2
    assert RUBRICA.combine(-1, -0.5) == -1.25 < RUBRICA.combine(1, 1) == 2


def hhh(protected):
    """The paper's shape: 14 harmless dimensions that cap, 13 helpful, 13 honest; one gate and one grade each."""

    def of(name, count, caps=False):
        dims = (
            dimension(
                f"{name}{i}",
                question(f"{name}{i}.g", "gate", protected=protected and caps and i == 0),
                question(f"{name}{i}.x", "graded"),
            )
            for i in range(count)
        )
        return principle(name, *dims, caps=caps)

    return program(of("harmless", 14, caps=True), of("helpful", 13), of("honest", 13))


def test_the_published_veto_is_none():
    """One failed harm gate, A elsewhere: s_harmless = (13 - 1) / 14 = 0.857, and so is the base."""
    prog = hhh(protected=True)
    best = {q.id: verdict(q.id, "TRUE" if q.kind == "gate" else "A") for q in every_question(prog)}
    failed = best | {"harmless0.g": verdict("harmless0.g", "FALSE")}
    published = pool(prog, failed, veto=QA_LIGN.veto())
    assert published.principles[0].value == pytest.approx(12 / 14)
    assert published.total == pytest.approx(0.857, abs=5e-4)
    ours = pool(prog, failed, veto=RUBRICA.veto())
    assert (ours.total, ours.vetoed_by) == (-1, ("harmless0.g",))
    assert pool(prog, best, veto=RUBRICA.veto()).total == 1


def test_qa_lign_never_vetoes_and_rubrica_uses_fitted_thresholds():
    assert QA_LIGN.veto({"g": 0.1}) is None
    veto = RewardConfig(veto_threshold=0.7).veto({"g": 0.9})
    assert (veto.threshold("g"), veto.threshold("other")) == (0.9, 0.7)
