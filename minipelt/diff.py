"""Diff pruning (Guo et al. 2021): a sparse difference to the pretrained weights, found by making each entry pay for being there.

    W = W_0 + z * delta        z = clip(s (r - l) + l, 0, 1),  s = sigmoid(log u - log(1 - u) + a),  u uniform on (0, 1)
    loss + lambda * mean over all entries of P(z > 0)        P(z > 0) = sigmoid(a - log(-l / r))

The coin z is the hard concrete distribution (Louizos et al. 2018), stretched over (l, r), so that it can be exactly 0 and still has
a gradient: a relaxed count of entries, L0. Out of training, z is what it is at s = sigmoid(a), and of each matrix only the target
share of entries with the largest |z delta| stays (magnitude pruning). Some epochs into the training these entries are settled, and
from then on they train alone, to make up for the others. A run saves their places and their values.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

LOW, HIGH = -1.5, 1.5  # l and r
LAMBDA = 1.0
SURE = 20.0  # with this a, or minus this, no noise turns the coin, and a gets no gradient any more
SPEED = 100.0  # a moves so many times faster than delta: AdamW moves any parameter by the learning rate a step, and a has far to go


class Diff(nn.Module):
    """The difference of one weight matrix; the matrix itself stays frozen. It gets gradients in training mode alone."""

    def __init__(self, weight, share):
        super().__init__()
        self.shape, self.kept = weight.shape, max(1, round(share * weight.numel()))  # kept: entries
        self.delta = nn.Parameter(torch.zeros_like(weight))  # 0: training starts from plain BERT exactly
        self.a = nn.Parameter(torch.full_like(weight, 5 / SPEED))  # nearly every coin shows 1 at first
        self.pruned = None  # the difference as it is out of training, once it is known

    def forward(self, weight):
        """W_0 -> W, the same shape."""
        if self.training and self.delta is not None: return weight + self.coin(noisy=True) * self.delta
        if self.pruned is None: self.pruned = self.prune()
        return weight + self.pruned

    def coin(self, noisy):
        """z, one number in [0, 1] for each entry."""
        a = SPEED * self.a
        if noisy:
            u = torch.rand_like(a).clamp_(1e-6, 1 - 1e-6)
            a = a + u.log() - (1 - u).log()
        return (torch.sigmoid(a) * (HIGH - LOW) + LOW).clamp(0, 1)

    def expected_share(self):
        """The mean of P(z > 0)."""
        return torch.sigmoid(SPEED * self.a - math.log(-LOW / HIGH)).mean()

    @torch.no_grad()
    def prune(self):
        """z delta without noise, but for its largest entries 0."""
        difference = (self.coin(noisy=False) * self.delta).flatten()
        places = difference.abs().topk(self.kept).indices
        return torch.zeros_like(difference).index_copy_(0, places, difference[places]).view(self.shape)

    @torch.no_grad()
    def settle(self):
        """Fix the coins: 1 for the entries that would stay, 0 for all others. From here on only the former train."""
        difference = self.prune()
        self.delta.copy_(difference)
        self.a.copy_(torch.where(difference != 0, SURE / SPEED, -SURE / SPEED))

    def train(self, mode=True):
        """What model.train() and model.eval() call. The pruned difference may be out of date by then."""
        if self.delta is not None: self.pruned = None
        return super().train(mode)

    def remains(self):
        """What is saved: places (of the flattened matrix, int32) and values of the entries that stay."""
        difference = (self.prune() if self.pruned is None else self.pruned).flatten()
        places = difference.abs().topk(self.kept).indices.sort().values
        return {"places": places.int(), "values": difference[places]}

    def become(self, tensors):
        """Be, from now on, what `remains` gave."""
        flat = torch.zeros(self.shape.numel(), device=tensors["values"].device)
        self.pruned = flat.index_copy_(0, tensors["places"].long(), tensors["values"]).view(self.shape)
        self.delta = self.a = None


class Penalty(nn.Module):
    """lambda * the share of entries that the coins are expected to let through. Fills the slot `penalty` of a BertClassifier."""

    def __init__(self, diffs):
        super().__init__()
        self.diffs = tuple(diffs)  # not a ModuleList: they live in the encoder

    def forward(self):
        """-> a number, to be added to the loss."""
        entries = sum(diff.shape.numel() for diff in self.diffs)
        return LAMBDA * sum(diff.expected_share() * (diff.shape.numel() / entries) for diff in self.diffs)

    def settle(self):
        """Settle every difference."""
        for diff in self.diffs: diff.settle()


def differentiate(bert, share):
    """Give every Linear of the encoder's layers a Diff, in place. Returns them."""
    diffs = []
    for module in list(bert.encoder.modules()):
        if not isinstance(module, nn.Linear): continue
        diffs.append(Diff(module.weight, share))
        parametrize.register_parametrization(module, "weight", diffs[-1])
        diffs[-1].pruned = None  # to register it, torch asked for it once
    return diffs
