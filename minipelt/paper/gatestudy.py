"""Do gates depend on the input? Trained runs, asked again with constants in the place of their gates.

UniPELT's gates are to open "the submodules that best suit the current data". A gate that does so spreads over
sentences, and a run loses something when a constant takes its place. This file measures both, on a run's whole test
rows, and keeps a line a run in gates.jsonl; gatetables.py and gatechart.py show them.
"""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from minipelt import fingerprint
from minipelt.batches import Rows, encode
from minipelt.bert import BertClassifier
from minipelt.errors import InputError, complain
from minipelt.experiment import build, choose_device, load_run, score
from minipelt.files import alone_in, make_folder, write_text
from minipelt.gate import force_gates, record_gates, submodule_of
from minipelt.glue import Task
from minipelt.identity import git_commit
from minipelt.loop import predict
from minipelt.paper.gatechart import draw
from minipelt.paper.gatetables import gather, report
from minipelt.paper.results import append, mend, read_results, settings
from minipelt.progress import progress_bar, say, scoring_bar
from minipelt.record import load_record
from minipelt.settings import Run
from minipelt.splits import read_split

# ---- one run


def measure(folder: str | Path, **changes) -> dict:
    """A finished run folder with gates -> its line of gates.jsonl. `changes` replace settings: glue, device.

        run       its settings, but for where files lie and what computes
        rows      how many test rows there are
        commit    of the code that measured
        gates     {submodule: {"mean": [of each layer], "deviation": [over sentences, in each layer]}}
        start     the same of the run's model before it trained
        scores    {metric: value from 0 to 1} with the gates as they are
        replaced  {what stands in their place: {"scores", "changed"}}, see `replacements` and `count_changes`

    Raises InputError if the test rows are not those that the run was tested on.
    """
    run, _, model, tokenizer = load_run(folder, **changes)
    rows = encode(read_split(run, run.test_split), tokenizer, run.max_length)
    record = load_record(folder)
    tested = record["rows"]["test"]
    if len(rows) != tested:
        raise InputError(f"{folder}: was tested on {tested:,} rows; found {len(rows):,}; expected the same files")
    recorded = record.get("fingerprints", {}).get("test")  # older records have none
    if recorded not in (None, fingerprint.of_rows(rows)):
        raise InputError(f"{folder}: was tested on other rows than are there now; expected the same files")
    untrained, _ = build(run, choose_device(run.device))
    _, start = ask_with_gates(untrained, rows)
    logits, gates = ask_with_gates(model, rows)
    line = {"run": asdict(settings(run)), "rows": len(rows), "commit": git_commit()}
    line |= {"gates": spread(gates), "start": spread(start)}
    line |= {"scores": score(run.spec, logits, rows.labels), "replaced": {}}
    for what, values in replacements(model, gates).items():
        with force_gates(model, values):
            others = ask(model, rows)  # (n, C)
        scores = score(run.spec, others, rows.labels)
        line["replaced"][what] = {"scores": scores, "changed": count_changes(run.spec, logits, others)}
    return line


def ask(model: BertClassifier, rows: Rows) -> torch.Tensor:
    """Logits (n, C) of all rows, with a bar."""
    with scoring_bar(model, rows):
        return predict(model, rows)


def ask_with_gates(model: BertClassifier, rows: Rows) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(logits (n, C), {gate's name: its value for each row, (n), in the order of the batches})."""
    with record_gates(model) as recorded:
        logits = ask(model, rows)
    return logits, {name: torch.cat(values).double() for name, values in recorded.items()}


def spread(gates: dict[str, torch.Tensor]) -> dict[str, dict]:
    """{gate's name: its value for each sentence, (n)} -> {submodule: mean and deviation over sentences, by layer}."""
    found = {}
    for name, values in gates.items():
        layers = found.setdefault(submodule_of(name), {"mean": [], "deviation": []})
        layers["mean"].append(values.mean().item())
        layers["deviation"].append(values.std().item())  # n - 1
    return found


def replacements(model: BertClassifier, gates: dict[str, torch.Tensor]) -> dict[str, dict]:
    """{what stands in the gates' place: what `force_gates` takes}.

    own mean: each gate's own, over all sentences, one constant a gate. no lora: both of LoRA's gates shut in all
    layers, and so for every part that has gates.
    """
    values = {
        "own mean": {name: each.mean().item() for name, each in gates.items()},
        "one half": {"all": 0.5},
        "one": {"all": 1.0},
    }
    for name in gates:
        part = model.get_submodule(name.removesuffix(".gate")).part
        values.setdefault(f"no {part}", {})[name] = 0.0
    return values


def count_changes(task: Task, logits: torch.Tensor, others: torch.Tensor) -> float:
    """How far predictions change from logits (n, C) to others (n, C).

    The share of rows that get another label; for a task without labels, the mean distance of the two scores.
    """
    if task.labels:
        return (logits.argmax(dim=-1) != others.argmax(dim=-1)).double().mean().item()
    return (logits - others).double().abs().mean().item()


# ---- many runs


def with_gates(folders: list[str], done: set[Run], changes: dict) -> Iterator[str]:
    """Those of the folders that are to be measured: finished runs on GLUE with gates that are not in `done` yet.

    Each is added there. For what is no such run, there is a line. Raises InputError for a folder that has no run.
    """
    for folder in folders:
        run = Run.load(folder, **changes)
        if "results" not in load_record(folder):
            complain(f"passed over: {folder}: not finished")
        elif run.data:
            complain(f"passed over: {folder}: on files of your own; expected a GLUE task")
        elif not run.method.gated:
            complain(f"passed over: {folder}: {run.method.name} without gates")
        elif settings(run) not in done:
            done.add(settings(run))
            yield folder


def measure_all(folders: list[str], path: Path, changes: dict) -> None:
    """Add a line to gates.jsonl for every run that has none. `changes` replace the runs' settings: glue, device."""
    done = {settings(line.run) for line in read_results(path)}
    todo = list(with_gates(folders, done, changes))
    with progress_bar(len(todo), unit="run", name="gates") as bar:
        for folder in todo:
            line = measure(folder, **changes)
            append(path, line)
            say(f"{folder}: {outcome(line)}")
            bar.update(1)


def outcome(line: dict) -> str:
    """A line of gates.jsonl in a few words."""
    metric, value = next(iter(line["scores"].items()))
    constant = line["replaced"]["own mean"]["scores"][metric]
    return f"{metric} {100 * value:.2f}, with each gate's own mean {100 * constant:.2f}"


def study(args: Namespace) -> None:
    """Measure what is missing, then write gates.md and gates.svg from gates.jsonl."""
    out = Path(args.out)
    path = out / "gates.jsonl"
    if args.runs:
        make_folder(out)
        with alone_in(out):
            mend(path)
            given = {"glue": args.glue, "device": args.device}
            measure_all(args.runs, path, {name: value for name, value in given.items() if value is not None})
    studies = gather(read_results(path), path)
    text = report(studies)
    write_text(out / "gates.md", text)
    write_text(out / "gates.svg", draw(studies))
    print(text)
    complain(f"written: {out}/gates.md and gates.svg")
