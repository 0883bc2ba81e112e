"""gate.py: the mean over real tokens, and reading gates."""

import torch

from minipelt.bert import BertClassifier
from minipelt.gate import Gate, mean_gates, record_gates
from minipelt.unipelt import Method, attach


def test_mean_of_sigmoids_over_real_tokens():
    gate, x = Gate(32), torch.randn(2, 7, 32)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    g = gate(x, mask)
    assert g.shape == (2, 1, 1)
    w, b = gate.linear.weight[0], gate.linear.bias
    assert torch.allclose(g[0, 0, 0], torch.sigmoid(x[0] @ w + b).mean(), atol=1e-6)
    assert torch.allclose(g[1, 0, 0], torch.sigmoid(x[1, :3] @ w + b).mean(), atol=1e-6)


def test_padding_does_not_move_the_gate():
    gate, x = Gate(32), torch.randn(1, 3, 32)
    padded = torch.cat([x, 100 * torch.randn(1, 4, 32)], dim=1)
    alone, together = gate(x, torch.ones(1, 3, dtype=torch.bool)), gate(padded, torch.arange(7)[None] < 3)
    assert torch.allclose(alone, together, atol=1e-6)


def test_starts_near_one_half():
    assert (Gate(768)(torch.randn(8, 5, 768), torch.ones(8, 5, dtype=torch.bool)) - 0.5).abs().max() < 0.25


def test_recording(tiny, batch):
    model = attach(BertClassifier(tiny, 2), Method("apl")).eval()
    with record_gates(model) as gates:
        model(*batch)
        model(*batch)
    model(*batch)  # after the block nothing is recorded
    assert len(gates) == 3 * 4  # layers times adapter, prefix, query-LoRA, value-LoRA
    assert all(len(values) == 2 and values[0].shape == (3,) for values in gates.values())
    means = mean_gates(gates)
    assert set(means) == {"adapter", "prefix", "lora_query", "lora_value"} and len(means["adapter"]) == 3
    assert abs(means["adapter"][1] - torch.cat(gates["bert.encoder.layer.1.adapter.gate"]).mean().item()) < 1e-6


def test_nothing_to_record_without_gates(tiny, batch):
    model = attach(BertClassifier(tiny, 2), Method("adapter"))
    with record_gates(model) as gates: model(*batch)
    assert mean_gates(gates) == {}
