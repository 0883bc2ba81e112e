"""One run on several processes (data parallel): each takes its share of every batch, and the gradients are summed.

    torchrun --nproc-per-node 2 train.py --task sst2 --method apl

    gradient of the batch  =  sum over processes of (its rows / all rows) * gradient of its mean loss

Only what trains travels between the processes: for LoRA on bert-base 0.3 million numbers a step, not 110 million. The result is
that of one process, but for the order in which floats are added. Dropout needs care for that: every process draws the noise of
the whole batch, as one process would, and uses its own rows of it.
"""

import os
from contextlib import nullcontext

import torch
from torch import distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from minipelt import InputError
from minipelt.bert import explicit_attention

HIDE_BARS = True if int(os.environ.get("RANK", 0)) else None  # tqdm's `disable`: bars on a terminal only, and from torchrun's first process alone


def start(device):
    """Join the other processes if torchrun started several; `device` is the name that the user gave. Returns this one's rank."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1: return 0
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} of this machine has no GPU of its own; expected --nproc-per-node {torch.cuda.device_count()} at most")
        torch.cuda.set_device(local)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    return distributed.get_rank()


def rank_and_size():
    """(this process's number, how many share the run)."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def share(inputs, labels):
    """This process's part of a batch.

    inputs: tensors (B, T), labels (B) -> (the same tensors with this process's rows, its labels, their weight in the batch's mean
    loss, a context in which dropout is that of the whole batch). A process that is left without rows gets one of weight 0.
    """
    rank, size = rank_and_size()
    if size == 1: return inputs, labels, 1.0, nullcontext()
    B = len(labels)
    mine = slice(B * rank // size, B * (rank + 1) // size)
    weight = (mine.stop - mine.start) / B
    if not weight: mine = slice(0, 1)
    return tuple(x[mine] for x in inputs), labels[mine], weight, WholeBatchDropout(mine, B)


def sum_gradients(parameters, loss):
    """Add up the gradients of all processes, in place, and their weighted losses. Returns the batch's mean loss, a number."""
    if rank_and_size()[1] == 1: return loss.item()
    flat = add_up(torch.cat([loss.detach().flatten(), *(p.grad.flatten() for p in parameters)]))  # (1 + all trained parameters)
    loss, *gradients = flat.split([1, *(p.numel() for p in parameters)])
    for p, gradient in zip(parameters, gradients): p.grad = gradient.view_as(p)
    return loss.item()


def add_up(tensor):
    """The sum of all processes' tensors of this shape, in each process."""
    if rank_and_size()[1] > 1: distributed.all_reduce(tensor)
    return tensor


class WholeBatchDropout(TorchFunctionMode):
    """While open, dropout on rows `mine` of a batch of B multiplies them with their rows of the noise for all B."""

    def __init__(self, mine, B):
        super().__init__()
        self.mine, self.B = mine, B

    def noise(self, x, p):
        """x (rows of mine, ...) -> 0 where an element is dropped, else 1 / (1 - p); the same shape."""
        return F.dropout(x.new_ones(self.B, *x.shape[1:]), p)[self.mine]

    def dropout(self, x, p=0.5, training=True, inplace=False):
        """What F.dropout does, with that noise."""
        return x * self.noise(x, p) if training else x

    def attention(self, q, k, v, attn_mask, dropout_p=0.0):
        """What F.scaled_dot_product_attention does, with that noise on the weights."""
        context, weights = explicit_attention(q, k, v, attn_mask)  # weights (B, H, T, S)
        return weights * self.noise(weights, dropout_p) @ v if dropout_p else context

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Called by torch in place of every one of its functions."""
        function = {F.dropout: self.dropout, F.scaled_dot_product_attention: self.attention}.get(function, function)
        return function(*args, **(kwargs or {}))
