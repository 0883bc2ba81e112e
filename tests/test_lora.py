"""lora.py against its equation, and merging."""

import copy

import pytest
import torch

from minipelt.bert import BertClassifier
from minipelt.gate import Gate
from minipelt.lora import LoRA, merge
from minipelt.unipelt import Method, attach

from test_adapter import randomise

MASK = torch.ones(2, 7, dtype=torch.bool)


def test_shapes_and_parameter_count():
    lora = LoRA(32, rank=3, alpha=6)
    assert lora.A.weight.shape == (3, 32) and lora.B.weight.shape == (32, 3)
    assert lora(torch.randn(2, 7, 32), MASK).shape == (2, 7, 32)
    assert sum(p.numel() for p in lora.parameters()) == 2 * 3 * 32


def test_equation_alone_and_gated():
    h, gate = torch.randn(2, 7, 32), Gate(32)
    lora = randomise(LoRA(32, rank=3, alpha=6))
    BA = lora.B.weight @ lora.A.weight
    assert torch.allclose(lora(h, MASK), 6 / 3 * h @ BA.T, atol=1e-3)
    lora.gate = gate  # in UniPELT the gate takes the place of alpha / r
    assert torch.allclose(lora(h, MASK), gate(h, MASK) * (h @ BA.T), atol=1e-3)


def test_starts_as_the_identity_and_can_leave_it():
    lora = LoRA(32, rank=3, alpha=6)
    y = lora(torch.randn(2, 7, 32), MASK)
    assert torch.equal(y, torch.zeros_like(y))
    y.sum().backward()
    assert lora.B.weight.grad.abs().max() > 0
    bound = 1 / 32**0.5  # Kaiming-uniform with a = sqrt(5): U(-1 / sqrt(D), 1 / sqrt(D))
    assert 0.5 * bound < lora.A.weight.abs().max() <= bound


def test_merging_keeps_the_output(tiny, batch):
    model = attach(BertClassifier(tiny, 2), Method("lora", rank=3)).eval()
    for layer in tiny.encoder.layer:
        for lora in (layer.attention.self.lora_query, layer.attention.self.lora_value): torch.nn.init.normal_(lora.B.weight, std=0.1)
    before, unmerged = model(*batch), copy.deepcopy(tiny)
    merge(tiny)
    assert torch.allclose(model(*batch), before, atol=1e-5)
    assert not any("lora" in name for name, _ in tiny.named_parameters())
    for name, changed in (("query", True), ("key", False), ("value", True)):
        old, new = (bert.encoder.layer[0].attention.self.get_submodule(name).weight for bert in (unmerged, tiny))
        assert torch.equal(old, new) != changed


def test_merged_minilm_gives_the_same_output(minilm):
    bert, tokenizer = minilm
    model = attach(BertClassifier(bert, 2), Method("lora")).eval()
    for layer in bert.encoder.layer: torch.nn.init.normal_(layer.attention.self.lora_value.B.weight, std=0.02)
    ids = torch.tensor([tokenizer.encode("A short sentence to compare before and after .").ids])
    with torch.no_grad():
        before = model(ids)
        merge(bert)
        assert torch.allclose(model(ids), before, atol=1e-5)


def test_a_gated_lora_cannot_be_merged(tiny):
    attach(BertClassifier(tiny, 2), Method("pl"))
    with pytest.raises(ValueError, match="gated"): merge(tiny)
