"""methods/lora.py against its equation, and merging."""

import copy

import pytest
import torch
from helpers import randomise

from minipelt.bert import BertClassifier
from minipelt.gate import Gate
from minipelt.methods.lora import LoRA, merge
from minipelt.settings import Method
from minipelt.unipelt import attach

MASK = torch.ones(2, 7, dtype=torch.bool)


def test_shapes_and_parameter_count():
    lora = LoRA(32, rank=3, alpha=6)
    assert lora.A.weight.shape == (3, 32)
    assert lora.B.weight.shape == (32, 3)
    assert lora(torch.randn(2, 7, 32), MASK).shape == (2, 7, 32)
    assert sum(p.numel() for p in lora.parameters()) == 2 * 3 * 32


def test_equation_alone_and_gated():
    h = torch.randn(2, 7, 32)
    gate = Gate(32)
    lora = randomise(LoRA(32, rank=3, alpha=6))
    BA = lora.B.weight @ lora.A.weight
    assert torch.allclose(lora(h, MASK), 6 / 3 * h @ BA.T, atol=1e-3)
    lora.gate = gate  # in UniPELT the gate takes the place of alpha / r
    assert torch.allclose(lora(h, MASK), gate(h, MASK) * (h @ BA.T), atol=1e-3)


def test_queries_and_values_get_a_delta_of_their_own_and_keys_none(tiny, batch):
    """The attention of the first layer, with its projections read from the outside."""
    attach(BertClassifier(tiny, 2), Method("lora", rank=3, alpha=6.0)).eval()
    attention = tiny.encoder.layer[0].attention.self
    randomise(attention.lora_query)
    randomise(attention.lora_value)
    h = tiny.embeddings(batch[0], batch[2])
    mask = batch[1].bool()
    expected = attention(h, mask)
    with torch.no_grad():
        for lora, linear in ((attention.lora_query, attention.query), (attention.lora_value, attention.value)):
            linear.weight += 2 * lora.B.weight @ lora.A.weight
    attention.lora_query = attention.lora_value = None
    assert torch.allclose(attention(h, mask), expected, atol=1e-3)


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
        torch.nn.init.normal_(layer.attention.self.lora_query.B.weight, std=0.1)
        torch.nn.init.normal_(layer.attention.self.lora_value.B.weight, std=0.1)
    before = model(*batch)
    unmerged = copy.deepcopy(tiny)
    merge(tiny)
    assert torch.allclose(model(*batch), before, atol=1e-5)
    assert not any("lora" in name for name, _ in tiny.named_parameters())
    for name, changed in (("query", True), ("key", False), ("value", True)):
        old = unmerged.encoder.layer[0].attention.self.get_submodule(name).weight
        new = tiny.encoder.layer[0].attention.self.get_submodule(name).weight
        assert torch.equal(old, new) != changed


def test_merged_minilm_gives_the_same_output(minilm):
    bert, tokenizer = minilm
    model = attach(BertClassifier(bert, 2), Method("lora")).eval()
    for layer in bert.encoder.layer:
        torch.nn.init.normal_(layer.attention.self.lora_value.B.weight, std=0.02)
    ids = torch.tensor([tokenizer.encode("A short sentence to compare before and after .").ids])
    with torch.no_grad():
        before = model(ids)
        merge(bert)
        assert torch.allclose(model(ids), before, atol=1e-5)


def test_a_gated_lora_cannot_be_merged(tiny):
    attach(BertClassifier(tiny, 2), Method("pl"))
    before = copy.deepcopy(tiny.state_dict())
    with pytest.raises(ValueError, match="gated"):
        merge(tiny)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
