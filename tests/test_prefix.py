"""prefix.py against its equations."""

import torch

from minipelt.bert import BertClassifier, BertSelfAttention
from minipelt.gate import Gate
from minipelt.prefix import Prefix, PrefixTable
from minipelt.unipelt import Method, attach

from conftest import TINY


def test_table_shapes_and_parameter_counts():
    table = PrefixTable(num_layers=3, hidden_size=32, prefix_length=4, prefix_hidden=16)
    assert table().shape == (3, 2, 4, 32)
    assert sum(p.numel() for p in table.parameters()) == 4 * 32 + (32 * 16 + 16) + (16 * 2 * 3 * 32 + 2 * 3 * 32)
    table.drop_network()
    assert table().shape == (3, 2, 4, 32)
    assert sum(p.numel() for p in table.parameters()) == 2 * 3 * 4 * 32


def test_reparameterisation_is_the_formula():
    table = PrefixTable(3, 32, 4, 16)
    E, W1, b1, W2, b2 = (p.detach() for p in table.parameters())
    flat = torch.tanh(E @ W1.T + b1) @ W2.T + b2  # (P, 2 N D)
    assert torch.allclose(table()[1, 0, 2], flat[2, 1 * 64 : 1 * 64 + 32], atol=1e-6)  # layer 1, keys, position 2
    assert torch.allclose(table()[2, 1, 3], flat[3, 2 * 64 + 32 : 2 * 64 + 64], atol=1e-6)  # layer 2, values, position 3


def test_dropping_the_network_keeps_the_prefix():
    table = PrefixTable(3, 32, 4, 16)
    before = table().detach()
    table.drop_network()
    assert torch.equal(table(), before) and table.table.requires_grad


def test_prefix_is_prepended():
    h, k, v, prefix = torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randn(2, 4, 32)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    long_k, long_v, long_mask = Prefix()(h, k, v, mask, prefix)
    assert long_k.shape == long_v.shape == (2, 11, 32) and long_mask.shape == (2, 11)
    assert torch.equal(long_k[1, :4], prefix[0]) and torch.equal(long_v[0, :4], prefix[1])
    assert torch.equal(long_k[:, 4:], k) and torch.equal(long_v[:, 4:], v)
    assert long_mask[:, :4].all() and torch.equal(long_mask[:, 4:], mask)


def test_gate_scales_the_prefix_and_not_the_tokens():
    h, k, v, prefix = torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randn(2, 4, 32)
    mask, gate = torch.ones(2, 7, dtype=torch.bool), Gate(32)
    long_k, long_v, _ = Prefix(gate)(h, k, v, mask, prefix)
    g = gate(h, mask)
    assert torch.allclose(long_k[:, :4], g * prefix[0]) and torch.allclose(long_v[:, :4], g * prefix[1])
    assert torch.equal(long_k[:, 4:], k) and torch.equal(long_v[:, 4:], v)


def test_each_layer_gets_its_own_prefix(tiny, batch):
    """Values of one layer's prefix reach that layer's output and none below."""
    attach(BertClassifier(tiny, 2), Method("prefix"))
    tiny.prefix.drop_network()
    before = tiny(*batch).hidden_states
    with torch.no_grad(): tiny.prefix.table[1, 1] += 1.0
    after = tiny(*batch).hidden_states
    assert [torch.equal(x, y) for x, y in zip(before, after)] == [True, True, False, False]  # embeddings, layers 0, 1, 2


def test_attention_with_a_prefix_is_attention_over_more_keys():
    attention, h, prefix = BertSelfAttention(TINY).eval(), torch.randn(2, 7, 32), torch.randn(2, 4, 32)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    attention.prefix = Prefix()
    k = torch.cat([prefix[0].expand(2, 4, 32), attention.key(h)], dim=1)
    v = torch.cat([prefix[1].expand(2, 4, 32), attention.value(h)], dim=1)
    heads = lambda x: x.reshape(2, -1, 4, 8).transpose(1, 2)
    scores = heads(attention.query(h)) @ heads(k).transpose(-1, -2) / 8**0.5  # (B, H, T, P + T)
    scores[1, :, :, 4 + 3 :] = -float("inf")
    expected = (scores.softmax(-1) @ heads(v)).transpose(1, 2).reshape(2, 7, 32)
    weights = []
    assert torch.allclose(attention(h, mask, prefix), expected, atol=1e-5)
    attention(h, mask, prefix, weights)
    assert weights[0].shape == (2, 4, 7, 11)
