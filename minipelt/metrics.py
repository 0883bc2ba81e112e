"""The metrics of GLUE, in numpy. Each takes predictions and labels of shape (n,) and returns a float.

Classes are numbers; class 1 is the positive one. A score that is undefined (0 / 0) is 0.
"""

import numpy as np


def accuracy(predictions, labels):
    """Share of predictions that equal their label."""
    return float(np.mean(np.asarray(predictions) == np.asarray(labels)))


def f1(predictions, labels):
    """Harmonic mean of precision and recall of class 1: 2 TP / (2 TP + FP + FN)."""
    tp, fp, fn, _ = confusion(predictions, labels)
    return ratio(2 * tp, 2 * tp + fp + fn)


def macro_f1(predictions, labels):
    """The mean of every class's F1, over the classes that occur on either side."""
    p, y = np.asarray(predictions), np.asarray(labels)
    return float(np.mean([f1(p == c, y == c) for c in np.union1d(p, y)]))


def matthews(predictions, labels):
    """Matthews correlation:

    (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)); 0 if all predictions are one class.
    """
    tp, fp, fn, tn = confusion(predictions, labels)
    return correlation(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def pearson(predictions, labels):
    """Pearson correlation; 0 if either side is constant."""
    x, y = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # rounding would leave a tiny spread around the mean
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return correlation((x * y).sum(), np.sqrt((x * x).sum() * (y * y).sum()))


def spearman(predictions, labels):
    """Spearman correlation: Pearson of the ranks, ties sharing their mean rank."""
    return pearson(ranks(predictions), ranks(labels))


def confusion(predictions, labels):
    """True positives, false positives, false negatives, true negatives, as floats."""
    p, y = np.asarray(predictions) == 1, np.asarray(labels) == 1
    return tuple(float(np.sum(cell)) for cell in (p & y, p & ~y, ~p & y, ~p & ~y))


def ranks(values):
    """Rank of each value, from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # rank of the last of each run of equal values
    return (last - (counts - 1) / 2)[inverse]


def correlation(covariance, spread):
    """Their quotient, from -1 to 1: rounding would lead past the ends."""
    return float(np.clip(ratio(covariance, spread), -1, 1))  # what is no number stays none


def ratio(numerator, denominator):
    """Their quotient, or 0 where the denominator is 0."""
    return float(numerator / denominator) if denominator else 0.0
