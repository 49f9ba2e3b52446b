"""The data map by hand, its identities, and planted faults that it must find."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from rubrica.core.errors import UsageError
from rubrica.methods.data_map import Region, Scored, diagnose, draw, pairs, place, select

HIGH, LOW, VARIED = Region.HIGH_AVERAGE, Region.LOW_AVERAGE, Region.HIGH_VARIANCE


def test_a_map_by_hand():
    points, boundaries = draw(
        [
            Scored("a", (1.0, 3.0)),  # mean 2, variance 1
            Scored("b", (5.0, 5.0)),  # 5, 0
            Scored("c", (0.0, 0.0, 3.0)),  # 1, 2
            Scored("d", (1.0, 1.0)),  # 1, 0
            Scored("e", (4.0, 4.0, 7.0, 7.0)),  # 5.5, 2.25
            Scored("f", (3.0, 4.0)),  # 3.5, 0.25
        ]
    )
    assert [(p.mean, p.variance) for p in points] == [
        (2, 1),
        (5, 0),
        (1, 2),
        (1, 0),
        (5.5, 2.25),
        (3.5, 0.25),
    ]
    assert [p.region for p in points] == [LOW, HIGH, VARIED, LOW, VARIED, HIGH]
    assert [(b.value, b.tied) for b in boundaries] == [(2.0, 0), (3.5, 0)]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (1, (0, 1, 0)),
        (2, (1, 1, 0)),
        (3, (1, 1, 1)),
        (7, (2, 3, 2)),
        (10, (3, 4, 3)),
        (11, (4, 4, 3)),
        (12, (4, 4, 4)),
    ],
)
def test_sizes_where_three_does_not_divide(n: int, sizes: tuple[int, int, int]):
    points, _ = draw([Scored(f"p{i}", (float(i), i + 1 / (i + 1))) for i in range(n)])
    found = [point.region for point in points]
    assert (found.count(HIGH), found.count(LOW), found.count(VARIED)) == sizes


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=12), st.randoms(use_true_random=False))
def test_ties_do_not_depend_on_the_order_of_the_file(values: list[int], rng: random.Random):
    entries = [Scored(f"p{i}", (0.0, float(value))) for i, value in enumerate(values)]
    regions = {point.id: point.region for point in draw(entries)[0]}
    rng.shuffle(entries)
    assert {point.id: point.region for point in draw(entries)[0]} == regions


def test_prompts_tied_at_a_boundary_are_counted():
    points, boundaries = draw([Scored(f"p{i}", (0.0, 2.0)) for i in range(5)] + [Scored("q", (0.0, 8.0))])
    varied, average = boundaries
    assert (varied.value, varied.tied) == (1.0, 5)  # one of five goes with q
    assert (average.value, average.tied) == (1.0, 4)
    assert sum(point.region is VARIED for point in points) == 2


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2))
def test_of_two_answers_the_variance_is_the_squared_margin(scores: list[float]):
    mean, variance = place(scores)
    assert variance == pytest.approx((scores[0] - scores[1]) ** 2 / 4, abs=1e-9)
    assert mean == pytest.approx(sum(scores) / 2, abs=1e-9)


SCORES = st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=4), min_size=1, max_size=20)


@given(SCORES, st.floats(0.01, 50), st.floats(-100, 100))
def test_another_scale_of_scores_gives_the_same_regions(rows: list[list[int]], scale: float, shift: float):
    def regions(change):
        return [
            p.region for p in draw([Scored(str(i), tuple(map(change, r))) for i, r in enumerate(rows)])[0]
        ]

    assert regions(float) == regions(lambda score: scale * score + shift)


def test_strata_are_ranked_by_themselves():
    low = [Scored(f"l{i}", (i / 10, i / 10 + 0.01 * i), stratum="low") for i in range(6)]
    high = [Scored(f"h{i}", (50.0 + i, 60.0 + 2 * i), stratum="high") for i in range(6)]
    points, boundaries = draw([*low, *high])
    alone = draw(low)[0] + draw(high)[0]
    assert points == alone
    assert [b.stratum for b in boundaries] == ["high", "high", "low", "low"]


@pytest.mark.parametrize("scores", [(1.0,), (), (1.0, math.nan), (1.0, math.inf)])
def test_a_place_needs_two_finite_scores(scores: tuple[float, ...]):
    with pytest.raises(UsageError, match="expected two finite ones"):
        place(scores)


# --- selection ------------------------------------------------------------------------------------


def points_of(n: int):
    rng = random.Random(4)
    return draw([Scored(f"p{i}", (rng.gauss(0, 1), rng.gauss(0, 1))) for i in range(n)])[0]


def test_a_fraction_takes_what_lies_deepest():
    points = points_of(30)
    means = sorted((p.mean for p in points if p.region is HIGH), reverse=True)
    assert [p.mean for p in sorted(select(points, HIGH, 0.1), key=lambda p: -p.mean)] == means[:3]
    lowest = sorted(p.mean for p in points if p.region is LOW)
    assert sorted(p.mean for p in select(points, LOW, 0.2)) == lowest[:6]
    widest = sorted((p.variance for p in points), reverse=True)
    assert sorted((p.variance for p in select(points, VARIED, 1 / 6)), reverse=True) == widest[:5]
    assert select(points, HIGH) == [p for p in points if p.region is HIGH]
    assert select(points, "all") == points


def test_random_draws_by_seed_from_the_whole_map():
    points = points_of(300)
    drawn = {seed: {p.id for p in select(points, "random", seed=seed)} for seed in (0, 1)}
    assert len(drawn[0]) == len(drawn[1]) == 100 and drawn[0] != drawn[1]
    assert {p.id for p in select(points[::-1], "random", seed=0)} == drawn[0]
    assert {p.region for p in points if p.id in drawn[0]} == set(Region)


def test_a_fraction_that_a_region_cannot_fill_is_refused():
    points = points_of(30)
    assert len(select(points, HIGH, 1 / 3)) == 10
    with pytest.raises(UsageError, match=r"15 of 30 prompts; the region high-average has 10"):
        select(points, HIGH, 0.5)
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        select(points, HIGH, 0.0)


def test_pairs_by_rule():
    values = [2.0, 5.0, None, 1.0, 5.0, 2.0]
    assert pairs(values) == [(1, 3)]
    assert pairs(values, "best-rest") == [(1, 0), (1, 5), (1, 3)]
    assert set(pairs(values, "all")) == {(1, 0), (1, 5), (1, 3), (4, 0), (4, 5), (4, 3), (0, 3), (5, 3)}
    assert pairs([1.0, 1.0, None]) == pairs([None]) == []


# --- diagnosis ------------------------------------------------------------------------------------


def test_coefficients_by_hand():
    [point], _ = draw([Scored("a", (0.9, 0.2, 0.4), (1.0, 2.0, 3.0))])
    [found] = diagnose([point])
    assert found.cosine == pytest.approx((0.9 + 0.4 + 1.2) / math.sqrt(14 * (0.81 + 0.04 + 0.16)))
    assert found.pearson == pytest.approx(stats.pearsonr((1, 2, 3), (0.9, 0.2, 0.4)).statistic)
    assert found.kendall == pytest.approx(-1 / 3)  # one of three pairs in order
    assert (found.pairs, found.inverted, found.suspect) == (3, 2, True)
    assert (found.better, found.worse) == (1, 0) and found.margin == pytest.approx(0.7)


def test_what_does_not_exist_is_none_and_equal_labels_say_nothing():
    points, _ = draw(
        [
            Scored("flat", (0.0, 0.0), (1.0, 0.0)),
            Scored("equal", (0.3, 0.1), (1.0, 1.0)),
            Scored("unlabelled", (0.3, 0.1)),
            Scored("half", (0.3, 0.1, 0.9), (1.0, 0.0, None)),
        ]
    )
    found = {diagnosis.id: diagnosis for diagnosis in diagnose(points)}
    assert found.keys() == {"flat", "half"}
    assert (found["flat"].cosine, found["flat"].pearson, found["flat"].kendall) == (None, None, None)
    assert not found["flat"].suspect and not found["half"].suspect
    assert found["half"].pearson == pytest.approx(1.0)


def test_the_tolerance_spares_small_margins():
    points, _ = draw([Scored("near", (0.50, 0.52), (1.0, 0.0)), Scored("far", (0.1, 0.9), (1.0, 0.0))])
    assert [(d.id, d.suspect, d.inverted) for d in diagnose(points, 0.05)] == [
        ("far", True, 1),
        ("near", False, 0),
    ]
    assert all(d.suspect for d in diagnose(points))


@pytest.mark.parametrize(("noise", "least"), [(0.1, 0.95), (1.0, 0.75)])
@pytest.mark.parametrize("answers", [2, 4])
def test_planted_flips_of_labels_are_found(noise: float, least: float, answers: int):
    """Ratings that follow quality, one in eight reversed, against scores that follow quality with noise."""
    rng = np.random.default_rng(0)
    entries, flipped = [], {}
    for i in range(400):
        quality = rng.normal(size=answers)
        labels = quality.argsort().argsort().astype(float)
        flipped[str(i)] = i % 8 == 0
        labels = labels.max() - labels if flipped[str(i)] else labels
        scores = quality + noise * rng.normal(size=answers)
        entries.append(Scored(str(i), tuple(scores.tolist()), tuple(labels.tolist())))
    ranked = diagnose(draw(entries)[0])
    found = roc_auc_score([flipped[d.id] for d in ranked], -np.arange(len(ranked)))
    assert found > least
    if noise == 0.1:  # the paper's coefficient, centred
        assert roc_auc_score([flipped[d.id] for d in ranked], [-d.pearson for d in ranked]) > 0.9
        assert {d.id for d in ranked if d.suspect} >= {d.id for d in ranked[:40]}


def test_planted_prompts_of_low_quality_are_low_average():
    rng = np.random.default_rng(1)
    entries = [
        Scored(
            f"{'bad' if i < 40 else 'good'}{i}",
            tuple((rng.normal(-2 if i < 40 else 1, 0.2, size=3)).tolist()),
        )
        for i in range(150)
    ]
    bad = [point.region for point in draw(entries)[0] if point.id.startswith("bad")]
    assert HIGH not in bad and bad.count(LOW) >= 0.6 * len(bad)
