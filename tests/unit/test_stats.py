"""Intervals against closed forms, brute force and statsmodels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm, t
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from rubrica.core.clustered import rate_by_cluster
from rubrica.core.errors import UsageError
from rubrica.core.stats import cluster_interval, mean_interval, wilson


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_statsmodels(kn):
    found = wilson(*kn)
    low, high = proportion_confint(*kn, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_ends_solve_the_score_equation():
    # The ends are the p with |k/n - p| = z sqrt(p (1-p) / n); here k=7, n=20.
    z = norm.ppf(0.975)

    def gap(p):
        return abs(7 / 20 - p) - z * math.sqrt(p * (1 - p) / 20)

    found = wilson(7, 20)
    assert found.low == pytest.approx(brentq(gap, 1e-9, 0.35), abs=1e-9)
    assert found.high == pytest.approx(brentq(gap, 0.35, 1 - 1e-9), abs=1e-9)


def test_wilson_at_the_edges_is_not_degenerate():
    # k=0: the interval is [0, z^2 / (n + z^2)]
    z2 = norm.ppf(0.975) ** 2
    assert wilson(0, 30).low == 0
    assert wilson(0, 30).high == pytest.approx(z2 / (30 + z2))
    assert wilson(30, 30).high == 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(UsageError, match=f"got {k} of {n}"):
        wilson(k, n)


def test_mean_interval_by_hand():
    # mean of 1, 2, 6 is 3, s^2 = (4 + 1 + 9) / 2 = 7, t(2 df) = 4.302653
    found = mean_interval([1, 2, 6])
    assert found.value == 3
    assert found.high - 3 == pytest.approx(4.302652730 * math.sqrt(7 / 3), rel=1e-8)
    assert found.method == "t"


def test_an_interval_does_not_leave_the_range_of_its_values():
    # mean 2/3, s^2 = 1/3, half = 4.302653 sqrt(1/9) = 1.434: [-0.768, 2.101] without bounds
    found = mean_interval([1, 1, 0], bounds=(-1.0, 1.0))
    assert found.low == pytest.approx(2 / 3 - 4.302652730 / 3, rel=1e-8)
    assert found.high == 1.0


def test_one_value_has_no_interval_and_says_so():
    found = mean_interval([0.25])
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)
    assert found.method == "none (one value)"


def test_values_must_exist_and_be_finite():
    for values in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(UsageError, match="mean: got"):
            mean_interval(values)
    with pytest.raises(UsageError, match="level: got 95"):
        mean_interval([1, 2], level=95)


clusters = st.lists(
    st.lists(st.floats(-5, 5, allow_subnormal=False).map(lambda x: round(x, 3)), min_size=1, max_size=6),
    min_size=2,
    max_size=6,
)


@given(clusters)
@settings(max_examples=50, deadline=None)
def test_cluster_interval_equals_statsmodels(groups):
    found = cluster_interval(dict(enumerate(groups)))
    data = np.concatenate(groups)
    if found.method != "cluster-t":
        means = [sum(g) - len(g) * data.mean() for g in groups]
        assert means == pytest.approx([0] * len(groups), abs=1e-6)
        return
    labels = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    fit = OLS(data, np.ones(len(data))).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    low, high = fit.conf_int()[0]
    if not set(data) <= {0.0, 1.0}:
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-8)
    assert found.value == pytest.approx(data.mean(), abs=1e-12)


def test_equal_clusters_reduce_to_a_t_interval_over_cluster_means():
    groups = {0: [1, 0, 0, 1], 1: [1, 1, 1, 0], 2: [0, 0, 1, 0]}
    over_means = mean_interval([0.5, 0.75, 0.25])
    found = cluster_interval(groups)
    assert found.value == over_means.value == 0.5
    # 0.5 +- 4.302653 * 0.25 / sqrt(3) = 0.5 +- 0.621: cut to what a rate can be
    assert t.ppf(0.975, 2) * 0.25 / math.sqrt(3) > 0.5
    assert (found.low, found.high) == (0, 1)
    assert over_means.low < 0


def test_one_cluster_falls_back_to_items_and_says_so():
    rate = cluster_interval({"seed 0": [1, 0, 0, 1, 1]})
    assert (rate.low, rate.high) == (wilson(3, 5).low, wilson(3, 5).high)
    assert rate.method == "wilson over items (one cluster)"
    mean = cluster_interval({"seed 0": [0.2, 0.4, 0.9]})
    assert mean.low == mean_interval([0.2, 0.4, 0.9]).low
    assert mean.method == "t over items (one cluster)"


def test_no_success_in_any_seed_does_not_claim_certainty():
    found = cluster_interval({0: [0] * 10, 1: [0] * 10, 2: [0] * 10})
    assert (found.low, found.high) == (0, wilson(0, 30).high)
    assert found.method == "wilson over items (clusters do not differ)"


def score_roots(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval as the roots of (p - x)^2 = z^2 x (1 - x) / n."""
    low, high = sorted(np.roots([1 + z * z / n, -2 * p - z * z / n, p * p]).real)
    return float(low), float(high)


def test_clusters_of_equal_values_count_once():
    # deff = n / (G - 1), so the effective number of observations is G - 1, whatever the clusters' size
    values = {index: [index < 3] * 7 for index in range(11)}
    found = rate_by_cluster(values)
    low, high = score_roots(3 / 11, 10, float(t.ppf(0.975, 10)))
    assert (found.value, found.n) == (pytest.approx(3 / 11), 77)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_without_variation_the_clusters_are_the_observations():
    assert rate_by_cluster({index: [False] * 50 for index in range(8)}).high == wilson(0, 8).high
    assert rate_by_cluster({index: [True] * 50 for index in range(8)}).low == wilson(8, 8).low
    single = rate_by_cluster({index: [index < 7] for index in range(20)})
    assert (single.low, single.high) == (wilson(7, 20).low, wilson(7, 20).high)
    one = rate_by_cluster({"only": [True, False, True, False]})
    assert (one.low, one.high) == pytest.approx(score_roots(0.5, 1, 1.959964), abs=1e-5)
    with pytest.raises(UsageError, match="no values"):
        rate_by_cluster({"a": []})


def test_the_clustered_interval_covers_where_clusters_differ():
    rng, covered, plain = np.random.default_rng(0), 0, 0
    for _ in range(400):
        rates = rng.beta(0.5, 2.0, 30)  # mean 0.2
        values = {index: rng.random(20) < rate for index, rate in enumerate(rates)}
        found = rate_by_cluster({index: row.tolist() for index, row in values.items()})
        naive = wilson(int(sum(row.sum() for row in values.values())), 600)
        covered += found.low <= 0.2 <= found.high
        plain += naive.low <= 0.2 <= naive.high
    assert covered >= 370 and plain < 300
