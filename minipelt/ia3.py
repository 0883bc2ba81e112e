"""(IA)^3 (Liu et al. 2022): nothing but scaling. Three trained vectors a layer stretch or silence single features.

    k <- l_k * k        v <- l_v * v        x <- l_ff * x        x: the feed-forward block's wide half, after its activation

A vector of ones changes nothing, so training starts from plain BERT exactly. 2 D + 4 D parameters a layer.
"""

import torch
from torch import nn


class IA3(nn.Module):
    """One scaling. Fills a slot `ia3_key` or `ia3_value` of a BertSelfAttention, or `ia3` of a BertIntermediate."""

    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x):
        """x (B, T, features) -> the same, each feature scaled."""
        return self.scale * x
