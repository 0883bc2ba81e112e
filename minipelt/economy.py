"""The same run in less time or memory: bfloat16, compiled kernels, layers that are computed twice. All are off by
default, so that nothing here stands between a reader and the numbers.

    run = what_the_machine_has(run, device, print)      takes out, with a sentence, what this machine cannot do
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MethodType

import torch
from torch.utils.checkpoint import checkpoint

from minipelt.errors import InputError


def use_bfloat16(model):
    """Let a model multiply its matrices in bfloat16: half the bytes, 8 bits of precision. Weights stay float32.

    torch.autocast chooses the operations. Losses stay in float32; on a GPU softmax and LayerNorm do, too, on a CPU only
    where their input is.
    """
    device = next(model.parameters()).device
    model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)


def arithmetic_of(run, device):
    """A context manager: while open, matrices are multiplied on `device` as in a Run, also outside of its model."""
    return torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16")


def recompute_layers(bert):
    """Let every layer keep its input alone, and compute the rest again on the way back: gradient checkpointing.

    The gradients are the same, dropout's noise included; a training step costs another forward pass.
    """
    for layer in bert.encoder.layer:
        forward = MethodType(type(layer).forward, layer)  # not layer.forward: runs of a sweep share their base
        layer.forward = partial(checkpoint, forward, use_reentrant=False)


def what_the_machine_has(run, device, say):
    """A Run -> the same without bfloat16 or compilation where the device lacks them; say(line) tells the user."""
    if run.precision == "bf16" and not has_bfloat16(device):
        say(f"{device.type} has no bfloat16 arithmetic here; the run goes on in float32")
        run = replace(run, precision="float32")
    if run.compile and not can_compile(device):
        say(f"torch.compile finds no compiler for {device.type} here; the run goes on without it")
        run = replace(run, compile=False)
    return run


def has_bfloat16(device):
    """Whether a torch.device multiplies in bfloat16. Others would imitate it, more slowly than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def can_compile(device):
    """Whether torch.compile works on a torch.device: it compiles a small product, which takes some seconds."""
    x = torch.ones(8, device=device)
    try:
        torch.compile(lambda x: 2 * x + 1)(x)
    except Exception:  # torch raises a kind of its own for every compiler that may be missing
        return False
    return True


@contextmanager
def memory_advice(run):
    """While open, torch's lack of memory becomes an InputError of one line that says what to try."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one, too
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        rows, parts = run.recipe.batch_size, run.recipe.accumulate
        raise InputError(
            f"out of memory with {rows} rows a step in parts of {-(-rows // parts)}; expected smaller ones: "
            f"--batch-size {max(1, rows // 2)}, or --accumulate {2 * parts}, which is the same run with other dropout "
            "noise, or --gradient-checkpointing, which has the same result"
        ) from None
