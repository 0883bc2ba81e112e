"""loop.py: schedule, loss, early stopping, learning, what the seed fixes, and resuming to the bit."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers import TINY, tiny_bert

from minipelt.batches import Rows, collate, training_batches
from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.experiment import check_finite
from minipelt.loop import loss_function, make_optimizer, predict, set_learning_rate, train
from minipelt.settings import Method, Recipe
from minipelt.unipelt import attach, trained_parameters

SMALL = Method("apl", bottleneck=8, prefix_length=4, prefix_hidden=8, rank=4)
NO_DROPOUT = replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def toy_rows(n=48):
    """Rows whose class is whether token 7 occurs: learnable."""
    lengths = torch.randint(4, 9, (n,)).tolist()
    ids = [torch.randint(8, 60, (length,)).tolist() for length in lengths]
    labels = torch.arange(n) % 2
    for row, label in zip(ids, labels, strict=True):
        if label:
            row[1] = 7
    return Rows(ids, [[0] * len(row) for row in ids], labels)


def equal_rows(n):
    """n rows that are all the same: their order cannot matter."""
    return Rows([[2, 10, 11, 12, 3]] * n, [[0] * 5] * n, torch.zeros(n, dtype=torch.long))


def random_head(bert):
    """A classifier of two classes that trains its head alone; a large head, so that rows differ in their loss."""
    model = attach(BertClassifier(bert, 2), Method("head"))
    torch.nn.init.normal_(model.classifier.weight)
    return model


def run(model, rows, recipe, validate=lambda model: 0.0, reports=()):
    """Train to the end, with a fresh optimizer. Returns the new reports."""
    return list(train(model, rows, recipe, validate, make_optimizer(model, recipe), reports))


def losses(reports):
    """The losses of all epochs."""
    return [report["loss"] for report in reports]


def same_parameters(model, twin):
    """Whether two models have trained to the same numbers, to the bit."""
    others = trained_parameters(twin)
    return all(torch.equal(parameter, others[name]) for name, parameter in trained_parameters(model).items())


@pytest.fixture
def model(tiny):
    """The tiny encoder with a small APL."""
    return attach(BertClassifier(tiny, 2), SMALL)


def accuracy(rows):
    """A function that scores a model on rows."""
    return lambda model: (predict(model, rows).argmax(-1) == rows.labels).float().mean().item()


# ---- loss and optimizer


def test_losses():
    logits = torch.randn(4, 3)
    expected = -torch.stack([logits[i].softmax(-1)[c].log() for i, c in enumerate((2, 0, 1, 1))]).mean()
    assert torch.allclose(loss_function(logits, torch.tensor([2, 0, 1, 1])), expected)
    found = loss_function(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0]))
    assert torch.allclose(found, torch.tensor((1 + 4) / 2))


def test_schedule_rises_and_falls_in_lines(model):
    recipe = Recipe(0.1, warmup=0.2)
    optimizer = make_optimizer(model, recipe)
    rates = []
    for step in range(10):
        set_learning_rate(optimizer, recipe, step, 10)
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == rates[-1]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.0875, 0.075, 0.0625, 0.05, 0.0375, 0.025, 0.0125])


@pytest.mark.parametrize("warmup, total", [(0.06, 350), (0.06, 21), (0.0, 5), (0.5, 8), (1.0, 4)])
def test_schedule_is_its_formula(model, warmup, total):
    """Up from 1 / w of the peak to the peak in w steps, then down by equal steps; 0 would come after the last one."""
    recipe = Recipe(3e-3, warmup=warmup)
    optimizer = make_optimizer(model, recipe)
    w = max(1, round(warmup * total))
    for step in range(total):
        set_learning_rate(optimizer, recipe, step, total)
        share = (step + 1) / w if step < w else (total - step) / (total - w)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-3 * share), step


def test_every_step_of_a_run_has_the_rate_of_the_schedule(model):
    """20 rows in batches of 8 are 3 steps an epoch, 12 in all; the schedule knows the epochs that are still to come."""
    recipe = Recipe(1e-3, epochs=4, batch_size=8, warmup=0.25)
    optimizer = make_optimizer(model, recipe)
    rates = []
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    reports = list(train(model, toy_rows(20), recipe, lambda model: 0.0, optimizer))
    assert len(reports) == 4
    expected = [1 / 3, 2 / 3, 1, *((12 - step) / 9 for step in range(3, 12))]
    assert rates == pytest.approx([1e-3 * rate for rate in expected])


def test_only_matrices_decay(model):
    decayed, kept = make_optimizer(model, Recipe(0.1)).param_groups
    assert decayed["weight_decay"] == 0.01
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert kept["weight_decay"] == 0
    assert all(p.ndim < 2 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(trained_parameters(model))


def test_gradients_are_clipped(model):
    recipe = Recipe(1e-3, epochs=2, clip=0.01)
    optimizer = make_optimizer(model, recipe)
    norms = []

    def remember_norm(optimizer, *_):
        squares = [p.grad.square().sum() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack(squares).sum().sqrt().item())

    optimizer.register_step_pre_hook(remember_norm)
    assert len(list(train(model, toy_rows(16), recipe, lambda model: 0.0, optimizer))) == 2
    assert len(norms) == 2
    assert max(norms) <= 0.01 * 1.001
    assert min(norms) >= 0.01 * 0.99


# ---- training


def test_predictions_come_in_the_order_of_the_rows(model):
    rows = toy_rows(20)
    logits = predict(model, rows)
    assert logits.shape == (20, 2)
    for i in (0, 7, 19):
        with torch.no_grad():
            alone = model(torch.tensor([rows.input_ids[i]]))
        assert torch.allclose(logits[i], alone[0], atol=1e-5)


def test_prediction_is_without_dropout_and_leaves_no_gradient(model):
    rows = toy_rows(20)
    model.train()
    assert torch.equal(predict(model, rows), predict(model, rows))
    assert not model.training
    assert not predict(model, rows).requires_grad


@pytest.mark.slow
def test_it_learns(model):
    rows = toy_rows()
    reports = run(model, rows, Recipe(1e-2, epochs=20, patience=20), accuracy(rows))
    assert reports[-1]["loss"] < 0.5 * reports[0]["loss"]
    assert reports[-1]["best_score"] > 0.9


def test_training_is_the_loop_written_out():
    """All rows in one batch, without dropout: a forward and a backward pass, clipping, a step of AdamW an epoch."""
    rows, recipe = toy_rows(12), Recipe(1e-2, epochs=4, warmup=0.5, clip=0.1)
    model = attach(BertClassifier(tiny_bert(NO_DROPOUT), 2), SMALL)
    twin = copy.deepcopy(model)
    reports = run(model, rows, recipe)

    parameters = list(trained_parameters(twin).values())
    optimizer = torch.optim.AdamW([
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ])
    inputs, labels = collate(rows, range(12))
    for share, report in zip((0.5, 1.0, 1.0, 0.5), reports, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * share
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin.train()(*inputs), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        assert report["loss"] == pytest.approx(loss.item(), abs=1e-4)
    found = trained_parameters(model)
    for name, parameter in trained_parameters(twin).items():
        if not name.endswith("key.bias"):
            assert torch.allclose(found[name], parameter, atol=1e-3), name


def test_the_model_trains_in_training_mode_whatever_validation_leaves(model):
    """Dropout is on in every epoch, though `predict` turns it off in between."""
    modes = []
    model.register_forward_pre_hook(lambda model, inputs: modes.append(model.training))
    rows = toy_rows(16)
    run(model, rows, Recipe(1e-3, epochs=2), accuracy(rows))
    assert modes == [True, False, True, False]


def test_early_stopping_keeps_the_first_best_and_its_patience(model):
    scores = iter([0.1, 0.5, 0.5, 0.4, 0.5, 0.9])
    reports = run(model, toy_rows(16), Recipe(1e-3, patience=3), lambda _: next(scores))
    assert [report["score"] for report in reports] == [0.1, 0.5, 0.5, 0.4, 0.5]
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5]
    assert [report["best_epoch"] for report in reports] == [1, 2, 2, 2, 2]
    assert reports[-1]["best_score"] == 0.5


def test_the_first_epoch_is_best_even_if_its_score_is_0_or_less(model):
    scores = iter([-0.5, -0.7, -0.6])
    reports = run(model, toy_rows(16), Recipe(1e-3, epochs=3), lambda _: next(scores))
    assert [report["best_epoch"] for report in reports] == [1, 1, 1]


@pytest.mark.parametrize("n", [5, 9, 12])
def test_the_loss_of_an_epoch_is_the_mean_over_rows_and_not_over_batches(n):
    """Batches of 4: of 5 rows the last batch has a single one. The model stands still, so the loss can be known."""
    model = random_head(tiny_bert(NO_DROPOUT))
    rows = toy_rows(n)
    expected = loss_function(predict(model, rows), rows.labels).item()
    (report,) = run(model, rows, Recipe(1e-30, epochs=1, batch_size=4))
    assert report["loss"] == pytest.approx(expected, rel=1e-5)
    logits = predict(model, rows)
    means = [loss_function(logits[batch], rows.labels[batch]).item() for batch in training_batches(rows, 4, 1001)]
    if n % 4:
        assert abs(sum(means) / len(means) - expected) > 1e-5  # the other mean is another number


def test_a_loss_that_is_no_number_is_said(model):
    """The loop reports it, and whoever calls the loop ends the run with this."""
    recipe = Recipe(1e30, epochs=3, warmup=0.0)
    with pytest.raises(InputError, match="the loss is nan .* learning rate below"):
        for report in train(model, toy_rows(), recipe, lambda model: 0.0, make_optimizer(model, recipe)):
            check_finite(report, recipe)


def test_answers_that_are_no_numbers_are_said_too():
    """Weights can be lost in an epoch's last step, behind its last finite loss."""
    report = {"epoch": 2, "loss": 0.7, "score": -math.inf, "best_score": 0.8, "best_epoch": 1}
    expected = "the model's answers are no numbers after epoch 2; a learning rate below 0.1 may help; epoch 1, the best"
    with pytest.raises(InputError, match=expected):
        check_finite(report, Recipe(0.1))


# ---- what the seed fixes


def test_same_seed_same_numbers(model):
    rows, twin, recipe = toy_rows(24), copy.deepcopy(model), Recipe(1e-3, epochs=2)
    first = run(model, rows, recipe, accuracy(rows))
    torch.randn(100)  # whatever else drew random numbers meanwhile
    second = run(twin, rows, recipe, accuracy(rows))
    assert losses(first) == losses(second)
    assert same_parameters(model, twin)


def test_the_seed_chooses_the_order_of_the_batches():
    """Without dropout nothing but the order is left to chance, and it makes another run."""
    model, rows = attach(BertClassifier(tiny_bert(NO_DROPOUT), 2), SMALL), toy_rows(24)
    twins = [copy.deepcopy(model) for _ in range(3)]
    found = []
    for twin, seed in zip(twins, (1, 1, 2), strict=True):
        found.append(losses(run(twin, rows, Recipe(1e-2, epochs=2, seed=seed, batch_size=8))))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_the_seed_chooses_the_dropout(tiny):
    """With rows that are all the same nothing but dropout is left to chance."""
    model, rows = random_head(tiny), equal_rows(8)
    found = []
    for seed in (1, 1, 2):
        found.append(losses(run(copy.deepcopy(model), rows, Recipe(1e-30, epochs=1, seed=seed))))
    assert found[0] == found[1]
    assert abs(found[0][0] - found[2][0]) > 1e-5


def test_each_epoch_has_a_dropout_of_its_own(tiny):
    found = losses(run(random_head(tiny), equal_rows(8), Recipe(1e-30, epochs=3)))
    assert min(abs(x - y) for x, y in itertools.combinations(found, 2)) > 1e-6


def test_each_epoch_has_an_order_of_its_own(model):
    seen = []
    model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0].tolist()))
    run(model, toy_rows(32), Recipe(1e-3, epochs=2, batch_size=8))
    first, second = seen[:4], seen[4:]
    assert len(second) == 4
    assert first != second


def test_a_step_sees_every_row_once_an_epoch(model):
    rows = Rows([[2, number, 3] for number in range(10, 47)], [[0] * 3] * 37, torch.arange(37) % 2)
    seen = []
    model.register_forward_pre_hook(lambda model, inputs: seen.extend(inputs[0][:, 1].tolist()))
    run(model, rows, Recipe(1e-3, epochs=2, batch_size=8))
    assert sorted(seen[:37]) == sorted(seen[37:]) == list(range(10, 47))


# ---- going on


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(model, stop):
    rows, twin, recipe = toy_rows(24), copy.deepcopy(model), Recipe(1e-3, epochs=5)
    whole = run(model, rows, recipe, accuracy(rows))
    optimizer = make_optimizer(twin, recipe)
    reports = []
    for report in train(twin, rows, recipe, accuracy(rows), optimizer):
        reports.append(report)
        if report["epoch"] == stop:
            break
    torch.randn(100)
    reports += train(twin, rows, recipe, accuracy(rows), optimizer, tuple(reports))
    assert [(r["loss"], r["score"]) for r in reports] == [(r["loss"], r["score"]) for r in whole]
    assert [r["best_epoch"] for r in reports] == [r["best_epoch"] for r in whole]
    assert same_parameters(model, twin)


def test_a_run_that_had_run_out_of_patience_does_not_go_on(model):
    recipe = Recipe(1e-3, patience=2)
    done = [{"epoch": n, "loss": 0.5, "score": 1.0 / n, "best_score": 1.0, "best_epoch": 1} for n in (1, 2, 3)]
    assert run(model, toy_rows(16), recipe, reports=done) == []
    (report,) = run(model, toy_rows(16), recipe, lambda _: 0.9, reports=done[:2])
    assert (report["epoch"], report["best_epoch"], report["best_score"]) == (3, 1, 1.0)


def test_a_better_score_gives_new_patience(model):
    scores = iter([0.1, 0.05, 0.2, 0.1, 0.1, 0.3, 0.9])
    reports = run(model, toy_rows(16), Recipe(1e-3, patience=2), lambda _: next(scores))
    assert len(reports) == 5
    assert math.isclose(reports[-1]["best_score"], 0.2)
