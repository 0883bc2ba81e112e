"""bitfit.py: which parameters are biases."""

import torch

from minipelt.bert import BertConfig, BertModel
from minipelt.bitfit import biases


def test_biases_of_bert_base():
    with torch.device("meta"): bert = BertModel(BertConfig())
    chosen = biases(bert)
    assert sum(p.numel() for p in chosen.values()) == 102_912
    assert "pooler.dense.bias" in chosen and "embeddings.LayerNorm.bias" in chosen and "encoder.layer.11.intermediate.dense.bias" in chosen
    assert all(p.ndim == 1 for p in chosen.values())
    assert not any(name.endswith("weight") for name in chosen)
