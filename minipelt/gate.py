"""The gate (UniPELT, section 3.2): how much of a submodule an input lets through.

    g = mean over the real tokens t of sigmoid(w . x_t + b),   one scalar in (0, 1) per example

x is what the submodule reads: the layer's input h for prefix-tuning and LoRA; for the adapter LayerNorm(f + a), what
the layer gives without it.

The authors' code averages over padding too, so a sentence gets other gates, and another prediction, in another batch.
Here padding does not count.
"""

from contextlib import contextmanager

import torch
from torch import nn

from minipelt.errors import InputError


class Gate(nn.Module):
    """One gate: a D -> 1 projection, a sigmoid, a mean over real tokens.

    It starts near one half: weights N(0, 0.02), bias 0.
    """

    part = "gates"
    equation = "g = mean over real tokens of sigmoid(w . x + b)"

    def __init__(self, hidden_size):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T), True for real tokens -> (B, 1, 1), ready to scale a (B, T, D) tensor."""
        g = torch.sigmoid(self.linear(x))  # (B, T, 1)
        real = mask.unsqueeze(-1).to(g.dtype)  # (B, T, 1)
        return (g * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)  # (B, 1, 1)


@contextmanager
def record_gates(model):
    """While open, collect what every gate of `model` returns: {module name: list of (B,) tensors, one a pass}."""
    values = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, Gate):
            values[name] = []
            hooks.append(module.register_forward_hook(recorder(values[name])))
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def recorder(kept):
    """A forward hook that appends a gate's values, (B,), to a list."""

    def record(gate, inputs, g):
        kept.append(g.detach().flatten().float().cpu())  # float: after a pass in bfloat16, too

    return record


def mean_gates(recorded):
    """What `record_gates` collected -> {submodule: [mean gate of each layer]}, the mean over all examples."""
    means = {}
    for name, values in recorded.items():
        means.setdefault(submodule_of(name), []).append(torch.cat(values).mean().item())
    return means


def submodule_of(name):
    """A gate's module name -> what it scales: bert.encoder.layer.1.attention.self.prefix.gate -> prefix."""
    _, _, inside = name.partition("layer.")  # <layer>.(attention.self.)<submodule>.gate
    _, _, place = inside.partition(".")
    return place.removeprefix("attention.self.").removesuffix(".gate")


@contextmanager
def force_gates(model, values):
    """While open, gates of `model` give the values that they are told, whatever they read.

        with force_gates(model, {"prefix": 0.0, "bert.encoder.layer.1.adapter.gate": 1.0}):
            logits = model(*inputs)

    values: {name: number from 0 to 1}. A name is a gate's own, as `record_gates` has it; or a submodule's, such as
    prefix, adapter, lora_query, lora_value, for its gates in all layers; or "all". Where several mean the same gate,
    its own name counts first, then its submodule's. No weight is touched: after the block each gate computes its value
    again. `record_gates` opened inside the block collects the forced values; opened around it, the gates' own. Raises
    InputError for a name that no gate of the model has, or a value outside of 0 to 1.
    """
    gates = {name: module for name, module in model.named_modules() if isinstance(module, Gate)}
    check_forced(gates, values)
    hooks = []
    for name, gate in gates.items():
        for key in (name, submodule_of(name), "all"):
            if key in values:
                hooks.append(gate.register_forward_hook(forcer(values[key])))
                break
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_forced(gates, values):
    """Raise InputError unless each name of `values` means a gate, and each value is a number from 0 to 1."""
    submodules = sorted({submodule_of(name) for name in gates})
    for name, value in values.items():
        if not gates:
            raise InputError(f"no gate {name!r} to force: this model has no gates")
        if name not in gates and name not in submodules and name != "all":
            expected = f"{', '.join(submodules)}, all, or a gate's own name such as {next(iter(gates))}"
            raise InputError(f"no gate {name!r} to force; expected {expected}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and 0 <= value <= 1):
            raise InputError(f"gate {name} is to be {value!r}; expected a number from 0 to 1")


def forcer(value):
    """A forward hook that puts a number in the place of a gate's values."""

    def force(gate, inputs, g):
        return torch.full_like(g, value)

    return force
