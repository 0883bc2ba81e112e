"""metrics.py on cases worked by hand, degenerate ones, and against plain definitions on random numbers."""

import numpy as np
import pytest

from minipelt.metrics import accuracy, f1, macro_f1, matthews, pearson, ranks, spearman

PREDICTIONS = [1, 1, 1, 0, 0, 0, 0, 1]
LABELS = [1, 1, 0, 0, 0, 1, 0, 1]  # TP 3, FP 1, FN 1, TN 3


def test_worked_by_hand():
    assert accuracy(PREDICTIONS, LABELS) == 6 / 8
    assert f1(PREDICTIONS, LABELS) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert matthews(PREDICTIONS, LABELS) == pytest.approx((3 * 3 - 1 * 1) / np.sqrt(4 * 4 * 4 * 4))
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert spearman([10, 200, 3000], [1, 3, 2]) == pytest.approx(0.5)


def test_macro_f1_by_hand():
    assert macro_f1(PREDICTIONS, LABELS) == pytest.approx(0.75)
    assert macro_f1([0, 1, 2, 2], [0, 2, 2, 1]) == pytest.approx((1 + 0 + 0.5) / 3)
    assert macro_f1([0, 0, 0], [0, 0, 2]) == pytest.approx((0.8 + 0) / 2)


def test_ties_share_their_mean_rank():
    assert ranks([5, 1, 5, 7]).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(np.sqrt(3) / 2)  # ranks 1.5 1.5 3 and 1 2 3


def test_perfect_and_opposite():
    x = np.random.default_rng().normal(size=50)
    labels = (x > 0).astype(int)
    assert f1(labels, labels) == matthews(labels, labels) == accuracy(labels, labels) == 1
    assert matthews(1 - labels, labels) == pytest.approx(-1)
    assert spearman(np.exp(x), x) == pytest.approx(1) and spearman(-x, x) == pytest.approx(-1)


def test_constant_predictions():
    assert matthews([1, 1, 1], [0, 1, 1]) == 0
    assert matthews([0, 0, 0], [0, 1, 1]) == 0
    assert f1([0, 0, 0], [0, 1, 1]) == 0
    assert f1([0, 0], [0, 0]) == 0
    assert pearson([0.1] * 7, np.arange(7)) == 0
    assert spearman([0.1] * 7, np.arange(7)) == 0
    assert spearman(np.arange(3), [2, 2, 2]) == 0


def test_large_counts_do_not_overflow():
    labels = np.arange(400_000) % 2
    assert matthews(labels, labels) == pytest.approx(1)


def test_against_numpy_on_random_numbers():
    random = np.random.default_rng()
    x, y = random.normal(size=200), random.normal(size=200)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1])
    p, l = random.integers(0, 2, 200), random.integers(0, 2, 200)
    assert matthews(p, l) == pytest.approx(np.corrcoef(p, l)[0, 1])  # Matthews is Pearson of two 0/1 variables
    precision, recall = (p & l).sum() / p.sum(), (p & l).sum() / l.sum()
    assert f1(p, l) == pytest.approx(2 * precision * recall / (precision + recall))
