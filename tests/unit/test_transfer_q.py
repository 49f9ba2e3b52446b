"""Transfer Q* on an exact tree: vocabulary 3, horizon 4, every distribution and expectation enumerated.

The tree's base and reward are random tables; ``rho`` is the trajectory-level optimum of a reward in closed form. What the
method says of rollouts is compared with conditional expectations that are computed from these tables alone.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.claims.transfer_q import Point, within
from rubrica.methods.best_of_n import best, divergence_bound
from rubrica.methods.transfer_q import Indirect, Rollout, divergence, log_weights, policy, values

VOCAB, HORIZON, BETA = 3, 4, 0.7
LEAVES = list(itertools.product(range(VOCAB), repeat=HORIZON))
DRAW = np.random.default_rng(7)
BASE = {
    path: DRAW.dirichlet(np.ones(VOCAB))
    for n in range(HORIZON)
    for path in itertools.product(range(VOCAB), repeat=n)
}
TARGET = {leaf: float(DRAW.normal()) for leaf in LEAVES}
OTHER = {leaf: float(DRAW.normal()) for leaf in LEAVES}


def base_probability(leaf):
    return math.prod(float(BASE[leaf[:n]][leaf[n]]) for n in range(HORIZON))


def aligned(reward, beta=BETA):
    """rho ~ rho_base exp(r / beta) over whole answers."""
    weights = {leaf: base_probability(leaf) * math.exp(reward[leaf] / beta) for leaf in LEAVES}
    total = sum(weights.values())
    return {leaf: weight / total for leaf, weight in weights.items()}


def conditional(rho, prefix):
    """The distribution of whole answers, given how they begin."""
    held = {leaf: share for leaf, share in rho.items() if leaf[: len(prefix)] == prefix}
    total = sum(held.values())
    return {leaf: share / total for leaf, share in held.items()}


def expectation(rho, prefix, reward):
    return sum(share * reward[leaf] for leaf, share in conditional(rho, prefix).items())


def many(rho, prefix, count, reward=TARGET, baseline=None, seed=0):
    """Rollouts of a candidate, drawn from ``rho``."""
    held = conditional(rho, prefix)
    leaves = list(held)
    picks = np.random.default_rng(seed).choice(len(leaves), size=count, p=list(held.values()))
    return [
        Rollout(reward[leaves[n]], None if baseline is None else baseline[leaves[n]]) for n in picks.tolist()
    ]


def exact(rho, prefix, reward=TARGET, baseline=None, grain=20_000):
    """Every answer as often as ``rho`` says, up to rounding: the expectation itself."""
    return [
        Rollout(reward[leaf], None if baseline is None else baseline[leaf])
        for leaf, share in conditional(rho, prefix).items()
        for _ in range(round(share * grain))
    ]


PREFIXES = [(), (1,), (0, 2), (2, 1, 0)]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_direct_transfer_is_the_aligned_models_expected_reward(prefix):
    rho = aligned(TARGET)
    candidates = [exact(rho, (*prefix, z)) for z in range(VOCAB)]
    wanted = [expectation(rho, (*prefix, z), TARGET) for z in range(VOCAB)]
    assert values(candidates) == pytest.approx(wanted, abs=1e-2)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_self_normalised_indirect_transfer_equals_direct_with_the_model_aligned_to_the_target(prefix):
    other = aligned(OTHER)
    indirect = Indirect("snis", BETA, max_log_weight=50)
    candidates = [exact(other, (*prefix, z), baseline=OTHER) for z in range(VOCAB)]
    wanted = [expectation(aligned(TARGET), (*prefix, z), TARGET) for z in range(VOCAB)]
    assert values(candidates, indirect) == pytest.approx(wanted, abs=1e-2)


def test_raw_weights_with_the_partition_constants_equal_direct_transfer():
    """w = exp((r - r_BL) / beta) C_BL / C_r: with the constants given, at the root, the raw mean is exact too."""
    totals = {
        name: sum(base_probability(leaf) * math.exp(reward[leaf] / BETA) for leaf in LEAVES)
        for name, reward in (("other", OTHER), ("target", TARGET))
    }
    [value] = values([exact(aligned(OTHER), (), baseline=OTHER)], Indirect("raw", BETA, 50))
    wanted = expectation(aligned(TARGET), (), TARGET)
    assert value * totals["other"] / totals["target"] == pytest.approx(wanted, abs=1e-2)


@pytest.mark.parametrize("weighting", ["raw", "snis"])
def test_equal_rewards_reduce_to_direct_transfer(weighting):
    candidates = [many(aligned(TARGET), (z,), 50, baseline=TARGET) for z in range(VOCAB)]
    indirect = values(candidates, Indirect(weighting, BETA, 10))
    assert indirect == pytest.approx(values(candidates))


def test_raw_weights_misorder_negative_rewards_and_the_others_do_not():
    """r = -2 with advantage 1 -> -2 e^.5 = -3.30; r = -2 with advantage 3 -> -2 e^1.5 = -8.96: the better looks worse."""
    worse, better = [Rollout(-2.0, -3.0)] * 2, [Rollout(-2.0, -5.0), Rollout(-1.9, -5.0)]
    raw = values([worse, better], Indirect("raw", 2.0, 10))
    assert raw[0] == pytest.approx(-2 * math.exp(0.5))
    assert raw[1] == pytest.approx((-2 * math.exp(1.5) - 1.9 * math.exp(1.55)) / 2)
    assert raw[0] > raw[1]
    for weighting in ("snis", "shift"):
        low, high = values([worse, better], Indirect(weighting, 2.0, 10))
        assert low < high


def test_log_weights_are_clipped():
    found = log_weights(np.array([1.0, 9.0, -9.0]), np.array([0.0, 0.0, 0.0]), beta=0.5, limit=3)
    assert found.tolist() == [2.0, 3.0, -3.0]


def test_the_monte_carlo_error_falls_as_one_over_the_square_root():
    rho, wanted = aligned(TARGET), expectation(aligned(TARGET), (1,), TARGET)

    def error(count):
        found = [values([many(rho, (1,), count, seed=seed)])[0] - wanted for seed in range(400)]
        return float(np.sqrt(np.mean(np.square(found))))

    spread = math.sqrt(
        sum(share * (TARGET[leaf] - wanted) ** 2 for leaf, share in conditional(rho, (1,)).items())
    )
    for count in (4, 64):
        assert error(count) == pytest.approx(spread / math.sqrt(count), rel=0.15)


def decoded(q, alpha):
    """Probability of every answer when each token follows pi ~ base exp(Q / alpha)."""
    found = {}
    for leaf in LEAVES:
        shares = [
            policy(np.log(BASE[leaf[:n]]), [q((*leaf[:n], z)) for z in range(VOCAB)], alpha)[leaf[n]]
            for n in range(HORIZON)
        ]
        found[leaf] = float(np.prod(shares))
    return found


def test_the_decoded_policy_beats_controlled_decoding_and_the_base_in_reward():
    rho, base = aligned(TARGET), {leaf: base_probability(leaf) for leaf in LEAVES}
    ours = decoded(lambda prefix: expectation(rho, prefix, TARGET), 0.3)
    rival = decoded(lambda prefix: expectation(base, prefix, TARGET), 0.3)
    reward = [sum(p[leaf] * TARGET[leaf] for leaf in LEAVES) for p in (ours, rival, base)]
    assert sum(ours.values()) == pytest.approx(1)
    assert reward[0] > reward[1] > reward[2]


def test_alpha_goes_from_the_base_to_the_best_candidate():
    logprobs, found = np.log(BASE[()]).tolist(), [0.1, 0.4, 0.3]
    assert policy(logprobs, found, 1e9) == pytest.approx(BASE[()])
    assert policy(logprobs, found, 1e-9).tolist() == [0.0, 1.0, 0.0]
    sharper = policy(logprobs, found, 0.5, temperature=0.5)
    assert sharper == pytest.approx(
        policy(logprobs, found, 0.5) ** 2 / (policy(logprobs, found, 0.5) ** 2).sum()
    )
    assert policy(logprobs, [0.5, 0.5, 0.5], 1.0, temperature=0).argmax() == int(np.argmax(logprobs))


def test_the_choice_maximises_reward_less_divergence():
    """pi ~ base exp(Q / alpha) is the maximum of E Q - alpha KL, here against a thousand random rivals."""
    logprobs, found, alpha = np.log(BASE[(1,)]), np.array([0.9, -0.3, 0.2]), 0.4

    def worth(shares):
        return shares @ found - alpha * divergence(shares, logprobs.tolist())

    best_one = worth(policy(logprobs.tolist(), found.tolist(), alpha))
    assert all(worth(shares) <= best_one + 1e-12 for shares in DRAW.dirichlet(np.ones(VOCAB), size=1000))


def test_what_could_not_be_scored_is_no_number():
    gone, half = [Rollout(None), Rollout(None)], [Rollout(None), Rollout(0.6)]
    assert values([gone, half, [Rollout(-1.0)]]) == [None, pytest.approx(0.6), -1.0]
    assert policy([-0.1, -3.0], [None, 0.0], 1.0).tolist() == [0.0, 1.0]
    assert policy([-0.1, -3.0], [None, None], 1.0, temperature=0).tolist() == [1.0, 0.0]
    shift = Indirect("shift", 1.0, 10)
    assert values([[Rollout(0.5, None)], [Rollout(0.5, 0.5), Rollout(1.5, 1.5)]], shift) == [None, 0.5]


def test_divergence_of_a_sure_choice_is_its_surprise():
    assert divergence(np.array([0.0, 1.0]), [math.log(0.7), math.log(0.2)]) == pytest.approx(math.log(5))


@given(st.lists(st.none() | st.floats(-5, 5), min_size=1, max_size=8))
def test_best_of_n_keeps_the_first_of_the_highest(rewards):
    at, known = best(rewards), [r for r in rewards if r is not None]
    assert at == (rewards.index(max(known)) if known else 0)


def test_the_bound_of_best_of_n_is_what_enumeration_gives():
    """Ten equally likely answers without ties, the best of n = 3: P(best <= i) = ((i + 1) / 10)^3."""
    shares = np.diff([(i / 10) ** 3 for i in range(11)])
    exact_kl = float((shares * np.log(shares * 10)).sum())
    assert exact_kl < divergence_bound(3)
    fine = np.diff([(i / 100_000) ** 3 for i in range(100_001)])
    assert float((fine * np.log(fine * 100_000)).sum()) == pytest.approx(divergence_bound(3), abs=1e-4)


def test_a_rival_gets_the_best_mixture_that_it_can_afford():
    points = [Point(0.0, 0.0), Point(4.0, 0.4), Point(8.0, 1.0), Point(2.0, 0.1)]
    assert within(points, 4.0) == pytest.approx(0.5)  # half of the third, half of the base
    assert within(points, 5.0) == pytest.approx(0.625)
    assert within(points, 9.0) == 1.0
    assert within(points[:2], 2.0) == pytest.approx(0.2)
