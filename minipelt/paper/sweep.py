"""The work of a sweep: the runs of a grid that are not on record yet, in one process or shared over many.

results.jsonl gets one line when a run ends: settings and scores, nothing that depends on the machine's load or the
number of processes. times.jsonl gets the seconds. A sweep can be killed at any time; the same command goes on with what
is missing.
"""

import os
import shutil
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.distributed import rendezvous

from minipelt import experiment
from minipelt.batches import collate, encode
from minipelt.bert import BertModel
from minipelt.economy import what_the_machine_has
from minipelt.errors import InputError, plural
from minipelt.files import alone_in, make_folder
from minipelt.glue import Example
from minipelt.paper.grid import grid
from minipelt.paper.results import append, check_protocol, mend, read_sweep, settings
from minipelt.progress import duration, progress_bar, say
from minipelt.settings import PARTS, Run
from minipelt.splits import count_rows
from minipelt.tools.owndata import reader
from minipelt.unipelt import detach

TIMES = ("train_seconds", "test_seconds", "total_seconds")  # in a run's record; a sweep keeps them in times.jsonl


def sweep(args: Namespace) -> int:
    """Do, or list, the runs of the grid that are not on record yet. Returns the exit code: 1 if a run failed."""
    workers = Workers()
    torch.set_num_threads(args.threads)
    workers.choose_gpu()
    runs = grid(args)
    checked = what_the_machine_has(runs[0], experiment.choose_device(args.device), print)
    runs = [replace(run, precision=checked.precision, compile=checked.compile) for run in runs]
    path = Path(args.out) / "results.jsonl"
    check_protocol(runs, path)
    shared = Shared()
    costs = [cost(run, shared) for run in runs]  # finds what is wrong with files and settings before anything starts
    if args.dry_run:
        if workers.rank == 0:
            list_runs(runs, costs, path, shared, args.threads)
        return 0
    if workers.rank > 0:
        return do_share(runs, costs, shared, workers, path, args.keep_runs)
    make_folder(path.parent)
    with alone_in(path.parent):  # two sweeps in one folder would take each other's runs for leftovers
        mend(path, again={settings(run) for run in runs} if args.retry_failed else set())
        code = do_share(runs, costs, shared, workers, path, args.keep_runs)
    print(f"{plural(len(runs), 'run')} on record in {path}; tables: python -m minipelt report {args.out}")
    return code


def do_share(
    runs: list[Run], costs: list[float], shared: "Shared", workers: "Workers", path: Path, keep_runs: bool
) -> int:
    """Do this process's share of the runs, and wait for the other processes. Returns the exit code of all of them.

    One code for all, since torchrun stops the others as soon as one ends with an error.
    """
    workers.wait_for_first()
    workers.add("failed", do_runs(runs, costs, shared, workers, path, keep_runs))
    workers.wait_for_all()
    return 1 if workers.add("failed", 0) else 0


def do_runs(
    runs: list[Run], costs: list[float], shared: "Shared", workers: "Workers", path: Path, keep_runs: bool
) -> int:
    """Do this process's share of the runs that are not on record in results.jsonl. Returns how many failed."""
    done = runs_on_record(path)
    missing = [settings(run) not in done for run in runs]
    todo = sum(round(units) for units, is_missing in zip(costs, missing, strict=True) if is_missing)
    failed = 0
    layout = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with progress_bar(todo, name="sweep", bar_format=layout, leave=True) as bar:
        for i in workers.claims(len(runs)):
            if not missing[i]:
                continue
            bar.set_postfix(run=f"{i + 1} of {len(runs)}, {runs[i].name}")
            folder = path.parent / "runs" / runs[i].name
            record, seconds = do_run(runs[i], shared, folder)
            append(path, record)
            append(path.parent / "times.jsonl", seconds)
            if not keep_runs:
                shutil.rmtree(folder)
            if "error" in record:
                failed += 1
            number, took = f"{i + 1:>5} of {len(runs)}", duration(seconds["seconds"])
            say(f"{number}  {runs[i].name:<44}  {outcome(record):>20}{took:>14}")
            bar.update(workers.add("worked", round(costs[i])) - bar.n)
    return failed


def do_run(run: Run, shared: "Shared", folder: Path) -> tuple[dict, dict]:
    """Do one run, or go on with it. Returns (its line for results.jsonl, its line for times.jsonl).

    A run that fails has its reason in the line. Raises InputError if the files of a run cannot be written.
    """
    started = time.perf_counter()
    try:
        record = go_on_or_begin(run, shared, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: {error.strerror}; the sweep stops here, and the same command goes on with it"
        ) from None
    except Exception as error:
        reason = str(error).split("\n")[0] if isinstance(error, InputError) else repr(error)
        record = {"run": asdict(run), "error": reason}
    seconds = {"name": run.name, "seconds": round(time.perf_counter() - started, 2)}
    results = record.get("results", {})
    for name in TIMES:
        if name in results:
            seconds[name] = round(results.pop(name), 2)
    return record, seconds


def go_on_or_begin(run: Run, shared: "Shared", folder: Path) -> dict:
    """The record of a run. It goes on with what a kill left of it; what is damaged, or another run's, is removed."""
    if is_begun(run, folder):
        try:
            return experiment.run_experiment(experiment.prepare(run, shared.load, shared.read), folder, resume=True)
        except InputError:
            pass  # damaged; or a failure of the run itself, which comes again below
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return experiment.run_experiment(experiment.prepare(run, shared.load, shared.read), folder, resume=False)


def is_begun(run: Run, folder: Path) -> bool:
    """Whether a folder holds what a kill left of this very run."""
    try:
        return (folder / "resume.safetensors").is_file() and settings(Run.load(folder)) == settings(run)
    except InputError:
        return False


def runs_on_record(path: Path) -> set[Run]:
    """The runs in a results.jsonl, as `settings` gives them: those that ended well and those that failed."""
    return {settings(line.run) for line in read_sweep(path)}


def outcome(record: dict) -> str:
    """A line of results.jsonl in a few words."""
    if "error" in record:
        return f"failed: {record['error']}"
    metric, value = next(iter(record["results"]["test"].items()))
    return f"{metric} {100 * value:.2f}"


# ---- what runs and processes share


class Shared:
    """What the runs of one process share: a base is loaded once, and so are a task's files.

        shared = Shared()
        for run in runs:
            run_experiment(prepare(run, shared.load, shared.read), new_folder(run))

    A run that only adds modules changes nothing in the base, so the next run gets the very same one with its slots
    emptied; one that trains part of the base works on a copy (experiment.build makes it).
    """

    def __init__(self):
        self.bases = {}  # (name, device): (BertModel, tokenizer)
        self.examples = {}  # (task, data, split, folder): list of Examples
        self.lengths = {}

    def load(self, name: str, device: torch.device) -> tuple[BertModel, object]:
        """(the BertModel on `device`, frozen, with empty slots; tokenizer).

        The same object each time: one run at a time may use it.
        """
        if (name, device) not in self.bases:
            self.bases[name, device] = experiment.load_base(name, device)
        bert, tokenizer = self.bases[name, device]
        return detach(bert), tokenizer

    def read(self, run: Run, split: str) -> list[Example]:
        """The Examples of a split of a run's task."""
        key = run.task, run.data, split, run.glue
        if key not in self.examples:
            self.examples[key] = reader(run)(run, split)
        return self.examples[key]

    def mean_length(self, run: Run, split: str) -> float:
        """Tokens of a row of a split, a mean over its first 100 rows."""
        key = run.task, run.data, split, run.glue, run.model, run.max_length
        if key not in self.lengths:
            _, tokenizer = self.load(run.model, experiment.choose_device(run.device))
            rows = encode(self.read(run, split)[:100], tokenizer, run.max_length)
            self.lengths[key] = sum(map(len, rows.input_ids)) / len(rows)
        return self.lengths[key]


class Workers:
    """The processes of a sweep, as torchrun started them, or this one alone.

    rank: this one's number; size: how many there are.
    """

    def __init__(self):
        self.store, self.rank, self.size = None, 0, 1
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            self.store, self.rank, self.size = next(rendezvous("env://"))
        self.counts = Counter()  # in place of the store, where there is one process

    def choose_gpu(self) -> None:
        """Let each process of a machine take a GPU in turn; with fewer GPUs than processes, several share one."""
        if torch.cuda.is_available():
            local_rank = int(os.environ.get("LOCAL_RANK", 0))
            torch.cuda.set_device(local_rank % torch.cuda.device_count())

    def add(self, name: str, amount: int) -> int:
        """Add to a number that all processes share. Returns the sum."""
        if self.store is not None:
            return self.store.add(name, amount)
        self.counts[name] += amount
        return self.counts[name]

    def claims(self, size: int) -> Iterator[int]:
        """The numbers below `size` that this process is to do: the next one that nobody took, again and again."""
        number = self.add("claimed", 1) - 1
        while number < size:
            yield number
            number = self.add("claimed", 1) - 1

    def wait_for_first(self) -> None:
        """Return when the first process has come here."""
        if self.store is not None:
            if self.rank == 0:
                self.store.set("ready", "1")
            self.store.wait(["ready"])

    def wait_for_all(self) -> None:
        """Return when all processes have come here."""
        self.add("ended", 1)
        while self.add("ended", 0) < self.size:
            time.sleep(0.2)


# ---- how long it will take


def cost(run: Run, shared: Shared) -> float:
    """How much work a run is at most: tokens through the encoder, each counted 1 forward and 1 or 2 on the way back.

    Raises InputError for settings that do not fit the base or the files.
    """
    bert, _ = shared.load(run.model, experiment.choose_device(run.device))
    experiment.check_fits(run, bert.config)
    num_train, num_validation = count_rows(run, len(shared.read(run, "train")))
    length = shared.mean_length(run, "train")
    training = num_train * length * max(PARTS[part].passes for part in run.method.parts)
    validation = num_validation * length if num_validation else tokens(run, "dev", shared)
    test = tokens(run, run.test_split, shared)
    return run.recipe.epochs * (training + validation) + test


def tokens(run: Run, split: str, shared: Shared) -> float:
    """How many tokens a split has, about."""
    return len(shared.read(run, split)) * shared.mean_length(run, split)


@torch.inference_mode()
def tokens_a_second(run: Run, shared: Shared) -> float:
    """Tokens that the base of a run encodes in a second, measured on 32 dev rows."""
    device = experiment.choose_device(run.device)
    bert, tokenizer = shared.load(run.model, device)
    rows = encode(shared.read(run, "dev")[:32], tokenizer, run.max_length)
    inputs, _ = collate(rows, range(len(rows)), device)
    bert(*inputs)[1].cpu()
    started = time.perf_counter()
    for _ in range(3):
        bert(*inputs)[1].cpu()
    num_tokens = inputs[1].sum().item()
    return 3 * num_tokens / (time.perf_counter() - started)


def list_runs(runs: list[Run], costs: list[float], path: Path, shared: Shared, threads: int) -> None:
    """Print every run with an estimate of its time, or that it is done, and the sum."""
    done = runs_on_record(path)
    speed = tokens_a_second(runs[0], shared)
    left = []  # the costs of runs that are not done
    for run, units in zip(runs, costs, strict=True):
        estimate = "done"
        if settings(run) not in done:
            estimate = f"at most {duration(units / speed)}"
            left.append(units)
        print(f"{run.name:<44}  {estimate:>22}")
    device = experiment.choose_device(runs[0].device)
    print(
        f"{len(left)} of {plural(len(runs), 'run')} to do: at most {duration(sum(left) / speed)} in one process "
        f"(every epoch counted; early stopping shortens it); {device}, {plural(threads, 'thread')}"
    )
