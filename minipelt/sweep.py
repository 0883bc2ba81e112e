"""A grid of runs: tasks x methods x training rows x seeds, in one process or shared over many, resumed where it was killed.

    python -m minipelt.sweep --tasks all --methods ft,bitfit,adapter,prefix,lora,ap,apl --k 100 500 1000 --seeds 5 --out results/
    torchrun --nproc-per-node 8 -m minipelt.sweep ...       the same, over 8 processes

results.jsonl gets one line when a run ends: settings and scores, nothing that differs from one machine load or process count to the
next. times.jsonl gets the seconds. Running the command again goes on with what is missing; `python -m minipelt.report` makes tables.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from minipelt import InputError, run_command
from minipelt.glue import TASKS, find_data, get_task, read_lines


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minipelt.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    grid = parser.add_argument_group("the grid (lists: with spaces or commas between)")
    grid.add_argument("--tasks", nargs="+", default=["all"], metavar="TASK", help=f"all, or some of {', '.join(TASKS)} (default: all)")
    grid.add_argument("--methods", nargs="+", required=True, metavar="METHOD", help="as for train.py")
    grid.add_argument("--no-gate", action="store_true", help="run every union a second time, without gates")
    grid.add_argument("--k", nargs="+", default=["100"], metavar="K", help="training rows; all: the whole file, best score on dev (default: 100)")
    grid.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 1 to N (default: %(default)s)")
    for name, kind in (("bottleneck", int), ("prefix-length", int), ("rank", int), ("alpha", float), ("top-layers", int), ("share", float), ("lr", float)):
        grid.add_argument(f"--{name}", nargs="+", action=Numbers, const=kind, metavar="V", help="one run for each value, of the methods that it matters to")

    training = parser.add_argument_group("every run")
    training.add_argument("--model", metavar="MODEL", help="folder or Hub name (default: all-MiniLM-L6-v2)")
    training.add_argument("--glue", metavar="FOLDER", help="where the official TSVs are (default: glue if it holds all tasks, else the sample rows)")
    for name, default, text in (
        ("valid-rows", 1000, "rows to pick the best epoch"), ("max-length", 128, "tokens kept of a row"), ("batch-size", 16, "rows a step"),
        ("epochs", 50, "at most"), ("patience", 10, "stop after N epochs without a better score"),
    ):
        training.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")

    work = parser.add_argument_group("the work")
    work.add_argument("--out", default="results", metavar="FOLDER", help="where the results are gathered (default: %(default)s)")
    work.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps; with several GPUs each process takes one (default: auto)")
    work.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each process; scores depend on it in the last digits, "
                      "and on nothing else about the machine's use (default: %(default)s)")
    work.add_argument("--keep-runs", action="store_true", help="keep every run's folder, with its trained tensors, under OUT/runs")
    work.add_argument("--retry-failed", action="store_true", help="forget the failures on record and run them again")
    work.add_argument("--dry-run", action="store_true", help="list the runs with an estimate of their time, and train nothing")
    return parser


class Numbers(argparse.Action):
    """Numbers with spaces or commas between; `const` is int or float."""

    def __call__(self, parser, namespace, values, option=None):
        try:
            setattr(namespace, self.dest, [self.const(value) for value in listed(values)])
        except ValueError: parser.error(f"{option} {' '.join(values)}: expected numbers")


# ---- the grid


def listed(values):
    """["a,b", "c"] -> ["a", "b", "c"]."""
    return [value for text in values for value in text.split(",") if value]


def parse_k(text):
    """`100` -> 100, `all` -> None."""
    if text == "all": return None
    if not text.isdigit(): raise InputError(f"--k {text}: expected a number of training rows, or all")
    return int(text)


def methods(args):
    """Every Method of the grid, once: a value of --bottleneck, say, makes a method of its own only where there is an adapter."""
    from minipelt.unipelt import HYPERPARAMETERS, Method

    grids = {name: values for name in HYPERPARAMETERS if (values := getattr(args, name))}
    found = []
    for name in listed(args.methods):
        for gate in (True, False) if args.no_gate else (True,):
            for values in itertools.product(*grids.values()):
                method = Method(name, gate, **dict(zip(grids, values))).canonical
                if method not in found: found.append(method)
    return found


def grid(args):
    """Command line -> list of Runs, seed by seed, so that what is done is a smaller grid at any time."""
    from minipelt.loop import Recipe
    from minipelt.run import Run, default_learning_rate
    from minipelt.weights import DEFAULT

    tasks = list(TASKS.values()) if args.tasks == ["all"] else [get_task(name) for name in listed(args.tasks)]
    glue = args.glue or find_data(tasks)
    unique_methods = methods(args)
    if args.seeds < 1 or args.threads < 1: raise InputError("--seeds and --threads: expected numbers of at least 1")
    if not (tasks and unique_methods and listed(args.k)): raise InputError("an empty grid; expected at least one task, one method and one K")
    runs = [
        Run(task.name, method, Recipe(rate, args.batch_size, args.epochs, args.patience, seed=seed), args.model or DEFAULT, glue,
            parse_k(k), args.valid_rows, args.max_length, args.device)
        for seed in range(1, args.seeds + 1) for k in listed(args.k) for task in tasks for method in unique_methods
        for rate in args.lr or [default_learning_rate(method)]
    ]
    return list(dict.fromkeys(runs))  # each once, whatever was said twice


# ---- the results file


def settings(run):
    """What makes a Run this run: all its settings but where the official files lie and what it computes on."""
    return replace(run, glue=run.glue if run.glue == "miniglue" else "", device="")


def read_results(path):
    """The lines of a results.jsonl as dicts; an unfinished last line is left out. Raises InputError for a broken one."""
    lines = read_lines(path) if path.exists() else []
    if lines and not path.read_bytes().endswith(b"\n"): lines.pop()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
            records[-1]["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: line {number}: not a line that a sweep wrote ({error!r})") from None
    return records


def append(path, value):
    """Add one line of JSON, in one write: whole, whoever else is writing."""
    line = (json.dumps(value) + "\n").encode()
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if (written := os.write(file, line)) < len(line):
                os.ftruncate(file, os.fstat(file).st_size - written)
                raise InputError(f"{path}: the disk is full; the run that just ended is not recorded")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error: raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def mend(path, again=()):
    """Make a results.jsonl ready: there, writable, whole lines only (a killed process may have begun one), without failures of the Runs `again`."""
    records = [record for record in read_results(path) if not (again and "error" in record and settings(run_on_record(record, path)) in again)]
    text, part = "".join(json.dumps(record) + "\n" for record in records), Path(f"{path}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        if path.read_text(encoding="utf-8") == text: return
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error: raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def run_on_record(record, path):
    """The Run of a line."""
    from minipelt.run import Run

    return Run.from_dict(record["run"], path)


def check_protocol(runs, on_record, path):
    """Raise InputError if these Runs and those on record do not go into one report: a task has one number of epochs, one base, and so on."""
    from minipelt.tables import protocol

    known = {run.task: protocol(asdict(run)) for run in on_record}
    for run in runs:
        ours = protocol(asdict(run))
        for name, value in known.get(run.task, ours).items():
            if value != ours[name]: raise InputError(f"{path}: has runs of {run.task} with {name} {value}; for {ours[name]}, expected another --out")


# ---- the work


def processes():
    """(store, rank, number of processes) as torchrun set them up; (None, 0, 1) without it."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1: return None, 0, 1
    from torch.distributed import rendezvous

    return next(rendezvous("env://"))


def claims(store, size):
    """The numbers of the runs that this process is to do: the next one nobody took, again and again."""
    for i in itertools.count() if store is None else iter(lambda: store.add("claimed", 1) - 1, None):
        if i >= size: return
        yield i


def run_one(run, shared, folder):
    """Do one run. Returns (its line for results.jsonl, its line for times.jsonl)."""
    from minipelt.experiment import prepare, run_experiment
    from minipelt.run import Run

    started = time.perf_counter()
    try:
        begun = (folder / "resume.safetensors").is_file() and settings(Run.load(folder)) == settings(run)
        if not begun: shutil.rmtree(folder, ignore_errors=True)  # another run's leftovers
        folder.mkdir(parents=True, exist_ok=True)
        record = run_experiment(prepare(run, shared), folder, resume=begun)
    except OSError as error: raise InputError(f"{folder}: {error.strerror}; the sweep stops here, and the same command goes on with it") from None
    except Exception as error:
        record = {"run": asdict(run), "error": str(error).split("\n")[0] if isinstance(error, InputError) else repr(error)}
    seconds = {"name": run.name, "seconds": round(time.perf_counter() - started, 2)}
    results = record.get("results", {})
    for name in ("train_seconds", "test_seconds", "total_seconds"): seconds |= {name: round(results.pop(name), 2)} if name in results else {}
    return record, seconds


def cost(run, shared):
    """How much work a run is at most: tokens that go through the encoder, each counted 1 on the way in and 1 or 2 on the way back."""
    from minipelt.experiment import check_fits, choose_device
    from minipelt.run import count_rows

    bert, tokenizer = shared.base(run.model, choose_device(run.device))
    check_fits(run, bert.config)
    train, dev = (shared.split(run, name, tokenizer) for name in ("train", "dev"))
    rows, validation = count_rows(run, len(train))
    length, dev_length = (sum(map(len, split.rows(range(min(100, len(split)))).input_ids)) / min(100, len(split)) for split in (train, dev))
    parts = set(run.method.parts)
    passes = 3 if parts & {"ft", "top", "diff"} else 1 if parts <= {"side"} else 2  # forward; to the activations; to the weights
    validated = len(dev) * dev_length if validation is None else validation * length
    return run.recipe.epochs * (rows * length * passes + validated) + len(dev) * dev_length


def tokens_a_second(run, shared):
    """Tokens that the base of a run encodes in a second, measured on 32 dev rows."""
    import torch

    from minipelt.batches import collate
    from minipelt.experiment import choose_device

    device = choose_device(run.device)
    bert, tokenizer = shared.base(run.model, device)
    split = shared.split(run, "dev", tokenizer)
    rows = split.rows(range(min(32, len(split))))
    inputs, _ = collate(rows, range(len(rows)), device)
    with torch.inference_mode():
        bert(*inputs)[1].cpu()
        started = time.perf_counter()
        for _ in range(3): bert(*inputs)[1].cpu()
    return 3 * inputs[1].sum().item() / (time.perf_counter() - started)


def duration(seconds):
    """93 -> 1 min 33 s."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60: return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def outcome(record):
    """A line of results.jsonl in a few words."""
    if "error" in record: return f"failed: {record['error']}"
    metric, value = next(iter(record["results"]["test"].items()))
    return f"{metric} {100 * value:.2f}"


def sweep(args):
    """Do, or list, the runs of the grid that are not on record yet."""
    import torch
    from tqdm import tqdm

    from minipelt.experiment import choose_device
    from minipelt.parallel import HIDE_BARS
    from minipelt.shared import Shared

    store, rank, size = processes()
    torch.set_num_threads(args.threads)
    if torch.cuda.is_available(): torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    runs, shared, out = grid(args), Shared(), Path(args.out)
    path = out / "results.jsonl"
    check_protocol(runs, [run_on_record(record, path) for record in read_results(path) if "results" in record], path)
    costs = [cost(run, shared) for run in runs]  # also finds, before anything starts, what is wrong with files and settings
    if rank == 0 and not args.dry_run: mend(path, again={settings(run) for run in runs} if args.retry_failed else ())
    if store:
        if rank == 0: store.set("ready", "1")
        store.wait(["ready"])
    done = {settings(run_on_record(record, path)) for record in read_results(path)}
    left = [settings(run) not in done for run in runs]
    todo = sum(itertools.compress(costs, left))

    if args.dry_run:
        rate = tokens_a_second(next(iter(runs)), shared)
        for run, units, missing in zip(runs, costs, left):
            print(f"{run.name:<44}{'at most ' + duration(units / rate) if missing else 'done':>24}")
        print(f"{sum(left)} of {len(runs)} runs to do: at most {duration(todo / rate)} in one process "
              f"(every epoch counted; early stopping shortens it); {choose_device(args.device)}, {args.threads} threads")
        return 0

    failed = 0
    with tqdm(total=todo, disable=HIDE_BARS, bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}") as bar:
        for i in claims(store, len(runs)):
            if not left[i]: continue
            bar.set_postfix_str(f"{runs[i].name}, {i + 1} of {len(runs)}")
            folder = out / "runs" / runs[i].name
            record, seconds = run_one(runs[i], shared, folder)
            append(path, record)
            append(out / "times.jsonl", seconds)
            if not args.keep_runs: shutil.rmtree(folder)
            failed += "error" in record
            tqdm.write(f"{i + 1:>5} of {len(runs)}  {runs[i].name:<44}{outcome(record):>22}{duration(seconds['seconds']):>14}")
            bar.update(costs[i] if store is None else store.add("worked", round(costs[i])) - bar.n)
    if store:  # all end together, with one exit code: torchrun stops the others as soon as one ends with an error
        store.add("failed", failed)
        store.add("ended", 1)
        while store.add("ended", 0) < size: time.sleep(0.2)
        failed = store.add("failed", 0)
    if rank == 0: print(f"{len(runs)} runs on record in {path}; tables: python -m minipelt.report {out}")
    return 1 if failed else 0


def main(argv=None):
    """The command. Returns the exit code."""
    args = make_parser().parse_args(argv)
    return run_command(lambda: sweep(args), interrupted=f"interrupted: the same command goes on where it was; what is done is in {args.out}/results.jsonl")


if __name__ == "__main__":
    sys.exit(main())
