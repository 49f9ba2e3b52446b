"""Means over clusters and runs, against statsmodels, closed forms and simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS

from rubrica.core.clustered import mean, once_each, rate, side, spread
from rubrica.core.errors import UsageError
from rubrica.core.stats import cluster_interval, wilson

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=4, max_size=60)


def test_independent_values_get_wilsons_interval():
    found = rate(side(np.array([1.0] * 7 + [0.0] * 13), np.arange(20)))
    exact = wilson(7, 20)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert (found.method, found.n) == ("wilson", 20)


@given(ROWS)
def test_the_variance_over_clusters_is_statsmodels(rows):
    codes = np.array([cluster for cluster, _ in rows])
    values = np.array([float(value) for _, value in rows])
    found = spread((1.0, side(values, codes)))
    groups = len(set(codes.tolist()))
    if groups < 2:
        assert found == (0.0, 0.0)
        return
    fit = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert found.variance == pytest.approx(float(fit.cov_params()[0, 0]), abs=1e-12)
    assert found.degrees in (0.0, pytest.approx(groups - 1))


def test_continuous_values_get_the_cluster_robust_t_interval():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(12), 4)
    values = rng.normal(size=48) + rng.normal(size=12)[codes]
    found = rate(side(values, codes))
    known = cluster_interval({g: values[codes == g].tolist() for g in range(12)})
    assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))
    assert found.method == "cluster-t"


def test_a_repeated_question_counts_once():
    # every value thrice: as many observations as questions, so Wilson's interval of the questions
    values = np.repeat([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0] * 10, 3)
    found = rate(side(values, np.repeat(np.arange(100), 3)))
    alone = wilson(30, 100)
    assert found.n == 300
    # Student's quantile on 99 degrees and G/(G-1) widen it by about 1.7 %
    assert found.high - found.low == pytest.approx((alone.high - alone.low) * 1.017, rel=0.005)


def test_a_shared_goal_counts_once_among_pooled_questions():
    # goal 0 in three sets (1, 1, 0), goal 1 in one (0): the mean of the goals' means is (2/3 + 0) / 2
    codes = np.array([0, 0, 0, 1])
    found = mean(side(np.array([1.0, 1.0, 0.0, 0.0]), codes, weights=once_each(codes)))
    assert found == pytest.approx(1 / 3)


def test_the_macro_average_equals_its_parts_where_they_are_independent():
    # two strata of weight 1/2: the variance is the sum of a quarter of each set's own
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 2, 40).astype(float), rng.integers(0, 2, 200).astype(float)
    values, strata = np.concatenate([first, second]), np.repeat([0, 1], [40, 200])
    weights = np.where(strata == 0, 1 / 80, 1 / 400)
    one = side(values, np.arange(240), weights=weights, strata=strata)
    assert mean(one) == pytest.approx((first.mean() + second.mean()) / 2)
    by_hand = sum(part.var() / len(part) / 4 for part in (first, second)) * 240 / 239
    assert spread((1.0, one)).variance == pytest.approx(by_hand)


def crossed(rng: np.random.Generator, items: int, runs: int, item: float, run: float, noise: float):
    """A crossed design of random effects, the runs' true mean 0."""
    effects = rng.normal(size=items)[:, None] * item + rng.normal(size=runs) * run
    return effects + rng.normal(size=(items, runs)) * noise


@pytest.mark.parametrize("effects", [(1.0, 0.0, 1.0), (0.5, 0.3, 1.0), (1.0, 1.0, 0.2)])
def test_the_variance_over_items_and_runs_is_right_on_average(effects):
    # variance of the mean of 60 items by 5 runs: item^2 / 60 + run^2 / 5 + noise^2 / 300
    rng = np.random.default_rng(2)
    item, run, noise = effects
    found = [spread((1.0, side(crossed(rng, 60, 5, *effects), np.arange(60)))).variance for _ in range(800)]
    true = item**2 / 60 + run**2 / 5 + noise**2 / 300
    # cut at 0 it can only be too large
    assert true * 0.95 <= np.mean(found) <= true * 1.15


@pytest.mark.parametrize("effects", [(1.0, 0.0, 1.0), (1.0, 0.2, 1.0), (0.5, 1.0, 0.5)])
def test_the_interval_over_items_and_runs_covers(effects):
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        found = rate(side(crossed(rng, 80, 3, *effects), np.arange(80)))
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 600 <= 0.99


def test_the_rate_covers_where_questions_share_goals():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(600):
        goal = rng.beta(0.4, 3.6, size=60)  # mean .1, far apart
        codes = np.repeat(np.arange(60), 3)
        found = rate(side((rng.random(180) < goal[codes]).astype(float), codes))
        hits += found.low <= 0.1 <= found.high
    assert 0.93 <= hits / 600 <= 0.99


def test_runs_with_gaps_are_summed_as_they_are():
    """Against the sums of the module's text, written out over dictionaries."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(14, 3))
    table[rng.random((14, 3)) < 0.3] = np.nan
    table[:, 0] = 1.0  # every question keeps a value
    codes = rng.integers(0, 5, 14)
    known = [(p, r) for p in range(14) for r in range(3) if not math.isnan(table[p, r])]
    centre = sum(table[p, r] for p, r in known) / len(known)
    cell, of_cluster, of_run = {}, {}, {}
    for p, r in known:
        u = (table[p, r] - centre) / len(known)
        for sums, key in ((cell, (codes[p], r)), (of_cluster, codes[p]), (of_run, r)):
            sums[key] = sums.get(key, 0.0) + u
    groups, runs = len(of_cluster), 3
    g, k = groups / (groups - 1), runs / (runs - 1)
    v1, v2 = g * sum(u**2 for u in of_cluster.values()), k * sum(u**2 for u in of_run.values())
    both = sum(
        (cell.get((c, r), 0.0) - of_cluster[c] / runs - of_run[r] / groups) ** 2
        for c in of_cluster
        for r in range(runs)
    )
    one = side(table, codes)
    assert mean(one) == pytest.approx(centre)
    assert rate(one).n == len(known)
    assert spread((1.0, one)).variance == pytest.approx(v1 + max(0.0, v2 - g * k * both))


def test_the_interval_covers_where_runs_have_gaps():
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(600):
        table = crossed(rng, 80, 3, 1.0, 0.3, 0.5)
        table[rng.random(table.shape) < 0.2] = np.nan
        table = table[~np.isnan(table).all(axis=1)]
        found = rate(side(table, np.arange(len(table))))
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 600 <= 0.99


@settings(max_examples=30)
@given(ROWS, st.permutations(range(7)))
def test_names_of_clusters_do_not_matter(rows, renamed):
    codes = np.array([cluster for cluster, _ in rows])
    values = np.array([float(value) for _, value in rows])
    other = np.array([renamed[cluster] * 1000 - 3000 for cluster in codes])
    assert rate(side(values, codes)).low == pytest.approx(rate(side(values, other)).low)


def test_one_cluster_tells_nothing_of_the_others():
    found = rate(side(np.array([1.0, 0.0, 1.0, 0.0]), np.zeros(4, dtype=np.int64)))
    z2 = stats.norm.ppf(0.975) ** 2  # Wilson's interval of one observation of a half
    assert found.high - found.low == pytest.approx(2 * math.sqrt(z2 / 4 + z2**2 / 4) / (1 + z2))


def test_what_cannot_be_averaged_is_refused():
    for values, codes in (([], []), ([1.0, math.nan], [0, 1]), ([1.0, math.inf], [0, 1]), ([1.0], [0, 1])):
        with pytest.raises(UsageError, match="got"):
            side(np.array(values), np.array(codes, dtype=np.int64))
    with pytest.raises(UsageError, match="weight that is not positive"):
        side(np.ones(2), np.arange(2), weights=np.array([1.0, 0.0]))
