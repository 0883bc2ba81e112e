"""gate.py: the mean over real tokens, the start, and reading gates."""

import torch
from helpers import disturb

from minipelt.bert import BertClassifier
from minipelt.gate import Gate, mean_gates, record_gates
from minipelt.settings import Method
from minipelt.unipelt import attach


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
    alone = gate(x, torch.ones(1, 3, dtype=torch.bool))
    together = gate(padded, torch.arange(7)[None] < 3)
    assert torch.allclose(alone, together, atol=1e-6)


def test_starts_near_one_half():
    g = Gate(768)(torch.randn(8, 5, 768), torch.ones(8, 5, dtype=torch.bool))
    assert (g - 0.5).abs().max() < 0.25


def test_the_start_by_its_numbers():
    """Bias 0 exactly, weights N(0, 0.02)."""
    gate = Gate(100_000)
    weight = gate.linear.weight.detach()
    assert gate.linear.bias.tolist() == [0.0]
    assert 0.0197 < weight.std() < 0.0203
    assert abs(weight.mean()) < 0.0005
    assert 0.675 < (weight.abs() < 0.02).float().mean() < 0.69  # within one sigma of a normal distribution: 0.683


def test_the_gates_of_a_union_start_so(tiny):
    attach(BertClassifier(tiny, 2), Method("apl"))
    gates = [module for module in tiny.modules() if isinstance(module, Gate)]
    assert len(gates) == 3 * 4
    assert all(gate.linear.bias.item() == 0 for gate in gates)
    assert all(gate.linear.weight.abs().max() < 0.12 for gate in gates)


def test_recording(tiny, batch):
    model = attach(BertClassifier(tiny, 2), Method("apl")).eval()
    with record_gates(model) as gates:
        model(*batch)
        model(*batch)
    model(*batch)  # after the block nothing is recorded
    assert len(gates) == 3 * 4  # layers times adapter, prefix, query-LoRA, value-LoRA
    assert all(len(values) == 2 and values[0].shape == (3,) for values in gates.values())
    means = mean_gates(gates)
    assert set(means) == {"adapter", "prefix", "lora_query", "lora_value"}
    assert len(means["adapter"]) == 3
    recorded = torch.cat(gates["bert.encoder.layer.1.adapter.gate"])
    assert abs(means["adapter"][1] - recorded.mean().item()) < 1e-6


def test_the_mean_is_over_examples_and_not_over_batches(tiny, batch):
    """Two batches that differ, one of three examples and one of a single one: each example counts alike."""
    model = disturb(attach(BertClassifier(tiny, 2), Method("apl"))).eval()
    other = torch.randint(5, 60, (1, 4))
    with record_gates(model) as gates:
        model(*batch)
        model(other)
    means = mean_gates(gates)
    for layer in range(3):
        for name in ("adapter", "attention.self.prefix", "attention.self.lora_query", "attention.self.lora_value"):
            first, second = gates[f"bert.encoder.layer.{layer}.{name}.gate"]
            assert (first.shape, second.shape) == ((3,), (1,))
            expected = (first.sum() + second.sum()).item() / 4
            assert abs(means[name.removeprefix("attention.self.")][layer] - expected) < 1e-6
            assert abs(first.mean() - second.mean()) > 1e-5


def test_nothing_to_record_without_gates(tiny, batch):
    model = attach(BertClassifier(tiny, 2), Method("adapter"))
    with record_gates(model) as gates:
        model(*batch)
    assert mean_gates(gates) == {}
