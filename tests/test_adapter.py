"""adapter.py against its equation."""

import torch

from minipelt.adapter import Adapter, HoulsbyAdapter
from minipelt.bert import BertClassifier, BertLayer
from minipelt.gate import Gate
from minipelt.unipelt import Method, attach

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


def test_houlsby_s_equation_and_start():
    adapter = HoulsbyAdapter(32, 4)
    x, mask = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    down, up = adapter.down, adapter.up
    expected = torch.nn.functional.gelu(x @ down.weight.T + down.bias) @ up.weight.T + up.bias
    assert torch.allclose(adapter(x, mask), expected, atol=1e-6)
    for weight in (down.weight, up.weight): assert 0 < weight.abs().max() <= 0.02 and 0.004 < weight.std() < 0.014  # sigma 0.01, cut at 2 sigma
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 4 * 32 + 32 + 4


def test_houlsby_s_adapters_sit_before_residual_and_layernorm(tiny, batch):
    """The layer's output by hand, from its pieces."""
    attach(BertClassifier(tiny, 2), Method("houlsby", bottleneck=4)).eval()
    layer, (ids, mask, types) = tiny.encoder.layer[0], batch
    h = tiny.embeddings(ids, types)
    o = layer.attention.output.dense(layer.attention.self(h, mask.bool()))
    a = layer.attention.output.LayerNorm(o + layer.attention.output.adapter(o, mask) + h)
    f = layer.output.dense(layer.intermediate(a))
    assert torch.allclose(layer(h, mask.bool()), layer.output.LayerNorm(f + layer.output.adapter(f, mask) + a), atol=1e-6)


def test_parallel_reads_what_the_feed_forward_block_reads(tiny, batch):
    attach(BertClassifier(tiny, 2), Method("parallel", bottleneck=4)).eval()
    layer, (ids, mask, types) = tiny.encoder.layer[0], batch
    torch.nn.init.normal_(layer.parallel.up.weight)
    h = tiny.embeddings(ids, types)
    a = layer.attention(h, mask.bool())
    f = layer.output.dense(layer.intermediate(a))
    down, up = layer.parallel.down, layer.parallel.up
    assert torch.allclose(layer(h, mask.bool()), layer.output.LayerNorm(f + 4 * up(torch.relu(down(a))) + a), atol=1e-5)
