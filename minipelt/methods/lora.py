"""LoRA (Hu et al. 2022): a low-rank update of the query and value projections (UniPELT: of every layer).

    q = W_q h + b_q + s * B A h         A: D -> R, B: R -> D; v likewise, with an A and a B of its own

s is the constant alpha / R when LoRA is alone, which makes alpha a gate that never moves; in UniPELT s is the gate g.
A constant s means that W_q + s B A is one matrix: `merge` puts it there, and inference costs what plain BERT costs.
"""

import math

import torch
from torch import nn


class LoRA(nn.Module):
    """One low-rank delta.

    Fills a slot `lora_query` or `lora_value` of a BertSelfAttention, which adds the result to q or v.
    """

    part = "lora"

    def __init__(self, hidden_size, rank, alpha, gate=None):
        super().__init__()
        self.A = nn.Linear(hidden_size, rank, bias=False)
        self.B = nn.Linear(rank, hidden_size, bias=False)
        self.scale = alpha / rank
        self.gate = gate
        # B = 0: training starts from plain BERT exactly. A is Kaiming-uniform, so that B gets a gradient at once.
        nn.init.kaiming_uniform_(self.A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.B.weight)

    @property
    def equation(self):
        """The formula, with the scale that holds. W and b are the projection's that the delta stands beside."""
        return "W h + b + {g}B A h" if self.gate else f"W h + b + {self.scale:g} * B A h"

    def forward(self, h, mask):
        """h (B, T, D), mask (B, T) -> what to add to q or v, (B, T, D)."""
        s = self.scale if self.gate is None else self.gate(h, mask)  # a number, or (B, 1, 1)
        return self.B(s * self.A(h))  # (B, T, R) -> (B, T, D); scaled where it is narrow


def attach_layer(layer, method, gate):
    """Put a LoRA beside the query and one beside the value projection of a BertLayer."""
    attention = layer.attention.self
    hidden_size = attention.query.in_features
    attention.lora_query = LoRA(hidden_size, method.rank, method.alpha, gate())
    attention.lora_value = LoRA(hidden_size, method.rank, method.alpha, gate())


@torch.no_grad()
def merge(bert):
    """Add every LoRA of an encoder to the weight it updates, and empty the slots. The model's output stays the same.

    Raises ValueError if a LoRA is gated: its scale depends on the input, so no single matrix equals it.
    """
    found = [module for module in bert.modules() if isinstance(module, LoRA)]
    if any(lora.gate for lora in found):
        raise ValueError("a gated LoRA cannot be merged: its scale depends on the input")
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        for lora, linear in ((attention.lora_query, attention.query), (attention.lora_value, attention.value)):
            if lora:
                linear.weight += lora.scale * lora.B.weight @ lora.A.weight  # (D, R) @ (R, D)
        attention.lora_query = None
        attention.lora_value = None
