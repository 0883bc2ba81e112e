"""metrics.py on cases worked by hand, degenerate ones, and against plain definitions on random numbers."""

import numpy as np
import pytest
import torch

from minipelt.metrics import accuracy, f1, macro_f1, matthews, pearson, ranks, spearman

PREDICTIONS = [1, 1, 1, 0, 0, 0, 0, 1]
LABELS = [1, 1, 0, 0, 0, 1, 0, 1]  # TP 3, FP 1, FN 1, TN 3


def test_worked_by_hand():
    assert accuracy(PREDICTIONS, LABELS) == 6 / 8
    assert f1(PREDICTIONS, LABELS) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert matthews(PREDICTIONS, LABELS) == pytest.approx((3 * 3 - 1 * 1) / np.sqrt(4 * 4 * 4 * 4))
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert spearman([10, 200, 3000], [1, 3, 2]) == pytest.approx(0.5)


def test_class_1_is_the_positive_one():
    """TP 1, FP 2, FN 1, TN 3: another F1 for class 0."""
    predictions, labels = [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0]
    assert f1(predictions, labels) == pytest.approx(2 / 5)
    assert f1(1 - np.array(predictions), 1 - np.array(labels)) == pytest.approx(6 / 9)


def test_macro_f1_by_hand():
    assert macro_f1(PREDICTIONS, LABELS) == pytest.approx(0.75)
    assert macro_f1([0, 1, 2, 2], [0, 2, 2, 1]) == pytest.approx((1 + 0 + 0.5) / 3)
    assert macro_f1([0, 0, 0], [0, 0, 2]) == pytest.approx((0.8 + 0) / 2)


def test_macro_f1_is_over_the_classes_that_occur_on_either_side():
    """A class that neither side has does not count; one that only one side has counts as 0."""
    assert macro_f1([0, 0, 5, 5], [0, 0, 5, 5]) == 1
    assert macro_f1([0, 5], [0, 0]) == pytest.approx((2 / 3 + 0) / 2)  # 5 is in the predictions alone
    assert macro_f1([0, 0], [0, 5]) == pytest.approx((2 / 3 + 0) / 2)  # and here in the labels alone
    assert macro_f1([3, 3], [3, 3]) == 1
    assert macro_f1([0, 1, 2], [1, 2, 0]) == 0


def test_ties_share_their_mean_rank():
    assert ranks([5, 1, 5, 7]).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(np.sqrt(3) / 2)  # ranks 1.5 1.5 3 and 1 2 3


def test_perfect_and_opposite():
    x = torch.randn(50).double().numpy()
    labels = (x > 0).astype(int)
    assert f1(labels, labels) == matthews(labels, labels) == accuracy(labels, labels) == 1
    assert matthews(1 - labels, labels) == pytest.approx(-1)
    assert spearman(np.exp(x), x) == pytest.approx(1)
    assert spearman(-x, x) == pytest.approx(-1)
    assert pearson(np.exp(3 * x), x) < 0.95  # ranks alone see a straight line there


def test_constant_predictions():
    assert matthews([1, 1, 1], [0, 1, 1]) == 0
    assert matthews([0, 0, 0], [0, 1, 1]) == 0
    assert f1([0, 0, 0], [0, 1, 1]) == 0
    assert f1([0, 0], [0, 0]) == 0
    assert pearson([0.1] * 7, np.arange(7)) == 0
    assert spearman([0.1] * 7, np.arange(7)) == 0
    assert spearman(np.arange(3), [2, 2, 2]) == 0


def test_rounding_does_not_lead_past_one():
    """Two rows lie on a line, so Pearson is 1 or -1; unclipped, one pair in a hundred has 1.0000000000000002."""
    for pair in np.random.default_rng(0).normal(size=(1000, 2, 2)):
        assert abs(pearson(*pair)) <= 1 and abs(abs(pearson(*pair)) - 1) < 1e-12
    assert np.isnan(pearson([np.nan, 1, 2], [1, 2, 3])), "what is no number stays none"


def test_large_counts_do_not_overflow():
    labels = np.arange(400_000) % 2
    assert matthews(labels, labels) == pytest.approx(1)


def test_against_numpy_on_random_numbers():
    x, y = torch.randn(2, 200).double().numpy()
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1])
    p, y = torch.randint(0, 2, (2, 200)).numpy()
    assert matthews(p, y) == pytest.approx(np.corrcoef(p, y)[0, 1])  # Matthews is Pearson of two 0/1 variables
    precision, recall = (p & y).sum() / p.sum(), (p & y).sum() / y.sum()
    assert f1(p, y) == pytest.approx(2 * precision * recall / (precision + recall))


def test_every_metric_gives_a_plain_float():
    """Records are written as JSON, which numpy's own kinds of number do not go into."""
    for metric in (accuracy, f1, macro_f1, matthews, pearson, spearman):
        assert type(metric(np.array(PREDICTIONS), np.array(LABELS))) is float
