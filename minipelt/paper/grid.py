"""The grid of a sweep: its command line -> every Run of it, each once. No torch here.

A value of a hyperparameter makes a run of its own only for the methods that it matters to, and --no-gate for unions.
"""

import itertools
from argparse import Namespace
from dataclasses import replace

from minipelt.errors import InputError
from minipelt.glue import TASKS, Task, find_data, get_task
from minipelt.settings import DEFAULT_MODEL, HYPERPARAMETERS, Method, Recipe, Run, default_learning_rate, full_path
from minipelt.tools.owndata import own_data, own_name


def grid(args: Namespace) -> list[Run]:
    """All runs of a sweep's command line, seed by seed, so that what is done is a smaller grid at any time.

    Raises InputError for a wrong name or value, and for a grid without runs.
    """
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: expected a number of at least 1")
    subjects = list_subjects(args)
    methods = list_methods(args)
    sizes = [parse_k(text) for text in list_sizes(args)]
    if not (subjects and methods and sizes):
        raise InputError("an empty grid; expected at least one task, one method and one K")
    valid_rows = Run.valid_rows if args.valid_rows is None else args.valid_rows
    runs = []
    for seed, k, subject, method in itertools.product(range(1, args.seeds + 1), sizes, subjects, methods):
        for rate in args.lr or [default_learning_rate(method)]:
            recipe = Recipe(rate, args.batch_size, args.epochs, args.patience, seed=seed, accumulate=args.accumulate)
            run = Run(
                method=method, recipe=recipe, model=full_path(args.model or DEFAULT_MODEL), k=k, valid_rows=valid_rows,
                max_length=args.max_length, device=args.device, frozen_head=args.frozen_head,
                zero_start=args.zero_start, precision=args.precision, compile=args.compile,
                gradient_checkpointing=args.gradient_checkpointing, **subject,
            )
            # A start at zero is a regression's: elsewhere it would be the same run under another name.
            runs.append(replace(run, zero_start=False) if run.spec.labels else run)
    return list(dict.fromkeys(runs))  # each once, whatever was said twice


def list_subjects(args: Namespace) -> list[dict]:
    """What the runs are on, as fields of a Run: GLUE's tasks, or the user's own files. Raises InputError."""
    if args.train:
        return [{"task": own_name(args), "glue": "", "data": own_data(args)}]
    tasks = list_tasks(args.tasks)
    glue = args.glue or find_data(tasks)
    if full_path(glue) == "miniglue":
        glue = "miniglue"
    return [{"task": task.name, "glue": glue} for task in tasks]


def list_tasks(names: list[str] | None) -> list[Task]:
    """Names of tasks, or `all` or nothing, -> Tasks. Raises InputError for an unknown one."""
    if names in (None, ["all"]):
        return list(TASKS.values())
    return [get_task(name) for name in names]


def list_sizes(args: Namespace) -> list[str]:
    """What --k says, or its default."""
    if args.k is None:
        return ["all"] if args.train else ["100"]
    return args.k


def list_methods(args: Namespace) -> list[Method]:
    """Every Method of the grid, once; --no-gate adds each union without its gates."""
    values = {name: getattr(args, name) for name in HYPERPARAMETERS if getattr(args, name)}
    gates = (True, False) if args.no_gate else (True,)
    found = {}  # in place of a set, which has no order
    for name, gate in itertools.product(args.methods, gates):
        for chosen in itertools.product(*values.values()):
            method = Method(name, gate, **dict(zip(values, chosen, strict=True)))
            found[method.canonical] = None
    return list(found)


def parse_k(text: str) -> int | None:
    """`100` -> 100, `all` -> None. Raises InputError for anything else."""
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"--k {text}: expected a number of training rows, or all")
    return int(text)
