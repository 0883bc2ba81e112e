"""What Table 4 shows: parameters, and the time of training and of inference relative to fine-tuning.

All methods are in memory at once and take turns, a step each, so that a busy moment of the machine hits all of them
alike. A first round warms up and does not count; the rest give a median a method. Inference is that of a saved run:
without the prefix network.
"""

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from minipelt.batches import collate
from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.experiment import choose_device, prepare
from minipelt.files import save_json
from minipelt.glue import find_data, get_task
from minipelt.loop import loss_function, make_optimizer
from minipelt.paper.sweep import Shared
from minipelt.progress import progress_bar
from minipelt.settings import DEFAULT_MODEL, Method, Recipe, Run
from minipelt.unipelt import count_parameters, kept_parameters, trained_parameters


def write_timing(args: Namespace) -> None:
    """Measure, print, and write timing.json, which the report reads."""
    methods = [Method(name) for name in args.methods]
    if not methods or methods[0].name != "ft":
        names = ",".join(args.methods)
        raise InputError(f"--methods {names}: expected ft first; the times of the others are relative to it")
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: expected at least 1")
    torch.set_num_threads(args.threads)
    task = get_task(args.task)
    model = args.model or DEFAULT_MODEL
    glue = args.glue or find_data([task])
    recipe = Recipe(1e-4, args.batch_size)
    runs = [
        Run(task.name, method, recipe, model, glue, k=args.batch_size, valid_rows=1, device=args.device)
        for method in methods
    ]
    rows, base = measure(runs, args.repeats)
    print_rows(rows)
    record = {
        "model": model, "task": task.name, "batch_size": args.batch_size, "repeats": args.repeats,
        "threads": args.threads, "device": str(choose_device(args.device)), "base": base, "methods": rows,
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_json(record, out / "timing.json")


def print_rows(rows: list[dict]) -> None:
    """What was measured, as a table."""
    print(f"{'method':<12}{'parameters':>14}{'training':>12}{'inference':>12}")
    for row in rows:
        training, inference = 100 * row["training"], 100 * row["inference"]
        print(f"{row['method']:<12}{row['parameters']:>14,}{training:>10.0f} %{inference:>10.0f} %")


def measure(runs: list[Run], repeats: int) -> tuple[list[dict], int]:
    """Runs that differ in their method, fine-tuning first -> (a row a run, parameters of the base).

    A row: {"method", "parameters", "training", "inference"}, times as shares of the first's.
    """
    shared = Shared()
    device = choose_device(runs[0].device)
    models, training, inference = {}, {}, {}
    for run in runs:
        _, model, rows = prepare(run, read=shared.read)  # a base of its own: all are in memory at once
        batch = collate(rows["train"], range(min(run.recipe.batch_size, len(rows["train"]))), device)
        name = run.method.name
        models[name] = model
        training[name] = training_step(model, run.recipe, batch)
        inference[name] = inference_step(model, batch)

    counts = {name: count_parameters(model) for name, model in models.items()}
    for model in models.values():
        model.train()
    trained = take_turns(training, repeats, device)
    for model in models.values():
        keep_what_is_saved(model.eval())
    predicted = take_turns(inference, repeats, device)

    first = runs[0].method.name
    table = []
    for name in models:
        table.append({
            "method": name, "parameters": kept_parameters(counts[name]),
            "training": trained[name] / trained[first], "inference": predicted[name] / predicted[first],
        })
    return table, counts[first]["base"]


@torch.no_grad()
def keep_what_is_saved(model: BertClassifier) -> None:
    """Leave out what only training needs, as a run does that was saved and loaded: the prefix network, say."""
    for module in list(model.modules()):
        if hasattr(module, "saved_state"):
            module.load_saved_state(module.saved_state())


def training_step(model: BertClassifier, recipe: Recipe, batch: tuple) -> Callable[[], None]:
    """A function that trains `model` on a batch, (inputs, labels), as a step of loop.py does."""
    inputs, labels = batch
    optimizer = make_optimizer(model, recipe)
    parameters = list(trained_parameters(model).values())

    def step():
        extra_loss = model.extra_loss(1, recipe) if model.extra_loss else 0.0
        (loss_function(model(*inputs), labels) + extra_loss).backward()
        clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference_step(model: BertClassifier, batch: tuple) -> Callable[[], None]:
    """A function that predicts a batch, (inputs, labels)."""
    inputs, _ = batch

    @torch.inference_mode()
    def step():
        model(*inputs)

    return step


def take_turns(steps: dict[str, Callable], repeats: int, device: torch.device) -> dict[str, float]:
    """{name: median seconds} of functions that take turns."""
    seconds = {name: [] for name in steps}
    with progress_bar(repeats + 1, unit="turn", name="timing") as bar:
        for turn in range(-1, repeats):
            for name, step in steps.items():
                elapsed = stopwatch(step, device)
                if turn >= 0:
                    seconds[name].append(elapsed)
            bar.update(1)
    return {name: statistics.median(values) for name, values in seconds.items()}


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
