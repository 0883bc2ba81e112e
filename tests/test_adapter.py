"""adapter.py against its equation."""

import torch

from minipelt.adapter import Adapter
from minipelt.bert import BertLayer
from minipelt.gate import Gate

from conftest import TINY


def randomise(module):
    """Give every parameter fresh random values, so that nothing is zero by initialisation."""
    with torch.no_grad():
        for parameter in module.parameters(): parameter.copy_(torch.randn_like(parameter))
    return module


def test_shapes_and_parameter_count():
    adapter = Adapter(32, 5)
    assert adapter(torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)).shape == (2, 7, 32)
    assert adapter.down.weight.shape == (5, 32) and adapter.up.weight.shape == (32, 5)
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 5 * 32 + 32 + 5


def test_equation():
    adapter, x = randomise(Adapter(32, 5)), torch.randn(2, 7, 32)
    W_down, b_down, W_up, b_up = (p.detach() for p in (adapter.down.weight.T, adapter.down.bias, adapter.up.weight.T, adapter.up.bias))
    expected = (x @ W_down + b_down).clamp(min=0) @ W_up + b_up
    assert torch.allclose(adapter(x, torch.ones(2, 7, dtype=torch.bool)), expected, atol=1e-4)


def test_gate_scales_each_example():
    plain = randomise(Adapter(32, 5))
    gated = Adapter(32, 5, randomise(Gate(32)))
    gated.load_state_dict(plain.state_dict(), strict=False)
    x, mask = torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    assert torch.allclose(gated(x, mask), gated.gate(x, mask) * plain(x, mask))


def test_placement_in_the_layer():
    """Layer output = LayerNorm(adapter(h_FN) + f + a): its input is h_FN = LayerNorm(f + a), its residual is f."""
    layer, h, mask = BertLayer(TINY).eval(), torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    h_FN = layer(h, mask)
    layer.adapter = randomise(Adapter(32, 5))
    a = layer.attention(h, mask)
    f = layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(a)))
    expected = layer.output.LayerNorm(layer.adapter(h_FN, mask) + f + a)
    assert torch.allclose(layer(h, mask), expected, atol=1e-6)


def test_starts_as_the_identity_and_can_leave_it():
    adapter, x = Adapter(32, 5), torch.randn(2, 7, 32)
    y = adapter(x, torch.ones(2, 7, dtype=torch.bool))
    assert torch.equal(y, torch.zeros_like(y))
    y.sum().backward()
    assert adapter.up.weight.grad.abs().max() > 0
