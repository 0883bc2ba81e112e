"""Models that take turns: their steps, the rounds, and what a round's seconds come to.

A step goes over a list of batches, so that one turn may have several lengths in it.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from minipelt.batches import Rows, collate, training_batches
from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.loop import loss_function, make_optimizer
from minipelt.paper.machine import limit_step, products_of
from minipelt.progress import progress_bar
from minipelt.settings import Recipe
from minipelt.tools.merge import fold, merge
from minipelt.unipelt import trained_parameters


@dataclass
class Contestant:
    """A model that takes part, and what becomes of it when training is over."""

    library: str  # "minipelt", "minipelt, merged", "peft 0.21.2"
    method: str
    parameters: int  # trained ones that a run keeps, without the head
    model: nn.Module  # (input_ids, attention_mask, token_type_ids), (B, T) each -> logits (B, C)
    save: Callable[[nn.Module], nn.Module]  # -> what predicts once the run was saved and loaded

    @property
    def name(self) -> str:
        """It in a few words."""
        return f"{self.method}, {self.library}"


# ---- batches


def make_batches(rows: Rows, batch_size: int, max_length: int, device: torch.device) -> dict[str, list[tuple]]:
    """{"padded": one batch filled up to max_length, "real": all of an epoch, each as long as its longest row}.

    A batch: ((input_ids, attention_mask, token_type_ids), (B, T) each, labels (B)).
    """
    real = [collate(rows, indices, device) for indices in training_batches(rows, batch_size, seed=1)]
    inputs, labels = real[0]
    width = max_length - inputs[0].shape[1]
    return {"padded": [(tuple(F.pad(each, (0, width)) for each in inputs), labels)], "real": real}


def sizes(batches: list[tuple]) -> dict[str, int]:
    """How much is in some batches: {"batches", "rows", "tokens": real ones, "places": with padding}."""
    masks = [mask for (_, mask, _), _ in batches]
    return {
        "batches": len(masks), "rows": sum(len(mask) for mask in masks),
        "tokens": sum(int(mask.sum()) for mask in masks), "places": sum(mask.numel() for mask in masks),
    }


# ---- steps


def training_step(model: nn.Module, recipe: Recipe) -> Callable[[list], None]:
    """A function that trains `model` on each of some batches, as a step of loop.py does."""
    optimizer = make_optimizer(model, recipe)
    parameters = list(trained_parameters(model).values())

    def step(batches):
        for inputs, labels in batches:
            extra_loss = model.extra_loss(1, recipe) if model.extra_loss else 0.0
            (loss_function(model(*inputs), labels) + extra_loss).backward()
            clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            optimizer.zero_grad()

    return step


def inference_step(model: nn.Module) -> Callable[[list], None]:
    """A function that predicts each of some batches."""

    @torch.inference_mode()
    def step(batches):
        for inputs, _ in batches:
            model(*inputs)

    return step


@torch.no_grad()
def keep_what_is_saved(model: BertClassifier) -> BertClassifier:
    """Leave out what only training needs, as a run does that was saved and loaded: the prefix network, say."""
    for module in list(model.modules()):
        if hasattr(module, "saved_state"):
            module.load_saved_state(module.saved_state())
    return model


def merged(contestant: Contestant) -> Contestant | None:
    """Fold its method into BERT's own matrices, in place. None if there is nothing to fold, or a part that does not."""
    if not fold(contestant.model):
        return None
    try:
        merge(contestant.model)
    except InputError:
        return None
    return replace(contestant, library=f"{contestant.library}, merged", save=lambda model: model)


# ---- rounds


def measure_steps(
    steps: dict[str, Callable], batches: dict[str, list], repeats: int, device: torch.device
) -> dict[str, dict[str, dict]]:
    """{name: a step} -> {name: {length: cell}}, each beside the matrix products that it makes, in the same rounds.

    A cell: {"milliseconds": median a batch, "least": the smallest, "tokens_per_second": real ones, "of_limit": the
    share of the time that its matrix products alone take}.
    """
    turns, factors = {}, {}
    for name, step in steps.items():
        for length, some in batches.items():
            turn = partial(step, some)
            turns[name, length, "step"] = turn
            turns[name, length, "limit"] = limit_step(products_of(turn), device, factors)
    seconds = take_turns(turns, repeats, device)
    cells = {name: {} for name in steps}
    for name in steps:
        for length, some in batches.items():
            median = statistics.median(seconds[name, length, "step"])
            cells[name][length] = {
                "milliseconds": 1000 * median / len(some),
                "least": 1000 * min(seconds[name, length, "step"]) / len(some),
                "tokens_per_second": sizes(some)["tokens"] / median,
                "of_limit": statistics.median(seconds[name, length, "limit"]) / median,
            }
    return cells


def take_turns(steps: dict, repeats: int, device: torch.device) -> dict:
    """{name: a function} -> {name: seconds of each turn}. The first turn warms up and is left out."""
    seconds = {name: [] for name in steps}
    with progress_bar(repeats + 1, unit="turn", name="timing") as bar:
        for turn in range(-1, repeats):
            for name, step in steps.items():
                elapsed = stopwatch(step, device)
                if turn >= 0:
                    seconds[name].append(elapsed)
            bar.update(1)
    return seconds


def stopwatch(step: Callable, device: torch.device) -> float:
    """Seconds that a function takes, its work on a GPU included."""
    synchronize(device)
    started = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
