"""methods/head.py and methods/ft.py: the least and the most that can train."""

import torch

from minipelt.bert import BertClassifier
from minipelt.settings import Method
from minipelt.unipelt import attach, trained_parameters


def test_the_head_alone(tiny, batch):
    model = attach(BertClassifier(tiny, 5), Method("head")).eval()
    assert set(trained_parameters(model)) == {"classifier.weight", "classifier.bias"}
    pooled = tiny(*batch).pooled
    expected = pooled @ model.classifier.weight.T + model.classifier.bias
    assert torch.allclose(model(*batch), expected, atol=1e-6)


def test_fine_tuning_trains_everything(tiny):
    model = attach(BertClassifier(tiny, 2), Method("ft"))
    assert set(trained_parameters(model)) == {name for name, _ in model.named_parameters()}
    assert set(model.base_parts.values()) == {"ft"}
