"""dora.py against its equation."""

import copy

import pytest
import torch
from helpers import disturb

from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.checkpoint import load_trained, save_tensors, trained_tensors
from minipelt.methods.dora import DoRA
from minipelt.settings import Method
from minipelt.tools.merge import merge
from minipelt.unipelt import attach, count_parameters, detach


def make_dora(weight):
    """A DoRA of rank 2 away from its start."""
    dora = DoRA(weight, rank=2, alpha=16)
    with torch.no_grad():
        for parameter in dora.parameters():
            parameter.add_(torch.randn_like(parameter))
    return dora


def test_the_equation_row_by_row():
    weight = torch.randn(6, 5)
    dora = make_dora(weight)
    W = dora(weight)
    for i in range(6):
        v = weight[i] + 16 / 2 * dora.B[i] @ dora.A  # (in)
        assert torch.allclose(W[i], dora.m[i] * v / v.square().sum().sqrt(), atol=1e-5)
        assert W[i].norm().item() == pytest.approx(abs(dora.m[i].item()), rel=1e-5)  # m is the row's length


def test_the_start_is_the_pretrained_matrix_to_the_bit():
    weight = torch.randn(6, 5)
    dora = DoRA(weight, rank=2, alpha=16)
    assert torch.equal(dora(weight), weight)
    assert dora.A.abs().min() > 0 and dora.B.abs().max() == 0 and dora.m.shape == (6, 1)


def test_the_length_counts_as_a_constant_in_the_backward_pass():
    """Section 4.3: dL/dV = (m / |V|) dL/dW, so the gradient of B is s (m / |V|) dL/dW A^T."""
    weight = torch.randn(6, 5)
    dora = make_dora(weight)
    upstream = torch.randn(6, 5)
    (dora(weight) * upstream).sum().backward()
    V = weight + dora.scale * dora.B @ dora.A
    to_V = dora.m / V.norm(dim=1, keepdim=True) * upstream
    assert torch.allclose(dora.B.grad, dora.scale * to_V @ dora.A.T, atol=1e-4)
    assert torch.allclose(dora.m.grad, (V / V.norm(dim=1, keepdim=True) * upstream).sum(dim=1, keepdim=True), atol=1e-5)


def test_it_rewrites_queries_and_values_alone(tiny, batch):
    plain = copy.deepcopy(tiny)
    model = disturb(attach(BertClassifier(tiny, 2), Method("dora", rank=4))).eval()
    for ours, theirs in zip(plain.encoder.layer, model.bert.encoder.layer, strict=True):
        ours.attention.self.query.weight.data.copy_(theirs.attention.self.query.weight)
        ours.attention.self.value.weight.data.copy_(theirs.attention.self.value.weight)
    assert torch.allclose(plain(*batch).pooled, model.bert(*batch).pooled, atol=1e-6)


def test_counts_on_bert_base():
    """A and B as LoRA's, and a length for each of D rows of query and value in 12 layers."""
    with torch.device("meta"):
        counts = count_parameters(attach(BertClassifier(BertModel(BertConfig()), 2), Method("dora")))
    assert counts["dora"] == 294_912 + 12 * 2 * 768


def test_saved_merged_and_taken_out_again(tiny, batch, tmp_path):
    before = tiny(*batch).pooled
    base = copy.deepcopy(tiny)
    model = disturb(attach(BertClassifier(tiny, 2), Method("dora", rank=4))).eval()
    expected = model(*batch)
    save_tensors(trained_tensors(model), tmp_path / "trained.safetensors")
    loaded = attach(BertClassifier(base, 2), Method("dora", rank=4)).eval()
    load_trained(loaded, tmp_path / "trained.safetensors")
    assert torch.equal(loaded(*batch), expected)
    merge(loaded)
    assert torch.allclose(loaded(*batch), expected, atol=1e-6)
    detach(model)
    assert torch.equal(model.bert(*batch).pooled, before)
