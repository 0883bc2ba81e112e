"""methods/prefix.py against its equations."""

import pytest
import torch
from helpers import TINY

from minipelt.bert import BertClassifier, BertSelfAttention
from minipelt.gate import Gate
from minipelt.methods.prefix import Prefix, PrefixTable
from minipelt.settings import Method
from minipelt.unipelt import attach


@pytest.fixture
def attended(seeded):
    """What the attention of a layer hands to its prefix: h, k, v (2, 7, 32) each, and a prefix (2, 4, 32)."""
    return torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randn(2, 4, 32)


def test_table_shapes_and_parameter_counts():
    table = PrefixTable(num_layers=3, hidden_size=32, prefix_length=4, prefix_hidden=16)
    assert table().shape == (3, 2, 4, 32)
    assert sum(p.numel() for p in table.parameters()) == 4 * 32 + (32 * 16 + 16) + (16 * 2 * 3 * 32 + 2 * 3 * 32)
    table.drop_network()
    assert table().shape == (3, 2, 4, 32)
    assert sum(p.numel() for p in table.parameters()) == 2 * 3 * 4 * 32 == table.num_saved


def test_reparameterisation_is_the_formula():
    table = PrefixTable(3, 32, 4, 16)
    E, W1, b1, W2, b2 = (p.detach() for p in table.parameters())
    flat = torch.tanh(E @ W1.T + b1) @ W2.T + b2  # (P, 2 N D)
    layer_1_keys = table()[1, 0, 2]  # at position 2
    layer_2_values = table()[2, 1, 3]  # at position 3
    assert torch.allclose(layer_1_keys, flat[2, 1 * 64 : 1 * 64 + 32], atol=1e-6)
    assert torch.allclose(layer_2_values, flat[3, 2 * 64 + 32 : 2 * 64 + 64], atol=1e-6)


def test_dropping_the_network_keeps_the_prefix():
    table = PrefixTable(3, 32, 4, 16)
    before = table().detach()
    table.drop_network()
    assert torch.equal(table(), before)
    assert table.table.requires_grad


def test_what_is_saved_is_the_vectors_and_loads_into_a_fresh_table():
    table, fresh = PrefixTable(3, 32, 4, 16), PrefixTable(3, 32, 4, 16)
    state = table.saved_state()
    assert list(state) == ["table"]
    assert state["table"].numel() == table.num_saved
    assert not torch.equal(fresh(), table())
    fresh.load_saved_state(state)
    assert torch.equal(fresh(), table())
    assert torch.equal(fresh.saved_state()["table"], state["table"])


def test_prefix_is_prepended(attended):
    h, k, v, prefix = attended
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    long_k, long_v, long_mask = Prefix()(h, k, v, mask, prefix)
    assert long_k.shape == long_v.shape == (2, 11, 32)
    assert long_mask.shape == (2, 11)
    assert torch.equal(long_k[1, :4], prefix[0])
    assert torch.equal(long_v[0, :4], prefix[1])
    assert torch.equal(long_k[:, 4:], k)
    assert torch.equal(long_v[:, 4:], v)
    assert long_mask[:, :4].all()
    assert torch.equal(long_mask[:, 4:], mask)


def test_gate_scales_the_prefix_and_not_the_tokens(attended):
    h, k, v, prefix = attended
    mask, gate = torch.ones(2, 7, dtype=torch.bool), Gate(32)
    long_k, long_v, _ = Prefix(gate)(h, k, v, mask, prefix)
    g = gate(h, mask)
    assert torch.allclose(long_k[:, :4], g * prefix[0])
    assert torch.allclose(long_v[:, :4], g * prefix[1])
    assert torch.equal(long_k[:, 4:], k)
    assert torch.equal(long_v[:, 4:], v)


def test_each_layer_gets_its_own_prefix(tiny, batch):
    """Values of one layer's prefix reach that layer's output and none below."""
    attach(BertClassifier(tiny, 2), Method("prefix"))
    tiny.prefix.drop_network()
    before = tiny(*batch).hidden_states
    with torch.no_grad():
        tiny.prefix.table[1, 1] += 1.0
    after = tiny(*batch).hidden_states
    same = [torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    assert same == [True, True, False, False]  # embeddings, layers 0, 1, 2


def heads(x):
    """(2, S, 32) -> (2, 4, S, 8)."""
    return x.reshape(2, -1, 4, 8).transpose(1, 2)


def test_attention_with_a_prefix_is_attention_over_more_keys():
    attention = BertSelfAttention(TINY).eval()
    attention.prefix = Prefix()
    h, prefix = torch.randn(2, 7, 32), torch.randn(2, 4, 32)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    k = torch.cat([prefix[0].expand(2, 4, 32), attention.key(h)], dim=1)
    v = torch.cat([prefix[1].expand(2, 4, 32), attention.value(h)], dim=1)
    scores = heads(attention.query(h)) @ heads(k).transpose(-1, -2) / 8**0.5  # (B, H, T, P + T)
    scores[1, :, :, 4 + 3 :] = -float("inf")
    expected = (scores.softmax(-1) @ heads(v)).transpose(1, 2).reshape(2, 7, 32)
    weights = []
    assert torch.allclose(attention(h, mask, prefix), expected, atol=1e-5)
    attention(h, mask, prefix, weights)
    assert weights[0].shape == (2, 4, 7, 11)
