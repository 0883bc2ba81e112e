"""LoRA (Hu et al. 2022): a low-rank update of the query and value projections (UniPELT: of every layer).

    q = W_q h + b_q + s * B A h         A: D -> R, B: R -> D

s is the constant alpha / R when LoRA is alone, which makes alpha a gate that never moves; in UniPELT s is the gate g.
A constant s means that W_q + s B A is one matrix: `merge` puts it there, and inference costs what plain BERT costs.
"""

import math

import torch
from torch import nn


class LoRA(nn.Module):
    """One low-rank delta. Fills a slot `lora_query` or `lora_value` of a BertSelfAttention, which adds the result to q or v."""

    def __init__(self, hidden_size, rank, alpha, gate=None):
        super().__init__()
        self.A = nn.Linear(hidden_size, rank, bias=False)
        self.B = nn.Linear(rank, hidden_size, bias=False)
        self.scale = alpha / rank
        self.gate = gate
        # B = 0: training starts from plain BERT exactly. A is Kaiming-uniform, so that B gets a gradient from the first step.
        nn.init.kaiming_uniform_(self.A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.B.weight)

    def forward(self, h, mask):
        """h (B, T, D), mask (B, T) -> what to add to q or v, (B, T, D)."""
        s = self.scale if self.gate is None else self.gate(h, mask)  # a number, or (B, 1, 1)
        return s * self.B(self.A(h))  # (B, T, R) -> (B, T, D)


@torch.no_grad()
def merge(bert):
    """Add every LoRA of an encoder to the weight it updates, and empty the slots. The model's output stays the same.

    Raises ValueError if a LoRA is gated: its scale depends on the input, so no single matrix equals it.
    """
    attentions = [layer.attention.self for layer in bert.encoder.layer]
    if any(lora.gate for attention in attentions for lora in (attention.lora_query, attention.lora_value) if lora):
        raise ValueError("a gated LoRA cannot be merged: its scale depends on the input")
    for attention in attentions:
        for lora, linear in ((attention.lora_query, attention.query), (attention.lora_value, attention.value)):
            if lora: linear.weight += lora.scale * lora.B.weight @ lora.A.weight  # (D, R) @ (R, D)
        attention.lora_query = attention.lora_value = None
