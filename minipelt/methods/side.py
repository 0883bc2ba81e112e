"""Side-tuning (Zhang et al. 2020): a small network beside the frozen encoder, and a learned blend of the two.

    pooled  <-  alpha * pooled + (1 - alpha) * side(embeddings)        alpha = sigmoid(w)

w is a single trained number, 0 at first: one half of each.

No gradient enters the encoder at all: its forward pass is the only one it takes part in, which makes a training step
cheap.
"""

from dataclasses import replace

import torch
from torch import nn

from minipelt.bert import BertLayer, initialise


class SideNetwork(nn.Module):
    """One Transformer layer of width M. Fills the slot `side` of a BertClassifier."""

    part = "side"
    equation = "pooled = alpha * pooled + (1 - alpha) * side(embeddings)"

    def __init__(self, config, bottleneck):
        super().__init__()
        D, M = config.hidden_size, bottleneck
        heads = 8
        while M % heads:
            heads -= 1
        small = replace(config, hidden_size=M, num_attention_heads=heads, intermediate_size=4 * M)
        self.down = nn.Linear(D, M)
        self.layer = BertLayer(small)
        self.up = nn.Linear(M, D)
        self.blend = nn.Parameter(torch.zeros(()))
        initialise(self, config)

    def forward(self, h, mask, pooled):
        """h (B, T, D) the embeddings, mask (B, T) or None, pooled (B, D) of the encoder -> (B, D)."""
        mask = h.new_ones(h.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        x = self.layer(self.down(h), mask)  # (B, T, M)
        real = mask.unsqueeze(-1).to(x.dtype)  # (B, T, 1)
        mean = (x * real).sum(dim=1) / real.sum(dim=1)  # (B, M)
        alpha = torch.sigmoid(self.blend)
        return alpha * pooled + (1 - alpha) * torch.tanh(self.up(mean))  # (B, D)


def attach(model, method, gate):
    """Put a side network beside the encoder."""
    model.side = SideNetwork(model.bert.config, method.bottleneck)
