"""Adapter (Houlsby et al. 2019), in UniPELT's placement: one per layer, after the feed-forward block (Mao et al. 2022, section 2).

    f  <-  f + g * (relu(x W_down + b_down) W_up + b_up)        x = LayerNorm(f + a)

The bottleneck M is far below D, so an adapter costs 2 M D + D + M parameters. Its residual connection is what makes it safe
to insert: while W_up is zero, the layer computes what it computed before.
"""

import torch
from torch import nn


class Adapter(nn.Module):
    """The bottleneck. Fills the slot `adapter` of a BertLayer, which adds the result to f."""

    def __init__(self, hidden_size, bottleneck, gate=None):
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, hidden_size)
        self.gate = gate
        # W_up = 0: training starts from plain BERT exactly. W_down must then differ from zero, or neither would ever get a gradient.
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T) -> what to add to f, (B, T, D)."""
        delta = self.up(torch.relu(self.down(x)))  # (B, T, M) -> (B, T, D)
        return delta if self.gate is None else self.gate(x, mask) * delta
