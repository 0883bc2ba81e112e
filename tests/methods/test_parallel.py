"""methods/parallel.py: what it reads, and its scale alone and in a union."""

import torch
from helpers import randomise

from minipelt.bert import BertClassifier
from minipelt.methods.parallel import ParallelAdapter
from minipelt.settings import Method
from minipelt.unipelt import attach


def first_layer(tiny, batch, method):
    """(the first layer of the encoder with a method in it, its adapter random; what enters it; the mask)."""
    attach(BertClassifier(tiny, 2), method).eval()
    layer = tiny.encoder.layer[0]
    randomise(layer.parallel)
    ids, mask, types = batch
    h = tiny.embeddings(ids, types)
    return layer, h, mask.bool()


def feed_forward(layer, a):
    """What the feed-forward block computes, before the residual sum."""
    return layer.output.dense(layer.intermediate(a))


def bottleneck(adapter, a):
    """up(relu(down(a))), written out."""
    inner = (a @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    return inner @ adapter.up.weight.T + adapter.up.bias


def test_it_reads_what_the_feed_forward_block_reads_and_is_scaled_by_4(tiny, batch):
    layer, h, mask = first_layer(tiny, batch, Method("parallel", bottleneck=4))
    a = layer.attention(h, mask)
    expected = layer.output.LayerNorm(feed_forward(layer, a) + 4 * bottleneck(layer.parallel, a) + a)
    assert torch.allclose(layer(h, mask), expected, atol=1e-5)


def test_in_a_union_the_gate_takes_the_place_of_the_4(tiny, batch):
    layer, h, mask = first_layer(tiny, batch, Method("parallel+a", bottleneck=4))
    a = layer.attention(h, mask)
    g = layer.parallel.gate(a, mask)  # (B, 1, 1)
    assert g.std() > 0.01  # of each example its own
    f = feed_forward(layer, a) + g * bottleneck(layer.parallel, a)
    expected = layer.output.LayerNorm(f + layer.adapter(layer.output.LayerNorm(f + a), mask) + a)
    assert torch.allclose(layer(h, mask), expected, atol=1e-5)


def test_in_a_union_without_gates_the_4_is_back(tiny, batch):
    layer, h, mask = first_layer(tiny, batch, Method("parallel+a", gate=False, bottleneck=4))
    a = layer.attention(h, mask)
    f = feed_forward(layer, a) + 4 * bottleneck(layer.parallel, a)
    expected = layer.output.LayerNorm(f + layer.adapter(layer.output.LayerNorm(f + a), mask) + a)
    assert torch.allclose(layer(h, mask), expected, atol=1e-5)


def test_it_starts_as_plain_bert():
    adapter = ParallelAdapter(768, 256)
    assert not adapter(torch.randn(1, 3, 768), torch.ones(1, 3, dtype=torch.bool)).any()
    assert 0.0197 < adapter.down.weight.std() < 0.0203


def test_the_equation_tells_the_scale_that_holds(tiny):
    assert "4 *" in ParallelAdapter(32, 4).equation
    model = attach(BertClassifier(tiny, 2), Method("parallel+p"))
    assert "{g}" in model.bert.encoder.layer[0].parallel.equation
    assert "4 *" not in model.bert.encoder.layer[0].parallel.equation
