"""ia3.py: the scalings, against plain algebra."""

import torch

from minipelt.bert import BertClassifier
from minipelt.ia3 import merge
from minipelt.unipelt import Method, attach


def test_keys_values_and_features_are_scaled(tiny, batch):
    """A scaled key is a key whose weight and bias are scaled, and so on: the same model written another way, which `merge` writes."""
    model = attach(BertClassifier(tiny, 2), Method("ia3")).eval()
    for name, parameter in model.named_parameters():
        if ".ia3" in name: torch.nn.init.uniform_(parameter, 0.5, 1.5)
    expected = model(*batch)
    before = {name: tensor.clone() for name, tensor in tiny.encoder.layer[0].state_dict().items()}
    merge(tiny)
    assert torch.allclose(model(*batch), expected, atol=1e-5) and not any("ia3" in name for name in model.state_dict())
    after = tiny.encoder.layer[0].state_dict()
    assert torch.equal(after["output.dense.weight"], before["output.dense.weight"] * before["intermediate.ia3.scale"])
    assert torch.equal(after["attention.self.key.bias"], before["attention.self.key.bias"] * before["attention.self.ia3_key.scale"])
