"""gate.force_gates: gates give what they are told, inside the block alone."""

import pytest
import torch
from helpers import randomise

from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.gate import Gate, force_gates, mean_gates, record_gates
from minipelt.settings import Method
from minipelt.unipelt import attach, detach

METHOD = {"bottleneck": 4, "prefix_length": 3, "prefix_hidden": 8, "rank": 2}
PREFIX_1 = "bert.encoder.layer.1.attention.self.prefix.gate"
ADAPTER_2 = "bert.encoder.layer.2.adapter.gate"


def fresh(bert, method):
    """A classifier with a method whose every parameter is random, gates included."""
    model = attach(BertClassifier(bert, 2), Method(method, **METHOD)).eval()
    for module in model.modules():
        if getattr(module, "part", None) in ("adapter", "prefix", "lora", "gates"):
            randomise(module)
    return model


def gates_in_use(model, batch):
    """{gate's name: its values} of one pass."""
    with torch.no_grad(), record_gates(model) as gates:
        model(*batch)
    return {name: torch.cat(values) for name, values in gates.items()}


def test_one_gate_by_its_own_name(tiny, batch):
    model = fresh(tiny, "apl")
    before = gates_in_use(model, batch)
    with force_gates(model, {PREFIX_1: 0.25}):
        inside = gates_in_use(model, batch)
    assert (inside[PREFIX_1] == 0.25).all()
    untouched = "bert.encoder.layer.0.adapter.gate"  # below layer 1, so its input is the same
    assert torch.equal(inside[untouched], before[untouched])


def test_a_submodule_in_all_layers_and_all_gates(tiny, batch):
    model = fresh(tiny, "apl")
    with force_gates(model, {"lora_query": 1, "adapter": 0.5}):
        inside = gates_in_use(model, batch)
    forced = {name: values for name, values in inside.items() if "lora_query" in name or "adapter" in name}
    assert len(forced) == 6
    for name, values in forced.items():
        assert (values == (1.0 if "lora_query" in name else 0.5)).all()
    assert not any((values == 0.5).all() for name, values in inside.items() if "prefix" in name)
    with force_gates(model, {"all": 0}):
        assert all((values == 0).all() for values in gates_in_use(model, batch).values())


def test_the_narrower_name_counts(tiny, batch):
    model = fresh(tiny, "apl")
    with force_gates(model, {"all": 0.1, "adapter": 0.2, ADAPTER_2: 0.3}):
        means = mean_gates({name: [values] for name, values in gates_in_use(model, batch).items()})
    assert means["adapter"] == pytest.approx([0.2, 0.2, 0.3])
    assert means["prefix"] == pytest.approx([0.1, 0.1, 0.1])


def test_it_does_what_biases_do(tiny, batch):
    model = fresh(tiny, "apl")
    with torch.no_grad(), force_gates(model, {"all": 0.0}):
        forced = model(*batch)
    for module in model.modules():
        if isinstance(module, Gate):
            torch.nn.init.constant_(module.linear.bias, -1e4)
    with torch.no_grad():
        assert torch.allclose(model(*batch), forced, atol=1e-6)


def test_all_shut_is_plain_bert_but_for_a_prefix(tiny, batch):
    with torch.no_grad():
        plain = tiny(*batch).pooled
        model = fresh(tiny, "al")
        with force_gates(model, {"all": 0.0}):
            assert torch.allclose(model.bert(*batch).pooled, plain, atol=1e-6)
        model = fresh(detach(model).bert, "ap")
        with force_gates(model, {"all": 0.0}):
            assert not torch.allclose(model.bert(*batch).pooled, plain, atol=1e-3)


def test_nothing_is_left_afterwards(tiny, batch):
    model = fresh(tiny, "apl")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(*batch)
        with pytest.raises(ZeroDivisionError), force_gates(model, {"all": 0.0}):
            assert not torch.allclose(model(*batch), before, atol=1e-4)
            raise ZeroDivisionError
        assert torch.equal(model(*batch), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_recording_inside_and_around(tiny, batch):
    model = fresh(tiny, "apl")
    with record_gates(model) as own, force_gates(model, {"all": 0.5}), record_gates(model) as forced:
        model(*batch)
    assert all((torch.cat(values) == 0.5).all() for values in forced.values())
    first = "bert.encoder.layer.0.attention.self.prefix.gate"  # reads the embeddings, whatever is forced
    assert torch.equal(torch.cat(own[first]), gates_in_use(model, batch)[first])


def test_the_inner_block_counts(tiny, batch):
    model = fresh(tiny, "apl")
    with force_gates(model, {"all": 0.0}):
        with force_gates(model, {"adapter": 1.0}):
            assert (gates_in_use(model, batch)[ADAPTER_2] == 1).all()
        assert (gates_in_use(model, batch)[ADAPTER_2] == 0).all()


def test_an_encoder_by_itself(tiny, batch):
    model = fresh(tiny, "apl")
    with force_gates(model.bert, {"encoder.layer.2.adapter.gate": 0.0, "prefix": 1.0}):
        inside = gates_in_use(model, batch)
    assert (inside[ADAPTER_2] == 0).all()
    assert (inside[PREFIX_1] == 1).all()


def test_places_of_other_methods(tiny, batch):
    model = fresh(tiny, "lora+houlsby+parallel")
    names = {"attention.output.adapter": 0.1, "output.adapter": 0.2, "parallel": 0.3}
    with force_gates(model, names):
        means = mean_gates({name: [values] for name, values in gates_in_use(model, batch).items()})
    assert {name: means[name][0] for name in names} == pytest.approx(names)


@pytest.mark.parametrize("values, message", [
    ({"lora": 0.5}, "no gate 'lora' to force; expected adapter, lora_query, lora_value, prefix, all, or a gate's own"),
    ({"bert.encoder.layer.9.adapter.gate": 0.5}, "no gate 'bert.encoder.layer.9.adapter.gate'"),
    ({"prefix": 1.5}, "gate prefix is to be 1.5; expected a number from 0 to 1"),
    ({"prefix": -0.1}, "expected a number from 0 to 1"),
    ({"prefix": float("nan")}, "expected a number from 0 to 1"),
    ({"prefix": True}, "expected a number from 0 to 1"),
    ({"prefix": "0.5"}, "expected a number from 0 to 1"),
    ({"prefix": None}, "expected a number from 0 to 1"),
])
def test_what_cannot_be_forced(tiny, batch, values, message):
    model = fresh(tiny, "apl")
    before = gates_in_use(model, batch)
    with pytest.raises(InputError, match=message), force_gates(model, {"adapter": 0.0} | values):
        pass
    assert torch.equal(gates_in_use(model, batch)[ADAPTER_2], before[ADAPTER_2])


def test_a_model_without_gates(tiny):
    model = attach(BertClassifier(tiny, 2), Method("adapter"))
    with force_gates(model, {}):
        pass
    with pytest.raises(InputError, match="this model has no gates"), force_gates(model, {"adapter": 0.0}):
        pass
