"""The training loop: AdamW, linear warm-up and decay, gradient clipping, early stopping on a validation score; resumable.

Every epoch seeds its own shuffle and its own dropout, so a run that was stopped after an epoch and resumed ends with the same
numbers, to the bit, as one that ran through.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from tqdm import tqdm

from minipelt import InputError
from minipelt.batches import collate, evaluation_batches, training_batches
from minipelt.parallel import HIDE_BARS, share, sum_gradients
from minipelt.unipelt import trained_parameters


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's, where it states them."""

    learning_rate: float
    batch_size: int = 16
    epochs: int = 50  # at most
    patience: int = 10  # stop after so many epochs without a better validation score
    warmup: float = 0.06  # share of all steps in which the learning rate rises from 0
    weight_decay: float = 0.01  # on matrices; biases and LayerNorm weights do not decay
    clip: float = 1.0  # largest norm of the gradient of all trained parameters together
    seed: int = 1

    def __post_init__(self):
        for field in ("learning_rate", "batch_size", "epochs", "patience"):
            if not getattr(self, field) > 0: raise InputError(f"{field} is {getattr(self, field)}; expected a number above 0")
        if not 0 <= self.seed < 10**9: raise InputError(f"seed is {self.seed}; expected a whole number from 0 to 999,999,999")


def loss_function(logits, labels):
    """logits (B, C), labels (B): cross-entropy for class numbers, mean squared error for scores (C = 1)."""
    if labels.is_floating_point(): return F.mse_loss(logits.squeeze(-1), labels)
    return F.cross_entropy(logits, labels)


def make_optimizer(model, recipe, total_steps):
    """AdamW over what trains, and its schedule: in a line up to the learning rate, then in a line down to 0."""
    parameters = list(trained_parameters(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type in ("cpu", "cuda")  # one kernel a step, many times faster for fine-tuning
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=fused)
    warmup = max(1, round(recipe.warmup * total_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (total_steps - step) / max(1, total_steps - warmup))
    )
    return optimizer, schedule


@torch.inference_mode()
def predict(model, rows, rank=0, size=1):
    """Logits (n, C) of all rows, in their order, on the CPU. Leaves the model in evaluation mode.

    Where `size` processes share the work, process `rank` does every size-th batch and leaves the other rows at 0.
    """
    model.eval()
    device = next(model.parameters()).device
    logits = torch.zeros(len(rows), model.classifier.out_features)
    batches = evaluation_batches(rows, 16 if device.type == "cpu" else 64)  # a CPU gains by little padding, a GPU by large matrices
    for indices in tqdm(batches[rank::size], desc="scoring", unit="batch", disable=HIDE_BARS, leave=False):
        logits[indices] = model(*collate(rows, indices, device)[0]).float().cpu()
    return logits


def train(model, rows, recipe, validate, state=None, on_epoch=lambda report, state: None):
    """Train `model` in place and stop early. Returns the list of epoch reports.

    validate(model) -> validation score, higher is better. state: where to go on, as `on_epoch` got it (default: the start).
    on_epoch(report, state) is called after each epoch; report is a dict (epoch, loss, score, best_score, best_epoch,
    train_seconds, validation_seconds), and state() returns what a resumed run needs: (tensors, reports).
    """
    steps = math.ceil(len(rows) / recipe.batch_size)
    optimizer, schedule = make_optimizer(model, recipe, steps * recipe.epochs)
    reports = restore(state, model, optimizer, schedule, steps) if state else []
    parameters = trained_parameters(model)
    device = next(model.parameters()).device
    settling = 1 + max(1, min(recipe.epochs, recipe.patience) // 2)  # the epoch: early enough for patience to see what it brings

    with tqdm(total=steps * recipe.epochs, initial=steps * len(reports), unit="step", disable=HIDE_BARS, leave=False) as bar:
        for epoch in range(len(reports) + 1, recipe.epochs + 1):
            if reports and reports[-1]["epoch"] - reports[-1]["best_epoch"] >= recipe.patience: break
            started, total_loss = time.perf_counter(), 0.0
            model.train()
            if model.penalty and epoch == settling: model.penalty.settle()
            torch.manual_seed(recipe.seed * 1000 + epoch)
            for indices in training_batches(rows, recipe.batch_size, seed=recipe.seed * 1000 + epoch):
                inputs, labels, weight, dropout = share(*collate(rows, indices, device))  # all of the batch, where one process trains
                with dropout: loss = weight * loss_function(model(*inputs), labels)
                penalty = weight * model.penalty() if model.penalty else 0.0
                (loss + penalty).backward()
                loss = sum_gradients(parameters.values(), loss)
                torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                total_loss += loss * len(indices)
                bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", best=f"{reports[-1]['best_score']:.4f}" if reports else "-")
                bar.update()
            if not math.isfinite(total_loss):
                kept = f"; epoch {reports[-1]['best_epoch']}, the best before it, is kept" if reports else ""
                raise InputError(f"the loss is {total_loss} in epoch {epoch}; a learning rate below {recipe.learning_rate:g} may help{kept}")
            trained = time.perf_counter()
            score = validate(model)
            best = max(reports, key=lambda report: report["score"], default=None)  # the first of equal scores
            if best is None or score > best["score"]: best = {"score": score, "epoch": epoch}
            reports.append({
                "epoch": epoch, "loss": total_loss / len(rows), "score": score, "best_score": best["score"], "best_epoch": best["epoch"],
                "train_seconds": trained - started, "validation_seconds": time.perf_counter() - trained,
            })
            on_epoch(reports[-1], lambda: snapshot(model, optimizer, reports))
    return reports


def snapshot(model, optimizer, reports):
    """All that a resumed run needs: the trained tensors with AdamW's two moments, and the epoch reports so far."""
    tensors = {}
    for name, parameter in trained_parameters(model).items():
        tensors[name] = parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{name}:{moment}"] = optimizer.state[parameter][moment]
    return tensors, list(reports)


def restore(state, model, optimizer, schedule, steps):
    """Put a snapshot back: parameters, moments, step counts, learning rate. Returns the epoch reports so far."""
    tensors, reports = state
    done = steps * len(reports)
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(tensors[name])
            moments = {moment: tensors[f"{name}:{moment}"].to(parameter.device).clone() for moment in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(float(done), device=parameter.device), **moments}
    schedule.last_epoch = done
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas):
        group["lr"] = base * factor(done)
    return list(reports)
