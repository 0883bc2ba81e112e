"""The gate (UniPELT, section 3.2): how much of a submodule an input lets through.

    g = mean over the real tokens t of sigmoid(w . x_t + b),   one scalar in (0, 1) per example

x is what the submodule reads: the layer's input for prefix-tuning and LoRA, the feed-forward block's output for the adapter.

The authors' code averages over padding too, so a sentence gets other gates, and another prediction, in another batch. Here
padding does not count.
"""

from contextlib import contextmanager

import torch
from torch import nn


class Gate(nn.Module):
    """One gate: a D -> 1 projection, a sigmoid, a mean over real tokens. It starts near one half: weights N(0, 0.02), bias 0."""

    def __init__(self, hidden_size):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T), True for real tokens -> (B, 1, 1), ready to scale a (B, T, D) tensor."""
        g = torch.sigmoid(self.linear(x))  # (B, T, 1)
        real = mask.unsqueeze(-1).to(g.dtype)  # (B, T, 1)
        return (g * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)


def mean_gates(recorded):
    """What `record_gates` collected -> {submodule: [mean gate of each layer]}, the mean over all examples."""
    means = {}
    for name, values in recorded.items():  # bert.encoder.layer.<layer>.(attention.self.)<submodule>.gate, layers in order
        submodule = name.split(".", 4)[-1].removeprefix("attention.self.").removesuffix(".gate")
        means.setdefault(submodule, []).append(torch.cat(values).mean().item())
    return means


@contextmanager
def record_gates(model):
    """While open, collect what every gate of `model` returns: {module name: list of (B,) tensors, one per forward pass}."""
    values = {name: [] for name, module in model.named_modules() if isinstance(module, Gate)}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda gate, inputs, g, kept=kept: kept.append(g.detach().flatten().cpu()))
        for name, kept in values.items()
    ]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()
