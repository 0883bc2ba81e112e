"""progress.py: bars that count what passes by, and a stopwatch that tells training from validation."""

import time

import torch
from torch import nn

from minipelt import progress
from minipelt.progress import Stopwatch, scoring_bar, step_bar


def test_the_bar_of_a_training_moves_with_the_optimizer_s_steps(monkeypatch):
    monkeypatch.setattr(progress, "HIDE_BARS", False)  # as on a terminal
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with step_bar(optimizer, done=4, total=10) as bar:
        for _ in range(3):
            layer(torch.randn(1, 3)).sum().backward()
            optimizer.step()
        assert (bar.n, bar.total) == (7, 10)
    optimizer.step()  # after the block nobody counts
    assert bar.n == 7


def test_the_bar_of_a_scoring_moves_with_the_rows():
    layer = nn.Linear(3, 2)
    with scoring_bar(layer, range(5)):
        assert len(layer._forward_hooks) == 1
        layer(torch.randn(2, 3))
    assert not layer._forward_hooks


def test_the_stopwatch_tells_training_from_validation():
    stopwatch = Stopwatch()
    time.sleep(0.01)
    with stopwatch.pause():
        time.sleep(0.03)
    train_seconds, validation_seconds = stopwatch.lap()
    assert validation_seconds >= 0.03
    assert 0.01 <= train_seconds < validation_seconds + 5
    stopwatch.restart()
    assert stopwatch.lap()[1] == 0
