"""methods/diff.py: the mask, the penalty, pruning, settling, and what a run saves."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers import TINY, tiny_bert, tiny_run
from safetensors.torch import load_file

from minipelt.batches import Rows
from minipelt.bert import BertClassifier
from minipelt.checkpoint import load_trained, save_tensors, trained_tensors
from minipelt.experiment import new_folder, prepare, run_experiment
from minipelt.loop import loss_function, make_optimizer, predict, train
from minipelt.methods.diff import HIGH, LOW, SPEED, Diff
from minipelt.settings import Method, Recipe
from minipelt.unipelt import attach, trained_parameters

MATRIX = "bert.encoder.layer.0.intermediate.dense.parametrizations.weight.0"


def build(tiny, **settings):
    """The tiny model with diff pruning."""
    return attach(BertClassifier(tiny, 2), Method("diff", **settings))


def all_diffs(model):
    """Every difference in a model."""
    return [module for module in model.modules() if isinstance(module, Diff)]


def rows_of(batch):
    """The three rows of the fixture, without padding, as rows to train on."""
    input_ids, mask, types = batch
    lengths = mask.sum(dim=1).tolist()
    ids = [row[:length].tolist() for row, length in zip(input_ids, lengths, strict=True)]
    types = [row[:length].tolist() for row, length in zip(types, lengths, strict=True)]
    return Rows(ids, types, torch.tensor([0, 1, 0]))


# ---- one matrix


def test_the_start_is_the_pretrained_matrix():
    weight = torch.randn(6, 5)
    diff = Diff(weight, 0.2)
    assert torch.equal(diff(weight), weight)
    assert torch.equal(diff.eval()(weight), weight)


def test_the_mask_is_the_hard_concrete_distribution():
    diff = Diff(torch.zeros(200, 200), 0.1)
    for a in (-2.0, 0.0, 1.5):
        torch.nn.init.constant_(diff.a, a / SPEED)
        z = diff.mask(noisy=True)
        assert z.min() >= 0
        assert z.max() <= 1
        expected = 1 / (1 + math.exp(-(a - math.log(-LOW / HIGH))))
        assert (z > 0).float().mean().item() == pytest.approx(expected, abs=0.02)  # drawn, against P(z > 0)
        assert diff.expected_share().item() == pytest.approx(expected, abs=1e-5)
        without_noise = min(1, max(0, (HIGH - LOW) / (1 + math.exp(-a)) + LOW))
        assert diff.mask(noisy=False)[0, 0].item() == pytest.approx(without_noise, abs=1e-5)


def test_while_training_the_mask_is_noisy_and_scales_the_difference():
    weight = torch.randn(20, 10)
    diff = Diff(weight, 0.1)
    torch.nn.init.ones_(diff.delta)
    torch.nn.init.zeros_(diff.a)
    first, second = diff(weight) - weight, diff(weight) - weight
    assert not torch.equal(first, second)
    assert -1e-6 <= first.min() and first.max() <= 1 + 1e-6
    assert 0.3 < (first > 1e-6).float().mean() < 0.7


def test_pruning_keeps_the_largest_share():
    weight = torch.randn(20, 10)
    diff = Diff(weight, 0.1)
    torch.nn.init.normal_(diff.delta)
    difference = diff.eval()(weight) - weight
    assert (difference != 0).sum() == 20
    kept = diff.delta.abs().flatten().topk(20).indices
    assert torch.allclose(difference.flatten()[kept], diff.delta.flatten()[kept], atol=1e-6)
    diff.train()
    torch.nn.init.zeros_(diff.delta)
    assert torch.equal(diff.eval()(weight), weight)  # pruned anew after training went on


def test_settled_entries_train_alone():
    weight = torch.randn(20, 10)
    diff = Diff(weight, 0.1)
    torch.nn.init.normal_(diff.delta)
    kept = diff.prune() != 0
    diff.settle()
    assert torch.equal(diff(weight), weight + diff.prune())  # no noise left: training sees what will be saved
    assert kept.sum() == 20
    optimizer = torch.optim.AdamW(diff.parameters(), lr=1e-3)
    before = diff.prune()
    for _ in range(5):
        ((diff(weight) - 1) ** 2).sum().backward()
        assert (diff.a.grad == 0).all()
        assert ((diff.delta.grad != 0) == kept).all()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(diff.prune() != 0, kept)
    assert not torch.equal(diff.prune(), before)


# ---- what it asks of the loop


def test_every_matrix_of_every_layer_has_a_difference(tiny):
    model = build(tiny)
    assert len(all_diffs(model)) == 3 * 6  # query, key, value, the attention's output, the feed-forward block's two
    assert set(model.extra_loss.diffs) == set(all_diffs(model))


def test_the_penalty_is_the_share_of_all_entries(tiny):
    """Matrices count by their size: the mean is over all entries, not over matrices."""
    model = build(tiny)
    for diff in all_diffs(model):
        torch.nn.init.constant_(diff.a, -20 / SPEED)
    wide = model.bert.encoder.layer[0].intermediate.dense.parametrizations.weight[0]
    torch.nn.init.constant_(wide.a, 20 / SPEED)
    entries = 3 * (4 * 32 * 32 + 2 * 32 * 64)
    assert model.extra_loss(1, Recipe(1e-3)).item() == pytest.approx(32 * 64 / entries, abs=1e-5)


def test_the_penalty_lowers_the_mask(tiny):
    model = build(tiny)
    recipe = Recipe(1e-2)
    before = model.extra_loss(1, recipe).item()
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=1e-2)
    for _ in range(20):
        model.extra_loss(1, recipe).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before > 0.95
    assert model.extra_loss(1, recipe).item() < 0.1


def test_the_loop_adds_the_penalty_to_what_it_minimises_and_not_to_what_it_reports(batch):
    """A step without warm-up moves every `a` down by the learning rate, which the task's loss alone would not."""
    model = build(tiny_bert(replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)))
    rows = rows_of(batch)
    plain = loss_function(predict(model, rows), rows.labels).item()
    recipe = Recipe(1e-3, epochs=1, warmup=0.0)
    (report,) = train(model, rows, recipe, lambda model: 0.0, make_optimizer(model, recipe))
    for diff in all_diffs(model):
        assert torch.allclose(SPEED * diff.a, torch.tensor(5 - SPEED * 1e-3), atol=2e-3)
    assert report["loss"] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("epochs, patience, settling", [(1, 10, None), (2, 10, 2), (4, 10, 3), (6, 3, 2)])
def test_the_loop_settles_it_when_one_half_of_the_epochs_or_of_the_patience_is_over(
    tiny, batch, epochs, patience, settling
):
    model = build(tiny)
    rows = rows_of(batch)
    recipe = Recipe(1e-4, epochs=epochs, patience=patience)
    scores = iter(range(epochs))
    settled = {}
    for report in train(model, rows, recipe, lambda model: next(scores), make_optimizer(model, recipe)):
        settled[report["epoch"]] = all((SPEED * diff.a.detach()).abs().min() > 15 for diff in all_diffs(model))
    first = min((epoch for epoch, done in settled.items() if done), default=None)
    assert len(settled) == epochs
    assert first == settling
    assert all(done == (epoch >= first) for epoch, done in settled.items() if first)


def test_it_settles_once(tiny):
    model = build(tiny)
    recipe = Recipe(1e-3, epochs=4)
    model.extra_loss(3, recipe)
    for diff in all_diffs(model):
        torch.nn.init.normal_(diff.delta)
    before = [diff.delta.clone() for diff in all_diffs(model)]
    model.extra_loss(3, recipe)
    model.extra_loss(4, recipe)
    assert all(torch.equal(diff.delta, delta) for diff, delta in zip(all_diffs(model), before, strict=True))


# ---- runs


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"epochs": 1}, {"patience": 1, "epochs": 2}])
def test_short_runs_train_too(tiny_folder, tmp_path, change):
    run = tiny_run(tiny_folder, "sst2", "diff", k=30, valid_rows=20)
    run = replace(run, recipe=replace(run.recipe, **change))
    folder = new_folder(run, tmp_path)
    run_experiment(prepare(run), folder)
    values = load_file(folder / "trained.safetensors")[f"{MATRIX}.values"]
    assert (values != 0).all()


def test_what_is_saved_is_sparse_and_loads_to_the_same_output(tiny, batch, tmp_path):
    plain = copy.deepcopy(tiny)
    model = build(tiny, share=0.05).eval()
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.01 * torch.randn_like(parameter))
    expected = model(*batch)
    tensors = trained_tensors(model)
    all_entries = sum(p.numel() for p in plain.encoder.parameters())
    assert sum(t.numel() for t in tensors.values()) < 0.12 * all_entries  # a place and a value each
    path = tmp_path / "trained.safetensors"
    save_tensors(tensors, path)
    other = build(plain, share=0.05).eval()
    load_trained(other, path)
    assert torch.allclose(other(*batch), expected, atol=1e-6)
    assert not any(".delta" in name for name in trained_parameters(other))
    saved_again = trained_tensors(other)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in saved_again.items())


@pytest.mark.slow
def test_a_whole_run(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, "sst2", "diff", epochs=2, k=30, valid_rows=20)
    folder = new_folder(run, tmp_path)
    record = run_experiment(prepare(run), folder)
    places = load_file(folder / "trained.safetensors")[f"{MATRIX}.places"]
    assert len(places) == len(set(places.tolist())) == round(0.005 * 64 * 32)
    assert record["parameters"]["diff"] < 0.006 * record["parameters"]["diff network"]
    assert record["results"]["epochs"] == 2
