"""methods/adapter.py against its equation, and where the adapter sits."""

import torch
from helpers import TINY, randomise

from minipelt.bert import BertLayer
from minipelt.gate import Gate
from minipelt.methods.adapter import Adapter

MASK = torch.ones(2, 7, dtype=torch.bool)


def test_shapes_and_parameter_count():
    adapter = Adapter(32, 5)
    assert adapter(torch.randn(2, 7, 32), MASK).shape == (2, 7, 32)
    assert adapter.down.weight.shape == (5, 32)
    assert adapter.up.weight.shape == (32, 5)
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 5 * 32 + 32 + 5


def test_equation():
    adapter = randomise(Adapter(32, 5))
    x = torch.randn(2, 7, 32)
    inner = x @ adapter.down.weight.T + adapter.down.bias
    expected = inner.clamp(min=0) @ adapter.up.weight.T + adapter.up.bias
    assert torch.allclose(adapter(x, MASK), expected, atol=1e-4)


def test_gate_scales_each_example():
    plain = randomise(Adapter(32, 5))
    gated = Adapter(32, 5, randomise(Gate(32)))
    gated.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 7, 32)
    assert torch.allclose(gated(x, MASK), gated.gate(x, MASK) * plain(x, MASK))


def test_placement_in_the_layer():
    """Layer output = LayerNorm(adapter(h_FN) + f + a): its input is h_FN = LayerNorm(f + a), its residual is f."""
    layer = BertLayer(TINY).eval()
    h = torch.randn(2, 7, 32)
    h_FN = layer(h, MASK)
    layer.adapter = randomise(Adapter(32, 5))
    a = layer.attention(h, MASK)
    f = layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(a)))
    expected = layer.output.LayerNorm(layer.adapter(h_FN, MASK) + f + a)
    assert torch.allclose(layer(h, MASK), expected, atol=1e-6)


def test_it_stands_behind_the_dropout_of_the_feed_forward_block():
    """While training the adapter reads what dropout has left, and no dropout touches what it gives."""
    layer = BertLayer(TINY).train()
    layer.output.dropout.p = 0.5
    layer.adapter = randomise(Adapter(32, 5))
    seen = {}

    def remember(name):
        return lambda module, inputs, output: seen.setdefault(name, []).append((inputs[0], output))

    layer.attention.register_forward_hook(remember("attention"))
    layer.output.register_forward_hook(remember("output"))
    layer.adapter.register_forward_hook(remember("adapter"))
    layer.output.LayerNorm.register_forward_hook(remember("norm"))
    layer(torch.randn(2, 7, 32), MASK)
    a = seen["attention"][0][1]
    f = seen["output"][0][1]
    x, delta = seen["adapter"][0]
    assert 0.3 < (f == 0).float().mean() < 0.7
    assert (delta == 0).sum() == 0
    assert torch.allclose(x, layer.output.LayerNorm(f + a), atol=1e-6)
    assert torch.allclose(seen["norm"][1][0], f + delta + a, atol=1e-6)


def test_starts_as_the_identity_and_can_leave_it():
    adapter = Adapter(32, 5)
    y = adapter(torch.randn(2, 7, 32), MASK)
    assert torch.equal(y, torch.zeros_like(y))
    y.sum().backward()
    assert adapter.up.weight.grad.abs().max() > 0


def test_the_start_by_its_numbers():
    """W_down is normal with deviation 0.02 (not uniform, not cut off); all the rest is 0."""
    adapter = Adapter(768, 256)
    weight = adapter.down.weight.detach()
    assert 0.0197 < weight.std() < 0.0203
    assert abs(weight.mean()) < 0.0005
    assert 0.675 < (weight.abs() < 0.02).float().mean() < 0.69  # within one sigma: 0.683
    assert weight.abs().max() > 4 * 0.02
    for zero in (adapter.down.bias, adapter.up.weight, adapter.up.bias):
        assert torch.equal(zero, torch.zeros_like(zero))
