"""ia3.py: the scalings, against plain algebra."""

import torch

from minipelt.bert import BertClassifier
from minipelt.unipelt import Method, attach


def test_keys_values_and_features_are_scaled(tiny, batch):
    """A scaled key is a key whose weight and bias are scaled, and so on: the same model written another way."""
    model = attach(BertClassifier(tiny, 2), Method("ia3")).eval()
    for name, parameter in model.named_parameters():
        if ".ia3" in name: torch.nn.init.uniform_(parameter, 0.5, 1.5)
    expected = model(*batch)
    with torch.no_grad():
        for layer in tiny.encoder.layer:
            attention = layer.attention.self
            for linear, slot in ((attention.key, "ia3_key"), (attention.value, "ia3_value")):
                scale = getattr(attention, slot).scale
                linear.weight *= scale[:, None]
                linear.bias *= scale
                setattr(attention, slot, None)
            layer.output.dense.weight *= layer.intermediate.ia3.scale  # a scaled feature is one with a scaled way out
            layer.intermediate.ia3 = None
    assert torch.allclose(model(*batch), expected, atol=1e-5)
