"""methods/ia3.py: the scalings, against plain algebra."""

import pytest
import torch
from helpers import disturb

from minipelt.bert import BertClassifier
from minipelt.methods.ia3 import IA3, merge
from minipelt.settings import Method
from minipelt.tools.merge import fold
from minipelt.unipelt import attach


def test_it_starts_as_ones():
    ia3 = IA3(32)
    assert torch.equal(ia3.scale, torch.ones(32))
    x = torch.randn(2, 5, 32)
    assert torch.equal(ia3(x), x)


def test_keys_values_and_features_are_scaled(tiny, batch):
    """A scaled key is a key whose weight and bias are scaled, and so on.

    It is the same model written another way, which `merge` writes.
    """
    model = attach(BertClassifier(tiny, 2), Method("ia3")).eval()
    for name, parameter in model.named_parameters():
        if ".ia3" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    expected = model(*batch)
    before = {name: tensor.clone() for name, tensor in tiny.encoder.layer[0].state_dict().items()}
    merge(tiny)
    assert torch.allclose(model(*batch), expected, atol=1e-5)
    assert not any("ia3" in name for name in model.state_dict())
    after = tiny.encoder.layer[0].state_dict()
    wide, key = before["intermediate.ia3.scale"], before["attention.self.ia3_key.scale"]
    value = before["attention.self.ia3_value.scale"]
    assert torch.equal(after["output.dense.weight"], before["output.dense.weight"] * wide)
    assert torch.equal(after["attention.self.key.bias"], before["attention.self.key.bias"] * key)
    assert torch.equal(after["attention.self.value.bias"], before["attention.self.value.bias"] * value)
    assert torch.equal(after["attention.self.query.weight"], before["attention.self.query.weight"])


@pytest.mark.parametrize("method, folded", [("lora+ia3", {"lora", "ia3"}), ("al+ia3", {"ia3"})])
def test_folding_scales_a_lora_as_well_whether_it_folds_or_stays_under_its_gate(tiny, batch, method, folded):
    model = attach(BertClassifier(tiny, 2), Method(method)).eval()
    disturb(model)
    expected = model(*batch)
    assert fold(model) == folded
    assert torch.allclose(model(*batch), expected, atol=1e-6)
