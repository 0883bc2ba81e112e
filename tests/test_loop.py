"""loop.py: schedule, loss, early stopping, learning, and resuming to the bit."""

import copy
import math

import pytest
import torch

from minipelt import InputError
from minipelt.batches import Rows
from minipelt.bert import BertClassifier
from minipelt.loop import Recipe, loss_function, make_optimizer, predict, train
from minipelt.unipelt import Method, attach, trained_parameters


def toy_rows(n=48):
    """Rows whose class is whether token 7 occurs: learnable."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(8, 60, (int(torch.randint(4, 9, (1,), generator=generator)),), generator=generator).tolist() for _ in range(n)]
    labels = torch.arange(n) % 2
    for row, label in zip(ids, labels):
        if label: row[1] = 7
    return Rows(ids, [[0] * len(row) for row in ids], labels)


@pytest.fixture
def model(tiny):
    torch.manual_seed(3)
    return attach(BertClassifier(tiny, 2), Method("apl", bottleneck=8, prefix_length=4, prefix_hidden=8, rank=4))


def accuracy(rows):
    return lambda model: (predict(model, rows).argmax(-1) == rows.labels).float().mean().item()


def test_losses():
    logits = torch.randn(4, 3)
    expected = -torch.stack([logits[i].softmax(-1)[c].log() for i, c in enumerate((2, 0, 1, 1))]).mean()
    assert torch.allclose(loss_function(logits, torch.tensor([2, 0, 1, 1])), expected)
    assert torch.allclose(loss_function(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0])), torch.tensor((1 + 4) / 2))


def test_schedule_rises_and_falls_in_lines(model):
    optimizer, schedule = make_optimizer(model, Recipe(0.1, warmup=0.2), total_steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.0875, 0.075, 0.0625, 0.05, 0.0375, 0.025, 0.0125])


def test_only_matrices_decay(model):
    optimizer, _ = make_optimizer(model, Recipe(0.1), 10)
    decayed, kept = optimizer.param_groups
    assert decayed["weight_decay"] == 0.01 and all(p.ndim >= 2 for p in decayed["params"])
    assert kept["weight_decay"] == 0 and all(p.ndim < 2 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(trained_parameters(model))


def test_predictions_come_in_the_order_of_the_rows(model):
    rows = toy_rows(20)
    logits = predict(model, rows)
    assert logits.shape == (20, 2)
    for i in (0, 7, 19):
        with torch.no_grad(): alone = model(torch.tensor([rows.input_ids[i]]))
        assert torch.allclose(logits[i], alone[0], atol=1e-5)


def test_it_learns(model):
    rows = toy_rows()
    reports = train(model, rows, Recipe(5e-3, epochs=25, patience=25), accuracy(rows))
    assert reports[-1]["loss"] < 0.5 * reports[0]["loss"] and reports[-1]["best_score"] > 0.9


def test_early_stopping_keeps_the_first_best_and_its_patience(model):
    scores = iter([0.1, 0.5, 0.5, 0.4, 0.5, 0.9])
    reports = train(model, toy_rows(16), Recipe(1e-3, patience=3), lambda _: next(scores))
    assert [report["score"] for report in reports] == [0.1, 0.5, 0.5, 0.4, 0.5]
    assert reports[-1]["best_epoch"] == 2 and reports[-1]["best_score"] == 0.5


def test_same_seed_same_numbers(model):
    rows, twin = toy_rows(), copy.deepcopy(model)
    first = train(model, rows, Recipe(1e-3, epochs=2), accuracy(rows))
    torch.randn(100)  # whatever else drew random numbers meanwhile
    second = train(twin, rows, Recipe(1e-3, epochs=2), accuracy(rows))
    assert [report["loss"] for report in first] == [report["loss"] for report in second]
    for name, parameter in trained_parameters(model).items(): assert torch.equal(parameter, trained_parameters(twin)[name]), name


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(model, stop):
    rows, twin, recipe = toy_rows(), copy.deepcopy(model), Recipe(1e-3, epochs=5)
    whole = train(model, rows, recipe, accuracy(rows))

    class Stop(Exception): pass
    state = None

    def on_epoch(report, snapshot):
        nonlocal state
        if report["epoch"] == stop:
            tensors, reports = snapshot()
            state = {name: tensor.clone() for name, tensor in tensors.items()}, reports
            raise Stop

    fresh = copy.deepcopy(twin)
    with pytest.raises(Stop): train(twin, rows, recipe, accuracy(rows), on_epoch=on_epoch)
    resumed = train(fresh, rows, recipe, accuracy(rows), state)
    assert [(r["loss"], r["score"]) for r in resumed] == [(r["loss"], r["score"]) for r in whole]
    for name, parameter in trained_parameters(model).items(): assert torch.equal(parameter, trained_parameters(fresh)[name]), name


def test_gradients_are_clipped(model, monkeypatch):
    norms = []
    real = torch.optim.AdamW.step

    def step(optimizer, *args):
        norms.append(math.sqrt(sum(p.grad.square().sum().item() for group in optimizer.param_groups for p in group["params"] if p.grad is not None)))
        return real(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(model, toy_rows(16), Recipe(1e-3, epochs=2, clip=0.01), lambda _: 0.0)
    assert max(norms) <= 0.01 * 1.001


def test_a_loss_that_is_no_number_is_said(model):
    with pytest.raises(InputError, match="the loss is nan .* learning rate below"): train(model, toy_rows(), Recipe(1e30, epochs=5, warmup=0), lambda _: 0.0)
