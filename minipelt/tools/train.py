"""What `python train.py` does: one run from its options to its result, going on with a run, scoring one again.

Under torchrun every process comes through here; the first one speaks and keeps the run folder.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from minipelt import fingerprint
from minipelt.batches import encode
from minipelt.commands import DEFAULT_THREADS, ECONOMY, given
from minipelt.commands.train import DEFAULT_METHOD, DEFAULT_OUT
from minipelt.economy import what_the_machine_has
from minipelt.errors import InputError, complain, describe_os_error, plural
from minipelt.experiment import choose_device, load_run, new_folder, prepare, run_experiment, test
from minipelt.glue import find_data, get_task
from minipelt.progress import say
from minipelt.record import load_record
from minipelt.settings import (
    DEFAULT_MODEL,
    HYPERPARAMETERS,
    PARTS,
    Method,
    Recipe,
    Run,
    default_learning_rate,
    full_path,
)
from minipelt.tools import distributed
from minipelt.tools.owndata import listing, own_data, own_name, reader
from minipelt.unipelt import kept_parameters

RESUME = "resume.safetensors"
TRAINED = "trained.safetensors"


def train(args):
    """The command. Returns the exit code, or None if all went well."""
    torch.set_num_threads(args.threads or DEFAULT_THREADS)
    if args.eval:
        return evaluate(args)
    number = int(os.environ.get("RANK", 0))  # of this process, under torchrun
    if number:
        sys.stdout = open(os.devnull, "w")
    run = to_resume(args) if args.resume else settings(args)
    run = what_the_machine_has(run, choose_device(run.device), print)
    if number:
        return follow(run, args.resume)
    distributed.start(run.device)
    prepared = prepare(run, read=reader(run))
    folder = Path(args.resume) if args.resume else new_folder(run, args.out or DEFAULT_OUT)
    return record_run(prepared, folder)


# ---- from options to settings


def settings(args) -> Run:
    """The arguments as a Run. Raises InputError for a wrong value, or one that would have no effect."""
    method = Method(args.method or DEFAULT_METHOD, not args.no_gate, **given(args, HYPERPARAMETERS))
    check_effect(args, method)
    rate = default_learning_rate(method) if args.lr is None else args.lr
    recipe = Recipe(rate, **given(args, ("batch_size", "accumulate", "epochs", "patience", "seed")))
    options = given(args, ("k", "valid_rows", "max_length", "device", "frozen_head", "zero_start", *ECONOMY))
    options["model"] = full_path(args.model or DEFAULT_MODEL)
    if args.train:
        run = Run(own_name(args), method, recipe, glue="", data=own_data(args), **options)
    else:
        task = get_task(args.task)
        run = Run(task.name, method, recipe, glue=full_path(args.glue or find_data([task])), **options)
    if run.zero_start and run.spec.labels:
        raise InputError(f"--zero-start has no effect on {run.task}, which has classes; it has one on a regression")
    return run


def check_effect(args, method: Method) -> None:
    """Raise InputError for a hyperparameter, or a --no-gate, that has no effect on the method."""
    for name in given(args, HYPERPARAMETERS):
        if name in method.uses:
            continue
        users = [part.name for part in PARTS.values() if name in part.uses]
        users += [f"{part.name} without a gate" for part in PARTS.values() if name in part.uses_ungated]
        raise InputError(f"--{name.replace('_', '-')} has no effect on {method.name}; it has one on {', '.join(users)}")
    gateable = [part.name for part in PARTS.values() if part.gateable]
    if args.no_gate and len(set(gateable) & set(method.parts)) < 2:
        raise InputError(
            f"--no-gate has no effect on {method.name}; gates stand where two or more of {', '.join(gateable)} meet"
        )


def changes(args, folder) -> dict:
    """What --eval and --resume take from the command line; all else stands in the run folder. Raises InputError."""
    found = given(args, ("device", "glue", "model"))
    if "glue" in found and Run.load(folder).data:
        raise InputError(f"--glue has no effect on {folder}: it was trained on your own files")
    for name in ("glue", "model"):
        if name in found:
            found[name] = full_path(found[name])
    return found


def to_resume(args) -> Run:
    """The settings of the run folder to go on with. Raises InputError if there is nothing to go on with."""
    run, folder = Run.load(args.resume, **changes(args, args.resume)), Path(args.resume)
    if "results" in load_record(folder):
        raise InputError(f"{folder}: this run is finished; --eval {folder} scores it again")
    if not can_go_on(folder):
        raise InputError(f"{folder}: no {RESUME} to go on with; --eval {folder} scores its best epoch")
    return run


def can_go_on(folder: Path) -> bool:
    """Whether --resume can go on with an unfinished run: its state is there, or it was stopped in its first epoch.

    A run that was imported, or whose state is gone, has trained tensors and nothing else.
    """
    log = folder / "metrics.jsonl"
    began = log.is_file() and log.stat().st_size == 0
    return (folder / RESUME).is_file() or began or not (folder / TRAINED).is_file()


# ---- training


def record_run(prepared, folder):
    """Do the run in its folder, and print what happens. Returns 130 after Ctrl-C."""
    run = prepared.run
    resume = (folder / RESUME).is_file()
    if (folder / "run.json").is_file() and not resume:
        print(f"{folder}: no epoch was finished; the run begins anew")
    if run.spec.labels and run.data:
        say(f"{len(run.spec.labels)} classes: {listing(run.spec.labels)}")
    recipe = run.recipe
    say(
        f"{run.method.name} on {run.task}, base {run.model}, seed {recipe.seed}, "
        f"learning rate {recipe.learning_rate:g}"
    )
    try:
        record = run_experiment(prepared, folder, say, resume, wrap=distributed.wrap)
    except KeyboardInterrupt:
        complain(f"\ninterrupted: {what_is_kept(folder)}; go on with: python train.py --resume {folder}")
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"{describe_os_error(error)}; {what_is_kept(folder)}; when that is mended, go on with: "
            f"python train.py --resume {folder}"
        ) from None
    distributed.stop()
    print(f"{result_table(record)}\nrun folder: {folder}")


def what_is_kept(folder):
    """What of an unfinished run is safe on disk, as a clause."""
    if (folder / TRAINED).is_file():
        return f"the best epoch so far is in {folder / TRAINED}"
    return "no epoch was finished"


def follow(run, resumed):
    """What torchrun's second process, third ... do: the same run, silently, with a folder that goes when it ends."""
    with tempfile.TemporaryDirectory() as folder:
        resume = bool(resumed) and (Path(resumed) / RESUME).is_file()
        if resume:  # before the processes meet: the first one removes the file when the run ends
            for name in ("run.json", RESUME, TRAINED):
                shutil.copy(Path(resumed) / name, folder)
        distributed.start(run.device)
        try:
            run_experiment(prepare(run, read=reader(run)), folder, resume=resume, wrap=distributed.wrap)
        except KeyboardInterrupt:
            return 130  # the first process says what is kept
        distributed.stop()


def result_table(record):
    """A finished run's record (run.json) as lines of text."""
    results, run, counts = record["results"], record["run"], record["parameters"]
    lines = [f"{'':<14}{'validation':>12}{'test':>12}"]
    for metric, value in results["test"].items():
        lines.append(f"{metric:<14}{100 * results['validation'][metric]:>12.2f}{100 * value:>12.2f}")
    if run["data"] and not run["data"]["test"]:
        lines.append("(no --test: validation and test are both the dev set)")
    elif not run["data"] and run["k"] is None:
        lines.append("(no --k: validation and test are both the dev set, as in the paper's full-data protocol)")
    kept = kept_parameters(counts) + counts["head"]
    lines.append(
        f"best epoch {results['best_epoch']} of {results['epochs']}; {results['total_seconds']:.0f} s in all, "
        f"{results['train_seconds']:.0f} s of it training; {kept:,} trained parameters kept"
    )
    if results["gates"]:
        lines += gate_table(results["gates"])
    return "\n".join(lines)


def gate_table(gates):
    """{submodule: [mean gate of each layer]} as lines of text."""
    layers = len(next(iter(gates.values())))
    lines = [f"{'mean gate':<14}{'all':>6} " + "".join(f"{f'layer {i}':>9}" for i in range(layers))]
    for name, values in gates.items():
        lines.append(f"{name:<14}{sum(values) / layers:>6.2f} " + "".join(f"{value:>9.2f}" for value in values))
    return lines


# ---- scoring a run again


def evaluate(args):
    """--eval: the test score of a run folder, computed again, beside the recorded one."""
    run, _, model, tokenizer = load_run(args.eval, **changes(args, args.eval))
    rows = encode(reader(run)(run, run.test_split), tokenizer, run.max_length)
    scores = test(model, run.spec, rows)["test"]
    record = load_record(args.eval)
    print(f"{args.eval}: {run.method.name} on {run.subject}")
    differences = what_differs(run, record, rows)
    if differences:
        print(f"  not scored as recorded: {'; '.join(differences)}")
    for metric, value in scores.items():
        recorded = look_up(record, "results", "test", metric)
        before = f"recorded: {recorded!r}"
        if recorded is None:
            before = "nothing recorded: the run was stopped, or comes from elsewhere"
        print(f"  test {metric:<10} {value!r} ({before})")


def what_differs(run: Run, record: dict, rows) -> list:
    """In what a score of `run` on these Rows is another than the one on record, as clauses."""
    if look_up(record, "results", "test") is None:
        return []
    compared = [
        (len(rows), look_up(record, "rows", "test"), plural(len(rows), "test row")),
        (run.glue, look_up(record, "run", "glue"), f"rows of {run.glue}"),
        (run.model, look_up(record, "run", "model"), f"base {run.model}"),
    ]
    found = [f"{words} (recorded: {before})" for now, before, words in compared if before is not None and now != before]
    now, before = fingerprint.of_rows(rows), look_up(record, "fingerprints", "test")  # older records have none
    if before is not None and now != before and len(rows) == look_up(record, "rows", "test"):
        found.append(f"other test rows (fingerprint {now}, recorded: {before})")
    return found


def look_up(record, *keys):
    """What a JSON object has under a key, and under the next one in there ...; None if there is no such thing."""
    for key in keys:
        if not isinstance(record, dict) or key not in record:
            return None
        record = record[key]
    return record
