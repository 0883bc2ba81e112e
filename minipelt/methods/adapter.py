"""UniPELT's adapter (Mao et al. 2022, section 2): a bottleneck after the feed-forward block, as in Pfeiffer (2021).

    f  <-  f + g * (W_up relu(W_down x + b_down) + b_up)       x = LayerNorm(f + a),  W_down: D -> M,  W_up: M -> D

a is what enters the feed-forward block and f what leaves it, before residual and LayerNorm. M is far below D, so an
adapter costs 2 M D + D + M parameters. Its residual connection is what makes it safe to insert: while W_up gives
nothing, the layer computes what it computed before. The gate g (gate.py) scales the whole result, bias included;
alone there is none.
"""

import torch
from torch import nn


class Adapter(nn.Module):
    """Fills the slot `adapter` of a BertLayer, which adds the result to f."""

    part = "adapter"
    equation = "f = f + {g}up(relu(down(x)))   x = LayerNorm(f + a)"

    def __init__(self, hidden_size, bottleneck, gate=None):
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, hidden_size)
        self.gate = gate
        # W_up = 0: training starts from plain BERT exactly. W_down must then differ from 0, or neither gets a gradient.
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
        if self.gate is None:
            return delta
        return self.gate(x, mask) * delta  # (B, 1, 1) * (B, T, D)


def attach_layer(layer, method, gate):
    """Put an adapter into a BertLayer."""
    hidden_size = layer.output.dense.out_features
    layer.adapter = Adapter(hidden_size, method.bottleneck, gate())
