"""Adapters (Houlsby et al. 2019): a bottleneck beside a residual connection, in three places.

    UniPELT's    f  <-  f + g * up(relu(down(LayerNorm(f + a))))         one a layer (Mao et al. 2022, section 2)
    Houlsby's    o  <-  o + g * up(gelu(down(o)))    f  <-  f + g * up(gelu(down(f)))        two a layer; the LayerNorms train as well
    parallel     f  <-  f + s * up(relu(down(a)))                        one a layer, beside the feed-forward block (He et al. 2022)

a is what enters the feed-forward block, f what leaves it, o what leaves the attention block, each before residual and LayerNorm.
The bottleneck M is far below D, so an adapter costs 2 M D + D + M parameters. Its residual connection is what makes it safe
to insert: while up gives nothing, the layer computes what it computed before.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Adapter(nn.Module):
    """UniPELT's. Fills the slot `adapter` of a BertLayer, which adds the result to f."""

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

    def activation(self, x):
        """Between the two projections."""
        return torch.relu(x)

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T) -> what to add to f, (B, T, D)."""
        delta = self.up(self.activation(self.down(x)))  # (B, T, M) -> (B, T, D)
        return delta if self.gate is None else self.gate(x, mask) * delta


class HoulsbyAdapter(Adapter):
    """Houlsby's. Fills the slot `adapter` of a BertOutput, once in the attention block and once in the feed-forward block."""

    def __init__(self, hidden_size, bottleneck, gate=None):
        super().__init__(hidden_size, bottleneck, gate)
        for linear in (self.down, self.up):  # nearly, not exactly, plain BERT: the paper's sigma, cut off at 2 sigma
            nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)

    def activation(self, x):
        return F.gelu(x)


class ParallelAdapter(Adapter):
    """He's. Fills the slot `parallel` of a BertLayer. Alone its scale s is constant; in a union s is the gate."""

    scale = 4.0

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T) -> what to add to f, (B, T, D)."""
        return super().forward(x, mask) * (self.scale if self.gate is None else 1.0)
