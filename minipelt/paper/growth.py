"""How the cost of a step grows: one size at a time, measured, beside what a count on paper predicts.

The encoder has random weights, since no time depends on their values, and is narrow, so that 24 layers and 512 tokens
fit. Sizes of one axis take turns, as in the benchmark. A slope is that of cost against size with both in logarithms, a
straight line through the last three points: 1 where twice the size costs twice as much, 2 where it costs four times.
The measured slope lies below the predicted one where a part of the cost does not grow: small operations, the
optimiser, the rest of the model.
"""

import math
import statistics
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.commands.growth import SIZES
from minipelt.errors import InputError, plural
from minipelt.experiment import choose_device
from minipelt.files import load_json, make_folder, save_json, write_text
from minipelt.paper import charts
from minipelt.paper.flops import inference_flops, kept_bytes, training_flops
from minipelt.paper.machine import describe_machine, memory_of_training
from minipelt.paper.markdown import markdown, number
from minipelt.paper.race import inference_step, keep_what_is_saved, take_turns, training_step
from minipelt.settings import Method, Recipe
from minipelt.unipelt import attach

CONFIG = BertConfig(
    vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
)
BATCH, LENGTH = 8, 128  # where they do not grow


@dataclass(frozen=True)
class Axis:
    """A size that grows, on a method that it matters to."""

    name: str
    method: str
    values: tuple[int, ...]


AXES = {name: Axis(name, method, values) for name, (method, values) in SIZES.items()}
COSTS = ("training", "inference")


def write_growth(args: Namespace) -> None:
    """Measure, unless --redraw is given, and write growth.json, growth.md and growth.svg."""
    path = Path(args.out) / "growth.json"
    if args.redraw and not path.is_file():
        raise InputError(f"{path}: no such file; expected what growth wrote without --redraw")
    if not args.redraw:
        make_folder(args.out)
        save_json(measure_all(args), path)
    record = load_json(path)
    text = report(record)
    write_text(path.with_suffix(".md"), text)
    try:
        charts.draw_growth(record["axes"], path.with_suffix(".svg"))
    except ImportError:
        print('the figure needs matplotlib; install it with: pip install -e ".[plot]"', file=sys.stderr)
    print(text)


# ---- the measurement


def measure_all(args: Namespace) -> dict:
    """What growth.json holds: the machine, what stays, and for each axis its points."""
    unknown = [name for name in args.axes if name not in AXES]
    if unknown or not args.axes:
        raise InputError(f"--axes {','.join(args.axes)}: expected some of {', '.join(AXES)}")
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: expected at least 1")
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    axes = []
    for name in args.axes:
        axis = AXES[name]
        points = measure(axis, args.repeats, device)
        axes.append({"axis": axis.name, "method": axis.method, "points": points})
        print(f"{name}: {len(points)} sizes measured", file=sys.stderr)
    return {
        "machine": describe_machine(device), "device": str(device), "threads": args.threads, "repeats": args.repeats,
        "config": asdict(CONFIG), "batch": BATCH, "length": LENGTH, "axes": axes,
    }


def sizes_at(axis: Axis, value: int) -> tuple[BertConfig, Method, int, int]:
    """(config, Method, batch, length) at a point of an axis."""
    config, options, B, T = CONFIG, {}, BATCH, LENGTH
    if axis.name == "length":
        T = value
    elif axis.name == "batch":
        B = value
    elif axis.name == "layers":
        config = replace(CONFIG, num_hidden_layers=value)
    else:
        options[axis.name] = value
    return config, Method(axis.method, **options), B, T


def measure(axis: Axis, repeats: int, device: torch.device) -> list[dict]:
    """A point for each value: {"value", "training", "inference": milliseconds, "memory": bytes of a training step,
    "training_flops", "inference_flops", "kept": bytes, as counted on paper}.
    """
    points, models, batches, steps = [], {}, {}, {}
    for value in axis.values:
        config, method, B, T = sizes_at(axis, value)
        torch.manual_seed(1)
        models[value] = attach(BertClassifier(BertModel(config), 2).to(device), method).train()
        batches[value] = [random_batch(config, B, T, device)]
        steps[value] = partial(training_step(models[value], Recipe(1e-4)), batches[value])
        points.append({
            "value": value,
            "memory": memory_of_training(models[value], steps[value], device)["step"],
            "kept": kept_bytes(config, method, B, T),
            "training_flops": training_flops(config, method, B, T),
            "inference_flops": inference_flops(config, method, B, T),
        })
    training = take_turns(steps, repeats, device)
    for value, model in models.items():
        steps[value] = partial(inference_step(keep_what_is_saved(model).eval()), batches[value])
    inference = take_turns(steps, repeats, device)
    for point in points:
        point["training"] = 1000 * statistics.median(training[point["value"]])
        point["inference"] = 1000 * statistics.median(inference[point["value"]])
    return points


def random_batch(config: BertConfig, B: int, T: int, device: torch.device) -> tuple:
    """((input_ids, attention_mask, token_type_ids), (B, T) each and nothing of it padding, labels (B))."""
    ids = torch.randint(config.vocab_size, (B, T), device=device)
    return (ids, torch.ones_like(ids), torch.zeros_like(ids)), torch.randint(2, (B,), device=device)


# ---- the report


def slope(points: list[dict], name: str) -> float:
    """Of a cost against the size, in logarithms: a straight line through the last three points."""
    last = points[-3:]
    x = [math.log(point["value"]) for point in last]
    y = [math.log(point[name]) for point in last]
    return float(np.polyfit(x, y, 1)[0])


def report(record: dict) -> str:
    """What growth.json holds as Markdown."""
    config = record["config"]
    return "\n\n".join([
        "# How the cost of a step grows",
        f"Random weights, {config['hidden_size']} wide, {config['num_hidden_layers']} layers, "
        f"{record['batch']} rows of {record['length']} tokens, but for the one size that grows. "
        f"Medians of {plural(record['repeats'], 'turn')} on {record['device']} with "
        f"{plural(record['threads'], 'thread')} "
        f"({record['machine']['processor']}, torch {record['machine']['torch']}).",
        "A slope is that of the cost against the size, both in logarithms, through the last three sizes. Predicted: of "
        "the counts in `flops.py`. Memory: what a training step keeps for its backward pass, and the gradients, which "
        "the prediction leaves out.",
        slope_table(record["axes"]),
        "![Milliseconds against each size, measured and predicted](growth.svg)",
        point_table(record["axes"]),
    ]) + "\n"


def slope_table(axes: list[dict]) -> str:
    """A row an axis: measured slopes beside the predicted ones."""
    rows = []
    for each in axes:
        points = each["points"]
        cells = [each["axis"].replace("_", " "), f"`{each['method']}`"]
        cells.append(f"{points[0]['value']} to {points[-1]['value']}")
        for cost in COSTS:
            cells += [number(slope(points, cost)), number(slope(points, f"{cost}_flops"))]
        rows.append([*cells, number(slope(points, "memory")), number(slope(points, "kept"))])
    header = [
        "size", "method", "from, to", "training", "predicted", "inference", "predicted", "memory", "predicted",
    ]
    return markdown(header, rows)


def point_table(axes: list[dict]) -> str:
    """A row a point: what was measured, and the count."""
    rows = []
    for each in axes:
        for point in each["points"]:
            rows.append([
                each["axis"].replace("_", " "), str(point["value"]), number(point["training"], 1),
                number(point["training_flops"] / 1e9), number(point["inference"], 1),
                number(point["inference_flops"] / 1e9), number(point["memory"] / 1e6, 1),
                number(point["kept"] / 1e6, 1),
            ])
    header = ["size", "", "training, ms", "GFLOP", "inference, ms", "GFLOP", "memory, MB", "predicted, MB"]
    return markdown(header, rows)
