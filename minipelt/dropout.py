"""Dropout that costs little on a CPU: the same noise, from a quarter of the random numbers.

    y = x * z / (1 - p)        z: 0 with probability p, else 1

torch draws a number for every element, one after the other; that is a quarter of a training step. Here one 64-bit
number serves four elements, 16 bits each: an element is dropped where its bits, as a number from 0 to 65,535, lie
below 65,536 p, rounded. So the probability is p to within 1 / 131,072, and the mean of y is that of x exactly. On a
GPU torch's own dropout is fast, and used.
"""

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = 1 << 16  # what 16 bits tell apart


def dropout(x, p):
    """Drop elements of x, of any shape, with probability p in [0, 1), and scale up what stays. Follows torch's seed."""
    if p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * noise(x, p)


def noise(x, p):
    """0 where an element of x is dropped, else 1 / (1 - p); the shape and dtype of x."""
    numbers = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # all 64 bits are random
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # whole numbers from -32,768 to 32,767
    dropped = round(p * LEVELS)  # so many of the levels
    stays = bits >= dropped - LEVELS // 2
    return stays.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Module):
    """Dropout while training, nothing otherwise."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        """x of any shape -> the same shape."""
        return dropout(x, self.p) if self.training else x
