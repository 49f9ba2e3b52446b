"""Association of columns, against other implementations."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from rubrica.core.association import cramers_v, independence, macro_f1, spearman
from rubrica.core.errors import UsageError


def test_spearman_by_hand_and_its_interval_covers():
    found = spearman([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert found.value == pytest.approx(1 - 6 * 4 / (5 * 24))
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):  # normal pairs of r = 0.5, whose rank correlation is 6/pi asin(r/2)
        x = rng.normal(size=60)
        y = 0.5 * x + math.sqrt(0.75) * rng.normal(size=60)
        found = spearman(x, y)
        covered += found.low <= 6 / math.pi * math.asin(0.25) <= found.high
    assert 0.91 < covered / 300 < 0.985


def test_a_correlation_that_does_not_exist_says_why():
    assert "4 items" in spearman([1, 2, 3], [1, 2, 3]).reason
    assert "does not vary" in spearman([1] * 5, [1, 2, 3, 4, 5]).reason
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]).value == -1
    with pytest.raises(UsageError, match="expected the same number"):
        spearman([1, 2], [1])


def test_cramers_v_is_corrected_for_bias():
    one = ["a"] * 30 + ["b"] * 30
    assert cramers_v(one, one).value == pytest.approx(1.0, abs=0.01)
    rng = np.random.default_rng(0)
    plain, corrected = [], []
    for _ in range(100):  # independent columns of 6 and 3 categories
        a, b = rng.integers(6, size=90).tolist(), rng.integers(3, size=90).tolist()
        table = np.zeros((6, 3), dtype=int)
        np.add.at(table, (a, b), 1)
        plain.append(stats.contingency.association(table[table.any(axis=1)], method="cramer"))
        corrected.append(cramers_v(a, b).value)
    assert np.mean(plain) > 0.2 and np.mean(corrected) < 0.1


def test_cramers_v_by_hand():
    # n = 100, phi2 = 0.36; corrected 0.36 - 1/99, each side 2 - 1/99
    one, two = ["a"] * 50 + ["b"] * 50, ["x"] * 40 + ["y"] * 10 + ["x"] * 10 + ["y"] * 40
    assert cramers_v(one, two).value == pytest.approx(math.sqrt((0.36 - 1 / 99) / (1 - 1 / 99)))
    assert independence(one, two) == pytest.approx(stats.chi2.sf(36, 1))
    assert "single category" in cramers_v(one, ["x"] * 100).reason
    assert independence(one, ["x"] * 100) == 1.0


def test_macro_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    one, two = rng.integers(3, size=200).tolist(), rng.integers(3, size=200).tolist()
    found = macro_f1(one, two)
    assert found.value == pytest.approx(f1_score(one, two, average="macro"))
    assert found.low < 1 / 3 < found.high
    assert macro_f1(one, two).value == pytest.approx(macro_f1(two, one).value)
