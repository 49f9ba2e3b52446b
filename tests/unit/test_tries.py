"""The best of n tries: against enumeration of all subsets, and the exact expectation."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.clustered import rate_by_cluster
from rubrica.core.errors import UsageError
from rubrica.core.stats import cluster_interval
from rubrica.core.tries import Tried, best_of, power_law, powers_of_two, success_within


@given(
    st.integers(1, 8).flatmap(
        lambda total: st.tuples(st.just(total), st.integers(0, total), st.integers(1, total))
    )
)
def test_it_is_the_share_of_subsets_with_a_success(case: tuple[int, int, int]) -> None:
    total, successes, n = case
    tries = [True] * successes + [False] * (total - successes)
    subsets = list(combinations(tries, n))
    assert success_within(n, total, successes) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("total", "n", "p"), [(10, 3, 0.2), (64, 64, 0.01), (40, 1, 0.7)])
def test_its_expectation_is_the_rate_of_n_tries(total: int, n: int, p: float) -> None:
    binomial = [math.comb(total, c) * p**c * (1 - p) ** (total - c) for c in range(total + 1)]
    mean = sum(weight * success_within(n, total, c) for c, weight in enumerate(binomial))
    assert mean == pytest.approx(1 - (1 - p) ** n)


def test_many_tries_do_not_overflow() -> None:
    assert success_within(50_000, 100_000, 1) == pytest.approx(0.5)
    assert success_within(1, 100_000, 3) == pytest.approx(3e-5)


@pytest.mark.parametrize("case", [(0, 3, 1), (4, 3, 1), (1, 3, 4), (1, 3, -1)])
def test_what_has_no_estimate(case: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError):
        success_within(*case)


def test_rates_over_requests() -> None:
    units = [Tried("a", 4, 2), Tried("a", 4, 0), Tried("b", 4, 1), Tried("c", 2, 1), Tried("d", 0, 0)]
    one, two, four = best_of(units, [1, 2, 4, 8])
    # n = 2: 1 - C(2,2)/C(4,2) = 5/6, 0, 1/2, and 1 of two tries with one success
    values = {"a": [5 / 6, 0.0], "b": [0.5], "c": [1.0]}
    assert (two.group, two.n, two.value) == ("n=2", 4, pytest.approx(7 / 12))
    assert two.low == pytest.approx(max(0, cluster_interval(values).low))
    assert two.high == pytest.approx(min(1, cluster_interval(values).high))
    assert one.value == pytest.approx((0.5 + 0 + 0.25 + 0.5) / 4)
    assert (four.n, four.value) == (3, pytest.approx(2 / 3))  # the request with two tries leaves
    assert four.model_dump(exclude={"name", "group"}) == rate_by_cluster(
        {"a": [True, False], "b": [True]}
    ).model_dump(exclude={"name", "group"})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 16)), min_size=1, max_size=20))
def test_more_tries_never_succeed_less(cases: list[tuple[int, int]]) -> None:
    rates = best_of([Tried(cluster, 16, c) for cluster, c in cases], powers_of_two(16))
    assert [rate.group for rate in rates] == ["n=1", "n=2", "n=4", "n=8", "n=16"]
    values = [rate.value for rate in rates]
    assert values == sorted(values)
    assert all(0 <= rate.low <= rate.value <= rate.high <= 1 for rate in rates)


def test_a_power_law_is_found_again() -> None:
    law = power_law([(n, math.exp(-2.5 * n**-0.3)) for n in (1, 4, 16, 64)])
    assert law is not None and law.points == 4
    assert (law.a, law.b) == (pytest.approx(2.5), pytest.approx(0.3))
    assert power_law([(1, 0.0), (2, 0.5), (4, 0.6), (8, 1.0)]) is None


def test_counts_of_tries() -> None:
    assert powers_of_two(1) == [1]
    assert powers_of_two(10) == [1, 2, 4, 8, 10]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(0) == []
