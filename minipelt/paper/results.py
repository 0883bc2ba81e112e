"""results.jsonl, what a sweep leaves: a line of JSON for each run that ended, with settings and scores, or its error.

Several processes append to one file, each line in one write, and any of them may be killed at any time.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from minipelt.errors import InputError, short
from minipelt.files import load_json, parse_json, read_bytes, read_lines, write_text
from minipelt.record import check_dict, check_number, check_record
from minipelt.settings import Run, split_name

# Alike in all runs of a task.
PROTOCOL = ("data", "files", "model", "valid_rows", "max_length", "epochs", "patience", "batch_size", "precision")


class Line(NamedTuple):
    """A line of a file of runs: the Run whose settings it has under "run", and all of its JSON."""

    run: Run
    record: dict


def settings(run: Run) -> Run:
    """What makes a run this run: all its settings but where the official files lie, what it computes on, and what
    saves time or memory and computes the same: to rounding, and but for dropout's noise where a batch is cut.
    """
    glue = "miniglue" if run.sample_rows else ""
    recipe = replace(run.recipe, accumulate=1)
    return replace(run, recipe=recipe, glue=glue, device="", compile=False, gradient_checkpointing=False)


def protocol(run: Run) -> dict:
    """{name: value} of the settings that all runs of a task in one results folder have alike."""
    values = asdict(run) | asdict(run.recipe) | {"data": kind_of_rows(run), "files": own_files(run)}
    return {name: values[name] for name in PROTOCOL}


def kind_of_rows(run: Run) -> str:
    """What the rows of a run are, for people."""
    if run.data:
        return "own files"
    return "the sample rows" if run.sample_rows else "GLUE"


def own_files(run: Run) -> str:
    """The user's own files and how they are read, for people; nothing for GLUE's."""
    if not run.data:
        return ""
    words = {name: value for name, value in asdict(run.data).items() if value}
    if run.data.labels:
        words["labels"] = len(run.data.labels)
    return ", ".join(f"{name} {value}" for name, value in words.items())


def check_protocol(runs: list[Run], path: Path) -> None:
    """Raise InputError if these runs and those on record do not go into one report.

    There, a task has one number of epochs, one base and so on.
    """
    on_record = {run.task: protocol(run) for run, record in read_sweep(path) if "results" in record}
    for run in runs:
        ours = protocol(run)
        for name, value in on_record.get(run.task, ours).items():
            if value != ours[name]:
                raise InputError(
                    f"{path}: has runs of {run.task} with {name} {value}; for {ours[name]}, expected another --out"
                )


def read_results(path: Path) -> list[Line]:
    """The lines of a file of runs, [] if there is no file. An unfinished last line is left out.

    Raises InputError for a line that is no JSON object with the settings of a run.
    """
    return [Line(Run.from_dict(record.get("run"), place), record) for place, record in read_objects(path)]


def read_sweep(path: Path) -> list[Line]:
    """`read_results` of a results.jsonl, every field checked: each line has results and parameters, or an error."""
    lines = []
    for place, record in read_objects(path):
        run = check_record(record, place)
        failed = isinstance(record.get("error"), str) and "results" not in record
        if not failed and ("error" in record or not {"results", "parameters"} <= set(record)):
            raise InputError(f"{place}: expected results and parameters, or an error")
        lines.append(Line(run, record))
    return lines


def read_objects(path: Path) -> Iterator[tuple[str, dict]]:
    """(its place, for messages; its JSON object) of each whole line. Raises InputError for a line that is no object."""
    if not path.exists():
        return
    texts = read_lines(path)
    if texts and not read_bytes(path).endswith(b"\n"):
        texts.pop()
    for number, text in enumerate(texts, start=1):
        place = f"{path}: line {number}"
        try:
            record = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not a line that a sweep wrote ({error!r})") from None
        yield place, check_dict(record, place)


def append(path: Path, value: dict) -> None:
    """Add one line of JSON, in one write: whole, whoever else is writing. Raises InputError if it cannot be written."""
    line = (json.dumps(value) + "\n").encode()
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(file, line)
            if written < len(line):
                os.ftruncate(file, os.fstat(file).st_size - written)
                raise InputError(f"{path}: the disk is full; the run that just ended is not recorded")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def mend(path: Path, again: set[Run] = frozenset()) -> None:
    """Make a results.jsonl, in a folder that is there, ready for a sweep: there, writable, and of whole lines only.

    A killed process may have begun a line. Failures of the runs in `again`, as `settings` gives them, are forgotten.
    Raises InputError for a file that cannot be written.
    """
    lines = []
    for run, record in read_results(path):
        forget = "error" in record and settings(run) in again
        if not forget:
            lines.append(json.dumps(record) + "\n")
    text = "".join(lines)
    try:
        path.open("a").close()
        if path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


# ---- timing.json, what `python -m minipelt timing` leaves


def read_timing(path: Path) -> dict:
    """What a timing.json holds, every field checked. Raises InputError."""
    timing = check_dict(load_json(path), f"{path}", ("model", "task", "device", "methods"))
    for name in ("model", "task", "device"):
        if not isinstance(timing[name], str):
            raise InputError(f"{path}: {name} is {short(timing[name])}; expected a name")
    for name in ("batch_size", "repeats", "threads", "base"):
        check_number(timing.get(name), f"{path}: {name}", 1, whole=True)
    if "max_length" in timing:  # older files have one length
        check_number(timing["max_length"], f"{path}: max_length", 1, whole=True)
        if not isinstance(timing.get("precision"), str):
            raise InputError(f"{path}: precision is {short(timing.get('precision'))}; expected a name")
        real = check_dict(timing.get("lengths"), f"{path}: lengths", ("real",))["real"]
        check_dict(real, f"{path}: lengths: real", ("batches",))
        check_number(real["batches"], f"{path}: lengths: real: batches", 1, whole=True)
    if not isinstance(timing["methods"], list) or not timing["methods"]:
        raise InputError(f"{path}: methods is {short(timing['methods'])}; expected a list of what was measured")
    for row in timing["methods"]:
        check_timed_method(row, path)
    first = timing["methods"][0]["method"]
    if first != "ft":
        raise InputError(f"{path}: the first method is {first}; expected ft, whose times all others are shares of")
    return timing


def check_timed_method(row, path: Path) -> None:
    """Raise InputError unless a JSON value is what timing.json has of one method."""
    check_dict(row, f"{path}: a method", ("method", "parameters", "training", "inference"))
    if not isinstance(row["method"], str):
        raise InputError(f"{path}: a method is called {short(row['method'])}; expected a name")
    split_name(row["method"])
    check_number(row["parameters"], f"{path}: parameters of {row['method']}", 0, whole=True)
    for name in ("training", "inference"):
        check_number(row[name], f"{path}: {name} of {row['method']}", 0)
    for name, cell in check_dict(row.get("real", {}), f"{path}: real batches of {row['method']}").items():
        check_dict(cell, f"{path}: {name}, real batches of {row['method']}", ("of_ft",))
        check_number(cell["of_ft"], f"{path}: {name}, real batches of {row['method']}", 0)
