"""checkpoint.py: what is saved, and that broken or foreign files are refused with the model unchanged."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from minipelt import InputError
from minipelt.bert import BertClassifier
from minipelt.checkpoint import load_json, load_tensors, load_trained, save_json, save_tensors, trained_tensors
from minipelt.unipelt import Method, attach, trained_parameters


def build(bert, name):
    return attach(BertClassifier(bert, 2), Method(name, bottleneck=4, prefix_length=5, prefix_hidden=6, rank=2)).eval()


@pytest.mark.parametrize("name", ["ft", "head", "bitfit", "adapter", "prefix", "lora", "apl", "aplb"])
def test_what_trained_loads_onto_the_same_base(tiny, batch, tmp_path, name):
    base = copy.deepcopy(tiny)
    model = build(tiny, name)
    with torch.no_grad():
        for parameter in trained_parameters(model).values(): parameter.add_(0.1 * torch.randn_like(parameter))
    save_tensors(trained_tensors(model), tmp_path / "trained.safetensors")
    fresh = build(base, name)
    load_trained(fresh, tmp_path / "trained.safetensors")
    assert torch.allclose(fresh(*batch), model(*batch), atol=1e-6)
    stored = load_file(tmp_path / "trained.safetensors")
    assert not any("network" in key for key in stored)
    if name == "lora": assert sum(tensor.numel() for tensor in stored.values()) == 3 * 2 * (2 * 2 * 32) + 2 * 32 + 2  # nothing of the base


def test_foreign_tensors_are_refused_and_the_model_stays(tiny, tmp_path):
    model = build(tiny, "lora")
    path, good = tmp_path / "trained.safetensors", trained_tensors(model)
    before = copy.deepcopy(model.state_dict())
    key = "bert.encoder.layer.0.attention.self.lora_query.A.weight"
    for change, message in (({key: None}, "is missing"), ({"extra": torch.zeros(1)}, "unexpected tensor extra"), ({key: torch.zeros(3, 32)}, "has shape")):
        save_tensors({name: tensor + 1 for name, tensor in (good | change).items() if tensor is not None}, path)
        with pytest.raises(InputError, match=message): load_trained(model, path)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_are_whole_or_refused(tmp_path):
    save_tensors({"x": torch.arange(6.0).view(2, 3).T}, tmp_path / "x.safetensors", {"note": "hello"})
    tensors, metadata = load_tensors(tmp_path / "x.safetensors")
    assert tensors["x"].tolist() == [[0, 3], [1, 4], [2, 5]] and metadata["note"] == "hello"
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-3])
    with pytest.raises(InputError, match="not a whole safetensors file"): load_tensors(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no such file"): load_tensors(tmp_path / "y.safetensors")
    save_json({"a": 1}, tmp_path / "a.json")
    assert load_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"): load_json(tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "x.safetensors"]


def test_a_failed_write_keeps_the_older_file(tmp_path):
    save_json({"a": 1}, tmp_path / "a.json")
    with pytest.raises(TypeError): save_json({"a": object()}, tmp_path / "a.json")
    assert load_json(tmp_path / "a.json") == {"a": 1}
