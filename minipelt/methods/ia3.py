"""(IA)^3 (Liu et al. 2022): nothing but scaling. Three trained vectors a layer stretch or silence single features.

    k <- l_k * k        v <- l_v * v        x <- l_ff * x        x: the wide half of the feed-forward block

A vector of ones changes nothing, so training starts from plain BERT exactly. 2 D + 4 D parameters a layer.
"""

import torch
from torch import nn


class IA3(nn.Module):
    """One scaling. Fills a slot `ia3_key` or `ia3_value` of a BertSelfAttention, or `ia3` of a BertIntermediate."""

    part = "ia3"
    equation = "x = l * x"

    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x):
        """x (B, T, features) -> the same, each feature scaled."""
        return self.scale * x


def attach_layer(layer, method, gate):
    """Put the three scalings into a BertLayer."""
    attention, wide = layer.attention.self, layer.intermediate
    attention.ia3_key = IA3(attention.key.out_features)
    attention.ia3_value = IA3(attention.value.out_features)
    wide.ia3 = IA3(wide.dense.out_features)


@torch.no_grad()
def merge(bert):
    """Fold every scaling of an encoder into the matrix beside it, and empty the slots.

    The model's output stays the same.
    """
    for layer in bert.encoder.layer:
        attention, wide = layer.attention.self, layer.intermediate
        for ia3, linear in ((attention.ia3_key, attention.key), (attention.ia3_value, attention.value)):
            if ia3:
                linear.weight *= ia3.scale[:, None]  # (D, 1): a row of the matrix makes a feature
                linear.bias *= ia3.scale
        if attention.ia3_value and attention.lora_value:  # a LoRA that stays, under its gate, is scaled as well
            attention.lora_value.B.weight *= attention.ia3_value.scale[:, None]
        if wide.ia3:
            layer.output.dense.weight *= wide.ia3.scale  # (4 D): a column of the next matrix reads one
        attention.ia3_key = None
        attention.ia3_value = None
        wide.ia3 = None
