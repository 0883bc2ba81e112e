"""methods/houlsby.py: the equation, the start, and where the two adapters of a layer sit."""

import torch
from helpers import TINY, randomise

from minipelt.bert import BertClassifier, BertOutput
from minipelt.methods.houlsby import HoulsbyAdapter
from minipelt.settings import Method
from minipelt.unipelt import attach


def test_equation_and_start():
    adapter = HoulsbyAdapter(32, 4)
    x = torch.randn(2, 5, 32)
    mask = torch.ones(2, 5, dtype=torch.bool)
    down, up = adapter.down, adapter.up
    expected = torch.nn.functional.gelu(x @ down.weight.T + down.bias) @ up.weight.T + up.bias
    assert torch.allclose(adapter(x, mask), expected, atol=1e-6)
    for weight in (down.weight, up.weight):  # sigma 0.01, cut at 2 sigma
        assert 0 < weight.abs().max() <= 0.02
        assert 0.004 < weight.std() < 0.014
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 4 * 32 + 32 + 4


def test_the_start_by_its_numbers():
    adapter = HoulsbyAdapter(768, 256)
    for weight in (adapter.down.weight.detach(), adapter.up.weight.detach()):
        assert 0.0086 < weight.std() < 0.009  # N(0, 0.01) cut at 2 sigma has a deviation of 0.0088
        assert 0.0199 < weight.abs().max() <= 0.02
    assert not adapter.down.bias.any()
    assert not adapter.up.bias.any()


def test_the_activation_is_gelu_and_not_relu():
    adapter = randomise(HoulsbyAdapter(32, 4))
    torch.nn.init.constant_(adapter.down.weight, 0.0)
    torch.nn.init.constant_(adapter.down.bias, -1.0)
    delta = adapter(torch.zeros(1, 1, 32), torch.ones(1, 1, dtype=torch.bool))[0, 0]
    assert torch.allclose(delta, -0.15865525 * adapter.up.weight.sum(dim=1) + adapter.up.bias, atol=1e-5)


def test_adapters_sit_before_residual_and_layernorm(tiny, batch):
    """The layer's output by hand, from its pieces."""
    attach(BertClassifier(tiny, 2), Method("houlsby", bottleneck=4)).eval()
    layer = tiny.encoder.layer[0]
    randomise(layer.attention.output.adapter)
    randomise(layer.output.adapter)
    ids, mask, types = batch
    h = tiny.embeddings(ids, types)
    o = layer.attention.output.dense(layer.attention.self(h, mask.bool()))
    a = layer.attention.output.LayerNorm(o + layer.attention.output.adapter(o, mask) + h)
    f = layer.output.dense(layer.intermediate(a))
    expected = layer.output.LayerNorm(f + layer.output.adapter(f, mask) + a)
    assert torch.allclose(layer(h, mask.bool()), expected, atol=1e-5)


def test_it_stands_behind_dropout():
    """An adapter that gives 1 everywhere: dropout leaves zeros, which become 1, and never a 0 after it."""
    output = BertOutput(32, TINY).train()
    output.dropout.p = 0.5
    output.adapter = HoulsbyAdapter(32, 4)
    torch.nn.init.zeros_(output.adapter.up.weight)
    torch.nn.init.ones_(output.adapter.up.bias)
    x = output(torch.randn(2, 50, 32), torch.ones(2, 50, dtype=torch.bool))
    assert (x == 0).sum() == 0
    assert 0.45 < (x == 1).float().mean() < 0.55


def test_the_layernorms_train_too(tiny):
    model = attach(BertClassifier(tiny, 2), Method("houlsby", bottleneck=4))
    layer = model.bert.encoder.layer[0]
    for norm in (model.bert.embeddings.LayerNorm, layer.attention.output.LayerNorm, layer.output.LayerNorm):
        assert norm.weight.requires_grad
        assert norm.bias.requires_grad
    assert not layer.output.dense.weight.requires_grad
