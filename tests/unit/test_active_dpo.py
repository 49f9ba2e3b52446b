"""ActiveDPO's selection: closed forms, a naive reference, and what must never be selected."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubrica.core.comparisons import (
    Candidate,
    PairLabel,
    all_pairs,
    candidate,
    label_of,
    preference,
    without_repeats,
)
from rubrica.core.errors import ModelError
from rubrica.core.prompts import Message, Prompt
from rubrica.methods.active_dpo import (
    ROUTES,
    Array,
    Features,
    Pick,
    Pool,
    Route,
    by_entropy,
    cheapest,
    differences,
    most_uncertain,
    operations,
    reward_differences,
    select,
    unit,
)


def prompt(id: str) -> Prompt:
    return Prompt(id=id, messages=(Message(role="user", content=f"say {id}"),))


def pool(prompts: list[str], first: list[int], second: list[int]) -> Pool:
    pairs = [
        Candidate(id=f"p{i}", prompt=prompt(id), first=f"a{i}", second=f"b{i}")
        for i, id in enumerate(prompts)
    ]
    return Pool(pairs, first, second)


def naive(phi: Array, count: int, explored: Array, ridge: float) -> list[Pick]:
    """The definition, pair by pair, with a linear solve in place of any update."""
    chosen: list[Pick] = []
    covariance = ridge * np.eye(phi.shape[1]) + sum((np.outer(r, r) for r in explored), np.zeros(()))
    free = [i for i in range(len(phi)) if np.any(phi[i] != 0)]
    while free and len(chosen) < count:
        scores = {i: float(phi[i] @ np.linalg.solve(covariance, phi[i])) for i in free}
        best = max(scores.values())
        place = min(i for i in free if scores[i] >= best * (1 - 1e-9))
        chosen.append(Pick(place, scores[place]))
        free.remove(place)
        covariance = covariance + np.outer(phi[place], phi[place])
    return chosen


@settings(max_examples=60)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 7),
    e=st.integers(0, 5),
    count=st.integers(1, 40),
    ridge=st.sampled_from([0.05, 1.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_the_three_routes_are_the_definition(
    n: int, d: int, e: int, count: int, ridge: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    phi, explored = random.normal(size=(n, d)), random.normal(size=(e, d))
    phi[random.random(n) < 0.2] = 0
    expected = naive(phi, count, explored, ridge)
    for route in ROUTES:
        found = most_uncertain(phi, count, explored=explored, ridge=ridge, route=route)
        assert [pick.place for pick in found] == [pick.place for pick in expected], route
        assert [pick.score for pick in found] == pytest.approx([pick.score for pick in expected], rel=1e-7)


@pytest.mark.parametrize("route", ROUTES)
def test_equal_scores_are_taken_in_order_by_every_route(route: Route) -> None:
    phi = np.eye(5)[[3, 1, 4, 0, 2]]
    assert [pick.place for pick in most_uncertain(phi, 5, route=route)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("route", ROUTES)
def test_a_direction_that_was_explored_is_not_picked_twice(route: Route) -> None:
    """Cluster A is longer than cluster B, so without the update both picks would be of A."""
    random = np.random.default_rng(0)
    noise = 0.01 * random.normal(size=(10, 3))
    phi = noise + np.array([[1.5, 0, 0]] * 5 + [[0, 1.0, 0]] * 5)
    first, second = most_uncertain(phi, 2, ridge=0.1, route=route)
    assert first.place < 5 <= second.place
    # after a round that labelled A, the next one begins with B
    (next_round,) = most_uncertain(phi, 1, explored=phi[:1], ridge=0.1, route=route)
    assert next_round.place >= 5


def test_a_score_in_closed_form() -> None:
    """V = 2 I + diag(4, 0); phi = (1, 1): 1/6 + 1/2."""
    (pick,) = most_uncertain(np.array([[1.0, 1.0]]), 1, explored=np.array([[2.0, 0.0]]), ridge=2.0)
    assert pick.score == pytest.approx(1 / 6 + 1 / 2)


def test_pairs_without_a_difference_are_never_selected() -> None:
    assert [pick.place for pick in most_uncertain(np.array([[0.0, 0], [0, 1e-30], [1, 0]]), 3)] == [2]
    assert most_uncertain(np.zeros((0, 4)), 3) == []


def test_the_route_with_the_fewest_operations_is_taken() -> None:
    assert cheapest(3000, 8192, 0, 50) == "gram"  # a round of the paper
    assert cheapest(100_000, 16, 5000, 500) == "sherman-morrison"
    for n, d, e, b in ((10, 4, 3, 2), (500, 64, 900, 100)):
        taken = operations(cheapest(n, d, e, b), n, d, e, b)
        assert taken == min(operations(route, n, d, e, b) for route in ROUTES)


def test_unit_rows() -> None:
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]
    with pytest.raises(ModelError, match="not finite"):
        unit(np.array([[np.nan, 1.0]]))


def test_aplp_takes_the_largest_difference_of_implicit_rewards() -> None:
    features = Features(
        gradients=np.zeros((4, 0)),
        states=np.zeros((4, 0)),
        log_probs=np.array([-1.0, -2.0, -3.0, -4.0]),
        reference=np.array([-1.0, -5.0, -2.0, -4.0]),
    )
    given = pool(["x", "x", "y"], [0, 0, 2], [1, 3, 1])
    # log-ratios 0, 3, -1, 0
    assert reward_differences(features, given, 0.1).tolist() == pytest.approx([-0.3, 0.0, -0.4])
    assert [pick.place for pick in select("aplp", given, features, 2)] == [2, 0]
    untrained = features._replace(reference=features.log_probs)
    orders = {tuple(pick.place for pick in select("aplp", given, untrained, 3, seed=s)) for s in range(40)}
    assert len(orders) == 6  # where nothing differs it is random


def test_entropy_takes_one_pair_of_each_prompt_before_a_second_of_any() -> None:
    features = Features(np.zeros((5, 0)), np.zeros((5, 0)), np.array([-1.0, -2.0, -6.0, -10.0, -11.0]))
    given = pool(["x", "x", "x", "y"], [0, 0, 1, 3], [1, 2, 2, 4])
    assert by_entropy(features, given, 4) == [Pick(3, 10.5), Pick(0, 3.0), Pick(1, 3.0), Pick(2, 3.0)]


def test_apo_is_the_same_criterion_over_hidden_states_of_unit_norm() -> None:
    states = np.array([[2.0, 0], [0, 5.0], [1.0, 1.0]])
    features = Features(np.zeros((3, 0)), states, np.zeros(3))
    given = pool(["x", "x"], [0, 0], [2, 1])
    (pick,) = select("apo-linear", given, features, 1)
    assert pick == Pick(1, pytest.approx(2.0))  # (1, -1) under V = I


def test_random_depends_on_the_seed_alone() -> None:
    given = pool(["x"] * 30, [0] * 30, [1] * 30)
    features = Features(np.zeros((2, 0)), np.zeros((2, 0)), np.zeros(2))
    one, again, other = (select("random", given, features, 9, seed=seed) for seed in (1, 1, 2))
    assert one == again != other and len({pick.place for pick in one}) == 9


def test_selected_pairs_determine_a_linear_utility_better_than_random_ones() -> None:
    """Utility linear in token counts: the volume of what is left unknown, -log det V, for every seed."""
    for seed in range(12):
        random = np.random.default_rng(seed)
        counts = random.poisson(random.exponential(2.0, size=12), size=(200, 12)).astype(float)
        first, second = random.integers(0, 200, size=(2, 300))
        given = pool(["x"] * 300, first.tolist(), second.tolist())
        features = Features(unit(counts), np.zeros((200, 0)), np.zeros(200))
        phi = differences(features.gradients, given)
        volumes = []
        for strategy in ("activedpo", "random"):
            picked = phi[[pick.place for pick in select(strategy, given, features, 20, seed=seed)]]
            volumes.append(np.linalg.slogdet(np.eye(12) + picked.T @ picked)[1])
        assert volumes[0] > volumes[1]


def test_unit_norm_takes_the_length_of_an_answer_out_of_its_score() -> None:
    """A gradient is a sum over tokens, so its norm grows with their number; its direction does not."""
    random = np.random.default_rng(3)
    lengths = random.integers(2, 200, size=(400, 2))
    sums = np.array([[random.normal(size=(t, 64)).sum(axis=0) for t in pair] for pair in lengths])

    def correlation(values: Array) -> float:
        phi = values[:, 0] - values[:, 1]
        return float(np.corrcoef(np.square(phi).sum(axis=1), lengths.sum(axis=1))[0, 1])

    scaled = np.stack([unit(sums[:, 0]), unit(sums[:, 1])], axis=1)
    assert correlation(sums) > 0.8
    assert abs(correlation(scaled)) < 0.15


def test_a_pair_is_the_same_whichever_answer_comes_first() -> None:
    pair = candidate(prompt("x"), "yes", "no")
    assert pair is not None and pair == candidate(prompt("x"), "no", "yes")
    assert candidate(prompt("x"), "yes", "yes") is candidate(prompt("x"), "yes", " ") is None
    found = all_pairs(prompt("x"), ["a", "b", "a", "c", ""])
    assert {frozenset((p.first, p.second)) for p in found} == {frozenset(two) for two in ("ab", "ac", "bc")}
    assert without_repeats([*found, *found], [found[0].id]) == found[1:]


def test_which_answer_comes_first_tells_nothing_about_where_it_is_from() -> None:
    found = [candidate(prompt(str(i)), f"good {i}", f"bad {i}") for i in range(400)]
    firsts = sum(pair is not None and pair.first.startswith("good") for pair in found)
    assert 150 < firsts < 250  # 5 standard deviations of a fair coin


def test_labels_of_a_rule() -> None:
    pair = candidate(prompt("x"), "yes", "no")
    assert pair is not None

    def label(one: float, two: float) -> PairLabel:
        return label_of(pair, one, two, by="rule")

    assert (label(0.5, 0.25).preferred, label(0.5, 0.25).gap) == ("first", 0.25)
    assert (label(-1, 0.25).preferred, label(-1, 0.25).gap) == ("second", 1.25)
    assert label(0.5, 0.5).preferred is None and label(0.5, 0.5).reason == "tie"
    chosen = preference(pair, label(-1, 0.25))
    assert chosen is not None and (chosen.chosen, chosen.rejected) == (pair.second, pair.first)
    assert chosen.gap == 1.25
    assert preference(pair, label(0.5, 0.5)) is None


def test_bradley_terry_labels_come_as_often_as_the_sigmoid_says() -> None:
    pairs = [candidate(prompt(str(i)), "yes", "no") for i in range(4000)]
    labels = [label_of(p, 0.3, -0.2, by="j", temperature=0.5, seed=7) for p in pairs if p is not None]
    share = sum(label.preferred == "first" for label in labels) / len(labels)
    expected = 1 / (1 + math.exp(-1))
    assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / len(labels)))
    assert labels[:5] == [
        label_of(p, 0.3, -0.2, by="j", temperature=0.5, seed=7) for p in pairs[:5] if p is not None
    ]
