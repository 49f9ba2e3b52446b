"""Kappa, alpha and corrected rates against reference packages, hand-worked tables and simulation."""

import math
from fractions import Fraction
from itertools import product

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from rubrica.core.agreement import agreement, cohen_kappa, krippendorff_alpha, rogan_gladen
from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.stats import wilson

pairs_of_labels = st.lists(
    st.tuples(st.sampled_from("ABCDF"), st.sampled_from("ABCDF")), min_size=2, max_size=60
)


def share(value, n):
    return Estimate(name="share", value=value, low=value, high=value, n=n, method="given")


def test_agreement_is_the_share_of_equal_labels():
    found = agreement("AABBF", "AABCF")
    assert found.value == 0.8
    assert (found.low, found.high) == (wilson(4, 5).low, wilson(4, 5).high)
    with pytest.raises(UsageError, match="got 2 and 1 labels"):
        agreement("AB", "A")


def test_kappa_by_hand():
    # table [[20, 5], [10, 15]] / 50: observed 0.7, chance 0.6*0.5 + 0.4*0.5 = 0.5, kappa 0.4
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    found = cohen_kappa(first, second)
    assert found.value == pytest.approx(0.4)
    assert found.n == 50


@given(pairs_of_labels, st.sampled_from([None, "linear", "quadratic"]))
@settings(max_examples=60)
def test_kappa_equals_scikit_learn(pairs, weights):
    first, second = zip(*pairs, strict=True)
    found = cohen_kappa(first, second, labels="ABCDF", weights=weights)
    if isinstance(found, Unmeasured):
        assert len(set(first + second)) == 1
        return
    assert found.value == pytest.approx(
        cohen_kappa_score(first, second, labels=list("ABCDF"), weights=weights), abs=1e-9
    )
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_the_bootstrap_interval_of_independent_items_is_the_large_sample_one():
    # Fleiss, Cohen and Everitt's variance is another road to the same width; n = 600
    rng = np.random.default_rng(1)
    first = rng.choice(list("ABC"), 600, p=[0.5, 0.3, 0.2])
    second = np.where(rng.random(600) < 0.7, first, rng.choice(list("ABC"), 600))
    table = np.array([[np.sum((first == a) & (second == b)) for b in "ABC"] for a in "ABC"])
    other = cohens_kappa(table)
    found = cohen_kappa(first.tolist(), second.tolist())
    assert found.high - found.low == pytest.approx(other.kappa_upp - other.kappa_low, rel=0.12)
    assert found.method == "bootstrap by cluster"


def test_copies_of_a_text_add_no_certainty():
    # every text ten times: the clusters know it, items alone would claim an interval sqrt(10) narrower
    rng = np.random.default_rng(2)
    first = rng.choice(list("AB"), 60)
    second = np.where(rng.random(60) < 0.8, first, rng.choice(list("AB"), 60))
    once = cohen_kappa(first.tolist(), second.tolist())
    names = [i for i in range(60) for _ in range(10)]
    ten = cohen_kappa(np.repeat(first, 10).tolist(), np.repeat(second, 10).tolist(), clusters=names)
    naive = cohen_kappa(np.repeat(first, 10).tolist(), np.repeat(second, 10).tolist())
    assert ten.value == pytest.approx(once.value)
    assert (ten.low, ten.high) == pytest.approx((once.low, once.high))
    assert (naive.high - naive.low) * 2.5 < ten.high - ten.low


def test_strata_take_chance_within_a_question():
    # Question 1: table [[2,1],[1,2]]: observed 4/6, chance 1/2. Question 2: both TRUE throughout (4 items),
    # chance 1. Summed: observed 8/10, chance (3 + 4)/10, kappa (8 - 7)/(10 - 7) = 1/3.
    first = list("AAABBB") + ["T"] * 4
    second = list("AABABB") + ["T"] * 4
    questions = [1] * 6 + [2] * 4
    assert cohen_kappa(first, second, strata=questions).value == pytest.approx(1 / 3)
    assert cohen_kappa(first[:6], second[:6]).value == pytest.approx(1 / 3)
    # without strata the question's own labels would count as agreement beyond chance: (8 - 3.4) / (10 - 3.4)
    assert cohen_kappa(first, second).value == pytest.approx(4.6 / 6.6)


def test_perfect_agreement_is_not_certainty():
    # 20 texts, no disagreement: Wilson allows z^2/(20 + z^2) of them; chance disagrees in half
    found = cohen_kappa("AB" * 10, "AB" * 10)
    z2 = 1.959963984540054**2
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - z2 / (20 + z2) / 0.5)
    assert found.method == "wilson (no disagreement seen)"
    alpha = krippendorff_alpha(list(zip("AB" * 10, "AB" * 10, strict=True)))
    # 40 ratings, 20 of each: chance disagreement 2 * 20 * 20 / (40 * 39)
    assert alpha.low == pytest.approx(1 - z2 / (20 + z2) / (800 / 1560))


def test_kappa_without_variance_claims_no_interval():
    found = cohen_kappa("ABAB", "AAAA")
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.method == "none (no variance)"


def test_one_label_throughout_is_unmeasured_with_a_reason():
    for found in (cohen_kappa("AAAA", "AAAA"), krippendorff_alpha(["AA", "AA"])):
        assert isinstance(found, Unmeasured)
        assert found.value is None
        assert "one and the same label" in found.reason
    missing = krippendorff_alpha([["A", None], [None, "B"]])
    assert isinstance(missing, Unmeasured)
    assert missing.reason == "no item has two ratings"


def test_kappa_refuses_unknown_labels_and_unordered_weights():
    with pytest.raises(UsageError, match="got label 'Z'"):
        cohen_kappa("AZ", "AB", labels="AB")
    with pytest.raises(UsageError, match="needs labels"):
        cohen_kappa("AB", "AB", weights="linear")
    with pytest.raises(UsageError, match="got 1 clusters or strata for 2"):
        cohen_kappa("AB", "AB", clusters=[1])


# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), example C and D: four observers, twelve units.
_C = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


@pytest.mark.parametrize(
    ("metric", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(metric, expected):
    found = krippendorff_alpha(list(zip(*_C, strict=True)), metric=metric, labels=[1, 2, 3, 4, 5])
    assert found.value == pytest.approx(expected, abs=5e-4)
    assert found.n == 11  # the twelfth unit has one rating
    assert found.low < found.value < found.high


ratings = st.lists(
    st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=3, max_size=3), min_size=2, max_size=25
)


@given(ratings, st.sampled_from(["nominal", "ordinal", "interval"]))
@settings(max_examples=80)
def test_alpha_equals_the_reference_package(units, metric):
    found = krippendorff_alpha(units, metric=metric, labels=[1, 2, 3, 4, 5])
    pairable = [[v for v in unit if v is not None] for unit in units]
    pairable = [unit for unit in pairable if len(unit) > 1]
    if len({v for unit in pairable for v in unit}) < 2:
        assert isinstance(found, Unmeasured)
        return
    data = np.array([[math.nan if v is None else v for v in unit] for unit in units]).T
    expected = krippendorff.alpha(
        reliability_data=data, level_of_measurement=metric, value_domain=[1, 2, 3, 4, 5]
    )
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.low <= found.value <= found.high


def test_alpha_over_strata_sums_both_disagreements():
    # One question: units AA, AB, BB: o = 2 of 6 ratings disagree, expected 2*3*3/5 = 3.6 of 6; alpha = 1 - 2/3.6.
    # The other: three units TT: nothing seen, nothing expected.
    units = ["AA", "AB", "BB", "TT", "TT", "TT"]
    found = krippendorff_alpha(units, strata=[1, 1, 1, 2, 2, 2])
    assert found.value == pytest.approx(1 - 2 / 3.6)


def test_alpha_resamples_texts_and_is_the_same_twice():
    units = np.random.default_rng(0).integers(0, 4, (60, 2)).tolist()
    names = [i // 2 for i in range(60)]
    first, again = (krippendorff_alpha(units, clusters=names, seed=3) for _ in range(2))
    assert first == again
    assert first != krippendorff_alpha(units, clusters=names, seed=4)


def test_rogan_gladen_inverts_what_a_faulty_judge_reports():
    # true rate 3/10, se 9/10, sp 4/5: reported 0.3 * 0.9 + 0.7 * 0.2 = 0.41
    reported = Fraction(3, 10) * Fraction(9, 10) + Fraction(7, 10) * Fraction(1, 5)
    assert reported == Fraction(41, 100)
    found = rogan_gladen(share(0.41, 1000), share(0.9, 500), share(0.8, 500))
    assert found.value == pytest.approx(0.3)
    assert found.low < 0.3 < found.high
    assert found.method == "lang-reiczigel"


def test_a_perfect_judge_corrects_nothing_and_widens_little():
    raw = wilson(30, 100)
    found = rogan_gladen(raw, share(1.0, 100_000), share(1.0, 100_000))
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((raw.low, raw.high), abs=0.01)


def test_corrected_rates_stay_in_range_and_do_not_exist_for_a_coin():
    assert rogan_gladen(share(0.0, 50), share(0.9, 50), share(0.8, 50)).value == 0  # -0.2 / 0.7
    assert rogan_gladen(share(1.0, 50), share(0.9, 50), share(0.8, 50)).value == 1
    coin = rogan_gladen(share(0.5, 50), share(0.5, 50), share(0.5, 50))
    assert isinstance(coin, Unmeasured)
    assert "no better than chance" in coin.reason
    with pytest.raises(UsageError, match="expected a share"):
        rogan_gladen(share(2.0, 50), share(0.9, 50), share(0.8, 50))


def test_the_corrected_interval_covers_the_truth():
    # 95 % interval, 500 draws for each setting: the count below nominal has sd 0.0097, so 0.92 is three of them
    rng = np.random.default_rng(5)
    for true, (se, sp), (n, m) in product((0.05, 0.3), ((0.9, 0.95), (0.8, 0.7)), ((100, 60), (300, 100))):
        reported = true * se + (1 - true) * (1 - sp)
        hits = 0
        for _ in range(500):
            found = rogan_gladen(
                share(rng.binomial(n, reported) / n, n),
                share(rng.binomial(m, se) / m, m),
                share(rng.binomial(m, sp) / m, m),
            )
            hits += isinstance(found, Estimate) and found.low <= true <= found.high
        assert hits / 500 > 0.92, (true, se, sp, n, m)
