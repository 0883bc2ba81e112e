"""DoRA (Liu et al. 2024): a weight matrix taken apart. Its direction gets LoRA, its length is trained.

    V = W_0 + s B A         W = m * V / |V|         m: one length a row, |V|: the lengths of V's rows, s = alpha / R

A row of W makes one feature of the projection's output. LoRA changes a row's direction and length together; here each
moves by itself. As in section 4.3 of the paper, |V| counts as a constant in the backward pass, which saves memory.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize


class DoRA(nn.Module):
    """A parametrization of one weight matrix W (out, in); the matrix itself stays frozen."""

    part = "dora"
    equation = "W = m * V / |V|   V = W_0 + s B A"

    def __init__(self, weight, rank, alpha):
        super().__init__()
        out_features, in_features = weight.shape
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        self.m = nn.Parameter(row_lengths(weight).detach())
        # B = 0 and m = |W_0|: training starts from plain BERT exactly. A is Kaiming-uniform, as in LoRA.
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight):
        """W_0 (out, in) -> W, the same shape."""
        V = weight + self.scale * self.B @ self.A  # (out, R) @ (R, in)
        return self.m / row_lengths(V).detach() * V  # (out, 1) * (out, in)


def row_lengths(matrix):
    """(out, in) -> the length of each row, (out, 1)."""
    return matrix.norm(dim=1, keepdim=True)


def attach_layer(layer, method, gate):
    """Rewrite the query and the value projection of a BertLayer, where LoRA would stand beside them."""
    attention = layer.attention.self
    for linear in (attention.query, attention.value):
        parametrize.register_parametrization(linear, "weight", DoRA(linear.weight, method.rank, method.alpha))
