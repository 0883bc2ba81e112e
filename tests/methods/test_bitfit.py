"""methods/bitfit.py: which parameters are biases."""

import torch

from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.methods.bitfit import biases
from minipelt.settings import Method
from minipelt.unipelt import attach


def test_biases_of_bert_base():
    with torch.device("meta"):
        bert = BertModel(BertConfig())
    chosen = biases(bert)
    assert sum(p.numel() for p in chosen.values()) == 102_912
    assert "pooler.dense.bias" in chosen
    assert "embeddings.LayerNorm.bias" in chosen
    assert "encoder.layer.11.intermediate.dense.bias" in chosen
    assert all(p.ndim == 1 for p in chosen.values())
    assert not any(name.endswith("weight") for name in chosen)


def test_in_a_union_the_biases_of_what_is_added_are_not_bitfit_s(tiny):
    before = {f"bert.{name}" for name in biases(tiny)}
    model = attach(BertClassifier(tiny, 2), Method("aplb", bottleneck=4, prefix_hidden=8))
    assert {name for name, part in model.base_parts.items() if part == "bitfit"} == before
