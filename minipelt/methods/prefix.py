"""Prefix-tuning (Li and Liang 2021): every layer's attention sees P trained vectors before the sentence's own
(UniPELT, section 2).

    K  <-  [g * P_K ; K]        V  <-  [g * P_V ; V]        Q stays: the sentence asks, the prefix is only asked

Training the vectors themselves is unstable, so while training a small network makes them (the reparameterisation),

    P_K, P_V of all layers = W_2 tanh(W_1 E + b_1) + b_2        E: an embedding (P, D), W_1: D -> 512, W_2: 512 -> 2 N D

and is dropped afterwards: 2 N matrices of P x D remain, 2 P N D parameters.
"""

import torch
from torch import nn


class PrefixTable(nn.Module):
    """The prefixes of all layers. Fills the slot `prefix` of a BertModel."""

    part = "prefix"
    equation = "P_K and P_V of all layers; while training they are W_2 tanh(W_1 E + b_1) + b_2"

    def __init__(self, num_layers, hidden_size, prefix_length, prefix_hidden):
        super().__init__()
        self.shape = (num_layers, 2, prefix_length, hidden_size)
        self.table = None  # the vectors themselves, once the network is dropped
        # Every part starts as torch starts it: embeddings N(0, 1), Linears uniform.
        self.network = nn.Sequential(
            nn.Embedding(prefix_length, hidden_size),
            nn.Linear(hidden_size, prefix_hidden),
            nn.Tanh(),
            nn.Linear(prefix_hidden, 2 * num_layers * hidden_size),
        )

    def forward(self):
        """-> (N, 2, P, D): for each layer the prefix keys, then the prefix values."""
        if self.network is None:
            return self.table
        N, _, P, D = self.shape
        positions = torch.arange(P, device=self.network[0].weight.device)  # (P)
        return self.network(positions).view(P, N, 2, D).permute(1, 2, 0, 3)  # (P, 2 N D) -> (N, 2, P, D)

    @torch.no_grad()
    def drop_network(self):
        """Keep what the network makes, as a trained tensor, and forget the network.

        The model's output stays the same.
        """
        if self.network is not None:
            self.table = nn.Parameter(self().contiguous())
            self.network = None

    @property
    def num_saved(self):
        """How many trained numbers a run keeps: 2 N P D."""
        N, _, P, D = self.shape
        return 2 * N * P * D

    def saved_state(self):
        """What a run keeps: the vectors, (N, 2, P, D), not the network that makes them."""
        return {"table": self().detach()}

    @torch.no_grad()
    def load_saved_state(self, tensors):
        """Take the vectors that `saved_state` gave; the network is no longer needed."""
        self.drop_network()
        self.table.copy_(tensors["table"])


class Prefix(nn.Module):
    """One layer's use of its prefix. Fills the slot `prefix` of a BertSelfAttention."""

    part = "prefix"
    equation = "K = [{g}P_K ; K]   V = [{g}P_V ; V]"

    def __init__(self, gate=None):
        super().__init__()
        self.gate = gate

    def forward(self, h, k, v, mask, prefix):
        """h, k, v (B, T, D), mask (B, T), prefix (2, P, D) -> longer k and v (B, P + T, D), mask (B, P + T)."""
        prefix = prefix[:, None].expand(-1, len(h), -1, -1)  # (2, B, P, D)
        if self.gate is not None:
            prefix = self.gate(h, mask) * prefix  # (B, 1, 1) * (2, B, P, D)
        k = torch.cat([prefix[0], k], dim=1)  # (B, P + T, D)
        v = torch.cat([prefix[1], v], dim=1)  # (B, P + T, D)
        mask = torch.cat([mask.new_ones(prefix.shape[1:3]), mask], dim=1)  # (B, P + T): a prefix is never padding
        return k, v, mask


def attach(model, method, gate):
    """Put the table of all prefixes into the encoder."""
    config = model.bert.config
    N, D = config.num_hidden_layers, config.hidden_size
    model.bert.prefix = PrefixTable(N, D, method.prefix_length, method.prefix_hidden)


def attach_layer(layer, method, gate):
    """Let the attention of a BertLayer use its prefix."""
    layer.attention.self.prefix = Prefix(gate())
