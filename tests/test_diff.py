"""diff.py: the coin, the penalty, pruning, and what a run saves."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from minipelt.bert import BertClassifier
from minipelt.checkpoint import load_trained, save_tensors, trained_tensors
from minipelt.diff import HIGH, LOW, SPEED, Diff
from minipelt.experiment import new_folder, prepare, run_experiment
from minipelt.unipelt import Method, attach, trained_parameters
from test_train import tiny_run


def test_the_start_is_the_pretrained_matrix():
    weight = torch.randn(6, 5)
    diff = Diff(weight, 0.2)
    assert torch.equal(diff(weight), weight) and torch.equal(diff.eval()(weight), weight)


def test_the_coin_is_the_hard_concrete_distribution():
    diff = Diff(torch.zeros(200, 200), 0.1)
    for a in (-2.0, 0.0, 1.5):
        torch.nn.init.constant_(diff.a, a / SPEED)
        z = diff.coin(noisy=True)
        assert z.min() >= 0 and z.max() <= 1
        expected = 1 / (1 + math.exp(-(a - math.log(-LOW / HIGH))))
        assert (z > 0).float().mean().item() == pytest.approx(expected, abs=0.02)  # drawn, against P(z > 0)
        assert diff.expected_share().item() == pytest.approx(expected, abs=1e-5)
        assert diff.coin(noisy=False)[0, 0].item() == pytest.approx(min(1, max(0, (HIGH - LOW) / (1 + math.exp(-a)) + LOW)), abs=1e-5)


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
    assert torch.equal(diff(weight), weight + diff.prune()) and kept.sum() == 20  # no noise left: training sees what will be saved
    optimizer = torch.optim.AdamW(diff.parameters(), lr=1e-3)
    before = diff.prune()
    for _ in range(5):
        ((diff(weight) - 1) ** 2).sum().backward()
        assert (diff.a.grad == 0).all() and ((diff.delta.grad != 0) == kept).all()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(diff.prune() != 0, kept) and not torch.equal(diff.prune(), before)


@pytest.mark.parametrize("change", [{"epochs": 1}, {"patience": 1, "epochs": 2}])
def test_short_runs_train_too(tiny_folder, tmp_path, change):
    run = tiny_run(tiny_folder, "sst2", "diff", k=30, valid_rows=20)
    run = replace(run, recipe=replace(run.recipe, **change))
    run_experiment(prepare(run), folder := new_folder(run, tmp_path))
    values = load_file(folder / "trained.safetensors")["bert.encoder.layer.0.intermediate.dense.parametrizations.weight.0.values"]
    assert (values != 0).all()


def test_the_penalty_lowers_the_coins(tiny):
    model = attach(BertClassifier(tiny, 2), Method("diff"))
    before = model.penalty().item()
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=1e-2)
    for _ in range(20):
        model.penalty().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before > 0.95 and model.penalty().item() < 0.1


def test_what_is_saved_is_sparse_and_loads_to_the_same_output(tiny, batch, tmp_path):
    import copy
    plain = copy.deepcopy(tiny)
    model = attach(BertClassifier(tiny, 2), Method("diff", share=0.05)).eval()
    with torch.no_grad():
        for parameter in trained_parameters(model).values(): parameter.add_(0.01 * torch.randn_like(parameter))
    expected = model(*batch)
    tensors = trained_tensors(model)
    assert sum(t.numel() for t in tensors.values()) < 0.12 * sum(p.numel() for p in plain.encoder.parameters())  # a place and a value each
    save_tensors(tensors, tmp_path / "trained.safetensors")
    other = attach(BertClassifier(plain, 2), Method("diff", share=0.05)).eval()
    load_trained(other, tmp_path / "trained.safetensors")
    assert torch.allclose(other(*batch), expected, atol=1e-6) and not any(".delta" in name for name in trained_parameters(other))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in trained_tensors(other).items())  # and saves as what it was loaded from


def test_a_whole_run(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, "sst2", "diff", epochs=2, k=30, valid_rows=20)
    record = run_experiment(prepare(run), folder := new_folder(run, tmp_path))
    places = load_file(folder / "trained.safetensors")["bert.encoder.layer.0.intermediate.dense.parametrizations.weight.0.places"]
    assert len(places) == len(set(places.tolist())) == round(0.005 * 64 * 32)
    assert record["parameters"]["diff"] < 0.006 * record["parameters"]["diff network"] and record["results"]["epochs"] == 2
