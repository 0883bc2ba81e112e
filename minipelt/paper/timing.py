"""The benchmark: what a training step and a prediction cost, relative to fine-tuning as in the paper's Table 4.

All models are in memory at once and take turns, a step each, so that a busy moment of the machine hits all of them
alike. A first round warms up and does not count; the rest give a median, and the least beside it. Each is measured at
two lengths: `padded`, one batch filled up to the run's max_length, and `real`, a few batches as training has them, each
as long as its longest row. Inference is that of a saved run: without the prefix network.

race.py has the steps and the rounds, machine.py memory and the limit, peers.py the rows of other libraries.
"""

import json
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from minipelt.batches import Rows
from minipelt.economy import what_the_machine_has
from minipelt.errors import InputError, complain
from minipelt.experiment import choose_device, prepare
from minipelt.files import make_folder, save_json
from minipelt.glue import find_data, get_task
from minipelt.paper.machine import describe_machine, memory_of_training
from minipelt.paper.markdown import markdown, number
from minipelt.paper.peers import build_peers, find_libraries
from minipelt.paper.race import (
    Contestant,
    inference_step,
    keep_what_is_saved,
    make_batches,
    measure_steps,
    merged,
    sizes,
    training_step,
)
from minipelt.paper.sweep import Shared
from minipelt.settings import DEFAULT_MODEL, Method, Recipe, Run
from minipelt.unipelt import count_parameters, kept_parameters

REAL_BATCHES = 4  # different ones
LENGTHS = ("padded", "real")
KINDS = ("training", "inference")
HEADER = ["library", "method", "ms", "least", "of ft", "ours / this", "tokens / s", "of the limit"]
MEMORY_HEADER = ["library", "method", "model, MB", "optimizer, MB", "step, MB", "sum, MB"]


def write_timing(args: Namespace) -> None:
    """Measure, print, and write timing.json, which the report reads."""
    methods = [Method(name) for name in args.methods]
    if not methods or methods[0].name != "ft":
        names = ",".join(args.methods)
        raise InputError(f"--methods {names}: expected ft first; the times of the others are relative to it")
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: expected at least 1")
    if args.peers and args.precision != "float32":
        raise InputError(f"--peers with --precision {args.precision}: expected float32, which they are measured in")
    libraries = find_libraries() if args.peers else {}
    torch.set_num_threads(args.threads)
    task = get_task(args.task)
    model = args.model or DEFAULT_MODEL
    glue = args.glue or find_data([task])
    recipe = Recipe(1e-4, args.batch_size)
    rows = args.batch_size * REAL_BATCHES
    first = Run(
        task.name, methods[0], recipe, model, glue, k=rows, valid_rows=1, device=args.device, precision=args.precision
    )
    device = choose_device(args.device)
    first = what_the_machine_has(first, device, complain)
    runs = [replace(first, method=method) for method in methods]
    record = {
        "model": model, "task": task.name, "batch_size": args.batch_size, "max_length": first.max_length,
        "precision": first.precision, "repeats": args.repeats, "threads": args.threads, "device": str(device),
    }
    make_folder(args.out)
    record |= measure(runs, args.repeats, libraries)
    save_json(record, Path(args.out) / "timing.json")
    print(json.dumps(record, indent=2) if args.json else tables(record))


# ---- the measurement


def measure(runs: list[Run], repeats: int, libraries: dict[str, str]) -> dict:
    """Runs that differ in their method, fine-tuning first -> {"base", "machine", "lengths", "methods", "merged",
    "peers"}: parameters of the base, what it was measured on, what is in the batches, and three lists of rows.

    A row: {"library", "method", "parameters", "memory", "padded", "real", "training", "inference"}. memory: as
    `memory_of_training` has it. padded and real: {"training": cell, "inference": cell}, cells as `measure_steps` has
    them, and in each `of_ft`, its time as a share of our fine-tuning's, and `ours_of_theirs`, our time of the method as
    a share of it. The last two are Table 4's: those shares of fine-tuning on the padded batch. What does not train has
    None.
    """
    device = choose_device(runs[0].device)
    shared = Shared()
    ours, rows, base = own_contestants(runs, shared)
    folded = [each for each in map(merged, own_contestants(runs, shared)[0]) if each]
    peers = build_peers(ours, {run.method.name: run.method for run in runs}, libraries)
    batches = make_batches(rows, runs[0].recipe.batch_size, runs[0].max_length, device)
    trained = [*ours, *peers]

    steps = {each.name: training_step(each.model.train(), runs[0].recipe) for each in trained}
    memory = {
        each.name: memory_of_training(each.model, partial(steps[each.name], batches["padded"]), device)
        for each in trained
    }
    training = measure_steps(steps, batches, repeats, device)
    steps = {each.name: inference_step(each.save(each.model).eval()) for each in [*ours, *folded, *peers]}
    inference = measure_steps(steps, batches, repeats, device)

    def row(each):
        found = {
            "library": each.library, "method": each.method, "parameters": each.parameters,
            "memory": memory.get(each.name),
        }
        for length in LENGTHS:
            cells = {"training": training, "inference": inference}
            found[length] = {kind: cells[kind].get(each.name, {}).get(length) for kind in KINDS}
        return found

    table = {"methods": list(map(row, ours)), "merged": list(map(row, folded)), "peers": list(map(row, peers))}
    compare(table["methods"], [each for rows in table.values() for each in rows])
    lengths = {length: sizes(batches[length]) for length in LENGTHS}
    return {"base": base, "machine": describe_machine(device), "lengths": lengths} | table


def own_contestants(runs: list[Run], shared: Shared) -> tuple[list[Contestant], Rows, int]:
    """(a Contestant a run, the training rows, parameters of the base). Each has a base of its own."""
    contestants = []
    for run in runs:
        _, model, rows = prepare(run, read=shared.read)
        counts = count_parameters(model)
        contestants.append(Contestant("minipelt", run.method.name, kept_parameters(counts), model, keep_what_is_saved))
    return contestants, rows["train"], counts["base"]


def compare(ours: list[dict], rows: list[dict]) -> None:
    """Add to every cell of some rows how its time stands to our fine-tuning, and to our time of the same method."""
    by_method = {row["method"]: row for row in ours}
    for row in rows:
        for length in LENGTHS:
            for kind, cell in row[length].items():
                if cell is not None:
                    first, same = (by_method[name][length][kind] for name in ("ft", row["method"]))
                    cell["of_ft"] = cell["milliseconds"] / first["milliseconds"]
                    cell["ours_of_theirs"] = same["milliseconds"] / cell["milliseconds"]
        for kind, cell in row["padded"].items():
            row[kind] = cell and cell["of_ft"]


# ---- the tables


def tables(record: dict) -> str:
    """What was measured, as Markdown: a table for each length, and within it for training and for inference."""
    paragraphs = []
    for length in LENGTHS:
        size = record["lengths"][length]
        for kind in KINDS:
            paragraphs.append(
                f"{kind}, {length}: {size['batches']} x {record['batch_size']} rows, {size['tokens']:,} real tokens in "
                f"{size['places']:,} places"
            )
            rows = [*record["methods"], *record["merged"], *record["peers"]]
            measured = [table_row(row, row[length][kind]) for row in rows if row[length][kind]]
            paragraphs.append(markdown(HEADER, measured))
    paragraphs.append("memory of a training step, padded")
    rows = [memory_row(row) for row in (*record["methods"], *record["peers"])]
    paragraphs.append(markdown(MEMORY_HEADER, rows))
    return "\n\n".join(paragraphs)


def table_row(row: dict, cell: dict) -> list[str]:
    """A cell as a line of a table, under HEADER."""
    return [
        row["library"], f"`{row['method']}`", number(cell["milliseconds"], 1), number(cell["least"], 1),
        number(cell["of_ft"]), number(cell["ours_of_theirs"]), number(round(cell["tokens_per_second"])),
        number(cell["of_limit"]),
    ]


def memory_row(row: dict) -> list[str]:
    """A row's memory in MB, under MEMORY_HEADER."""
    parts = [row["memory"][name] for name in ("model", "optimizer", "step")]
    return [row["library"], f"`{row['method']}`", *(number(size / 1e6, 1) for size in (*parts, sum(parts)))]
