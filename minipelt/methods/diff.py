"""Diff pruning (Guo et al. 2021): a sparse difference to the pretrained weights; every entry pays for being there.

    W = W_0 + z * delta        z = clip(s (r - l) + l, 0, 1),  s = sigmoid(log u - log(1 - u) + a),  u uniform on (0, 1)
    loss + lambda * mean over all entries of P(z > 0)        P(z > 0) = sigmoid(a - log(-l / r))

The mask z follows the hard concrete distribution (Louizos et al. 2018), stretched over (l, r), so that it can be
exactly 0 and still has a gradient: a relaxed count of entries, L0. Out of training there is no noise, s = sigmoid(a),
and of each matrix only the target share of entries with the largest |z delta| stays (magnitude pruning). So far the
paper.

This package's own: some epochs into the training the entries that stay are settled, and from then on they train
alone, to make up for the others. A run saves their places and their values. The paper prunes once, after training,
and keeps one share of all matrices together; here each matrix keeps the same share.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

LOW, HIGH = -1.5, 1.5  # l and r
LAMBDA = 1.0
CERTAIN = 20.0  # with this a, or minus this, no noise changes the mask, and a gets no gradient any more
SPEED = 100.0  # a moves so many times faster than delta: AdamW moves any parameter by the learning rate a step


class Diff(nn.Module):
    """The difference of one weight matrix, a parametrization of it; the matrix itself stays frozen.

    It gets gradients in training mode alone. In evaluation mode it prunes anew for every pass; `parametrize.cached()`
    around several passes computes it once.
    """

    part = "diff"
    equation = "W = W_0 + z * delta; while training z = clip(3 sigmoid(log u - log(1 - u) + a) - 1.5, 0, 1)"

    def __init__(self, weight, share):
        super().__init__()
        self.shape = weight.shape
        self.num_saved = max(1, round(share * weight.numel()))  # entries that stay
        self.delta = nn.Parameter(torch.zeros_like(weight))  # 0: training starts from plain BERT exactly
        self.a = nn.Parameter(torch.full_like(weight, 5 / SPEED))  # z is nearly always 1 at first
        self.difference = None  # what a saved run brings in place of delta and a

    def forward(self, weight):
        """W_0 -> W, the same shape."""
        if self.difference is not None:
            return weight + self.difference
        if self.training:
            return weight + self.mask(noisy=True) * self.delta
        return weight + self.prune()

    def mask(self, noisy):
        """z, one number in [0, 1] for each entry."""
        a = SPEED * self.a
        if noisy:
            u = torch.rand_like(a).clamp_(1e-6, 1 - 1e-6)
            a = a + u.log() - (1 - u).log()
        return (torch.sigmoid(a) * (HIGH - LOW) + LOW).clamp(0, 1)

    def expected_share(self):
        """The mean of P(z > 0) over the entries."""
        return torch.sigmoid(SPEED * self.a - math.log(-LOW / HIGH)).mean()

    @torch.no_grad()
    def prune(self):
        """z delta without noise, but for its largest entries 0."""
        difference = (self.mask(noisy=False) * self.delta).flatten()
        places = difference.abs().topk(self.num_saved).indices
        kept = torch.zeros_like(difference)
        kept[places] = difference[places]
        return kept.view(self.shape)

    @torch.no_grad()
    def settle(self):
        """Fix the mask: 1 for the entries that would stay, 0 for all others. From here on only the former train."""
        difference = self.prune()
        self.delta.copy_(difference)
        self.a.copy_(torch.where(difference != 0, CERTAIN / SPEED, -CERTAIN / SPEED))

    def saved_state(self):
        """What a run keeps: places (in the flattened matrix, int32) and values of the entries that stay."""
        difference = self.prune() if self.difference is None else self.difference
        flat = difference.flatten()
        places = flat.abs().topk(self.num_saved).indices.sort().values
        return {"places": places.int(), "values": flat[places]}

    def check_saved_state(self, tensors):
        """Raise IndexError for a place outside of the matrix, and for places that do not rise: each stands once."""
        places = tensors["places"].long()
        if not 0 <= places.min() <= places.max() < self.shape.numel():
            raise IndexError(f"a place outside of the {self.shape.numel():,} entries of the matrix")
        if (places.diff() <= 0).any():
            raise IndexError("places that do not rise; expected each entry of the matrix once")

    def load_saved_state(self, tensors):
        """Take the difference that `saved_state` gave. delta and a are no longer needed."""
        places = tensors["places"].long()
        flat = torch.zeros(self.shape.numel(), device=tensors["values"].device)
        self.difference = flat.index_copy_(0, places, tensors["values"]).view(self.shape)
        self.delta = None
        self.a = None


class DiffLoss(nn.Module):
    """What diff pruning asks of the training loop: its penalty, and a moment to settle. Fills the slot `extra_loss`."""

    def __init__(self, diffs):
        super().__init__()
        self.diffs = tuple(diffs)  # not a ModuleList: they live in the encoder
        self.settled = False

    def forward(self, epoch, recipe):
        """For every loss of an epoch, from 1 on -> lambda * the share of entries that z is expected to let through."""
        # Settled early enough for patience to see what it brings.
        settling = 1 + max(1, min(recipe.epochs, recipe.patience) // 2)
        if epoch == settling and not self.settled:
            self.settle()
        entries = sum(diff.shape.numel() for diff in self.diffs)
        return LAMBDA * sum(diff.expected_share() * (diff.shape.numel() / entries) for diff in self.diffs)

    def settle(self):
        """Settle every difference."""
        for diff in self.diffs:
            diff.settle()
        self.settled = True


def attach(model, method, gate):
    """Give every Linear of the encoder's layers a Diff."""
    linears = [module for module in model.bert.encoder.modules() if isinstance(module, nn.Linear)]
    diffs = []
    for linear in linears:
        diff = Diff(linear.weight, method.share)
        parametrize.register_parametrization(linear, "weight", diff)
        diffs.append(diff)
    model.extra_loss = DiffLoss(diffs)
