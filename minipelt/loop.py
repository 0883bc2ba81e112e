"""The training loop: AdamW, linear warm-up and decay, gradient clipping, early stopping on a validation score.

    for report in train(model, rows, recipe, validate, make_optimizer(model, recipe)):
        print(report)

Every epoch seeds its own shuffle and its own dropout, so a run that was stopped after an epoch and goes on later ends
with the same numbers, to the bit, as one that ran through. Progress bars, files and messages live with the caller
(experiment.py).
"""

import math

import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, parametrize

from minipelt.batches import collate, evaluation_batches, in_batches, training_batches
from minipelt.unipelt import trained_parameters


def train(model, rows, recipe, validate, optimizer, reports=()):
    """Train `model` in place; yield a report after each epoch, {"epoch", "loss", "score", "best_score", "best_epoch"}.

    rows: batches.Rows; recipe: settings.Recipe; validate(model) -> score, higher is better; optimizer: of
    `make_optimizer`. reports: those of the epochs that were done before, if the run goes on with a model and
    optimizer as they were then.
    """
    device = next(model.parameters()).device
    parameters = list(trained_parameters(model).values())
    steps = math.ceil(len(rows) / recipe.batch_size)  # an epoch
    best_score, best_epoch = -math.inf, 0
    if reports:
        best_score, best_epoch = reports[-1]["best_score"], reports[-1]["best_epoch"]

    for epoch in range(len(reports) + 1, recipe.epochs + 1):
        if epoch - 1 - best_epoch >= recipe.patience:
            return
        seed = recipe.seed * 1000 + epoch
        torch.manual_seed(seed)
        model.train()
        total_loss = 0.0
        for step, indices in enumerate(training_batches(rows, recipe.batch_size, seed), start=(epoch - 1) * steps):
            set_learning_rate(optimizer, recipe, step, steps * recipe.epochs)
            for chunk in in_batches(indices, math.ceil(len(indices) / recipe.accumulate)):  # one, if memory allows
                inputs, labels = collate(rows, chunk, device)  # (B, T) each, (B)
                extra_loss = model.extra_loss(epoch, recipe) if model.extra_loss else 0.0
                loss = loss_function(model(*inputs), labels)
                share = len(chunk) / len(indices)
                ((loss + extra_loss) * share).backward()
                total_loss += loss.item() * len(chunk)
            clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
        score = validate(model)
        if score > best_score:
            best_score, best_epoch = score, epoch
        loss = total_loss / len(rows)
        yield {"epoch": epoch, "loss": loss, "score": score, "best_score": best_score, "best_epoch": best_epoch}


def loss_function(logits, labels):
    """logits (B, C), labels (B): cross-entropy for class numbers, mean squared error for scores (C = 1)."""
    logits = logits.float()  # after a pass in bfloat16
    if labels.is_floating_point():
        return F.mse_loss(logits.squeeze(-1), labels)
    return F.cross_entropy(logits, labels)


def make_optimizer(model, recipe):
    """AdamW over what trains. What has two dimensions decays; biases, LayerNorm weights and other vectors do not."""
    parameters = list(trained_parameters(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type in ("cpu", "cuda")  # one kernel a step, many times faster for fine-tuning
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=fused)


def set_learning_rate(optimizer, recipe, step, total_steps):
    """Give the optimizer the rate of a step, counted from 0: in a line up to its peak, then in a line down to 0."""
    warmup = max(1, round(recipe.warmup * total_steps))
    up = (step + 1) / warmup
    down = (total_steps - step) / max(1, total_steps - warmup)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * min(up, down)


@torch.inference_mode()
def predict(model, rows):
    """Logits (n, C) of all rows, in their order, on the CPU. Leaves the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    batch_size = 16 if device.type == "cpu" else 64  # a CPU gains by little padding, a GPU by large matrices
    batches = evaluation_batches(rows, batch_size)
    with parametrize.cached():  # a matrix that a method rewrites (diff, dora) is computed once
        logits = torch.cat([model(*collate(rows, indices, device)[0]).float().cpu() for indices in batches])
    order = [index for indices in batches for index in indices]
    in_order = torch.empty_like(logits)
    in_order[order] = logits
    return in_order
