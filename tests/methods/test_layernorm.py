"""methods/layernorm.py: which parameters are those of LayerNorms."""

import torch

from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.methods.layernorm import layer_norms
from minipelt.settings import Method
from minipelt.unipelt import attach, trained_parameters


def test_layer_norms_of_bert_base():
    with torch.device("meta"):
        bert = BertModel(BertConfig())
    chosen = layer_norms(bert)
    assert len(chosen) == 25 * 2
    assert sum(p.numel() for p in chosen.values()) == 38_400
    assert all(p.shape == (768,) for p in chosen.values())
    found = {id(p) for module in bert.modules() if isinstance(module, torch.nn.LayerNorm) for p in module.parameters()}
    assert found == {id(p) for p in chosen.values()}


def test_they_train_and_nothing_else_does(tiny):
    model = attach(BertClassifier(tiny, 2), Method("layernorm"))
    names = set(trained_parameters(model)) - {"classifier.weight", "classifier.bias"}
    assert names == {f"bert.{name}" for name in layer_norms(tiny)}
    assert set(model.base_parts.values()) == {"layernorm"}
