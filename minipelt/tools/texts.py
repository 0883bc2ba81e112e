"""The texts that predict is asked about: from the command line, a file, or standard input.

A file with columns is read as the run's own training file was: by the columns' names, in the formats of owndata.py.
Plain lines hold one text, or two with a tab between.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from minipelt.errors import InputError, complain, plural
from minipelt.files import BYTE_ORDER_MARK, read_lines
from minipelt.glue import Example, Task, make_example
from minipelt.settings import Data, Run
from minipelt.tools import owndata
from minipelt.tools.records import FORMATS, records

PLAIN = (".txt", "")  # a name without a suffix is that of a pipe, as in <(sort texts)


def read_file(path: str, run: Run) -> list[Example]:
    """The Examples of a file, with labels where it has them. Raises InputError with file and line for a bad row."""
    suffix = Path(path).suffix
    if suffix in PLAIN:
        lines = enumerate(read_lines(path), start=1)
        return [parse_line(line, run.spec, f"{path}: line {number}") for number, line in lines]
    if suffix not in FORMATS:
        raise InputError(f"{path}: expected a name that ends in .txt (a text a line) or {', '.join(FORMATS)} (columns)")
    return owndata.read_file(columns_of(run, path), path, label_needed=False)


def columns_of(run: Run, path: str) -> Data:
    """Which columns a file for a run has: those that it was trained on. No row is skipped: each gets a prediction."""
    if run.data:
        return replace(run.data, skip_bad_rows=False)
    task = run.spec
    columns = [*task.columns, task.label_column]
    if task.header and lacks_header(task, path):
        header = task.header.split("\t")
        columns = [str(header.index(column) + 1) for column in columns]
    text_b = columns[1] if len(task.columns) == 2 else None
    return Data(
        train=task.name,
        dev=task.name,
        text=columns[0],
        text_b=text_b,
        label=columns[-1],
        regression=not task.labels,
        labels=task.labels,
    )


def lacks_header(task: Task, path: str) -> bool:
    """Whether a file is an official one of a task whose files have no header line: as many columns, no names."""
    if Path(path).suffix != ".tsv":
        return False
    _, first = next(records(path), (1, []))
    header = task.header.split("\t")
    return isinstance(first, list) and len(first) == len(header) and task.columns[0] not in first


def parse_line(line: str, task: Task, place: str) -> Example:
    """A line of text -> Example. Raises InputError, naming the place, if the task wants another number of texts."""
    texts = line.split("\t")
    if len(texts) != len(task.columns):
        wanted = "one text without a tab" if len(task.columns) == 1 else "two texts with a tab between"
        raise InputError(f"{place}: {plural(len(texts), 'column')}; {task.name} takes {wanted}")
    return make_example(texts, None)


def from_command_line(text: str, text_b: str | None, task: Task) -> Example:
    """--text and --text-b -> Example. Raises InputError for a wrong number of texts or bytes that are not UTF-8."""
    texts = [text] if text_b is None else [text, text_b]
    for each in texts:
        try:
            each.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError("--text: not UTF-8") from None
    if len(texts) != len(task.columns):
        wanted = "one text; expected no --text-b" if len(texts) == 2 else "two texts; expected --text-b, too"
        raise InputError(f"--text: {task.name} takes {wanted}")
    return make_example(texts, None)


def from_standard_input(task: Task) -> Iterator[Example]:
    """An Example for each line as it comes. A person at a terminal is told what is waited for."""
    if sys.stdin is None:
        raise InputError("standard input is closed; expected texts on it, --text or --input")
    if sys.stdin.isatty():
        wanted = "a text a line" if len(task.columns) == 1 else "two texts a line, with a tab between"
        complain(f"waiting for {wanted}; Ctrl-D (on Windows Ctrl-Z) ends")
    for number, line in enumerate(sys.stdin.buffer, start=1):
        place = f"standard input: line {number}"
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{place}: not UTF-8") from None
        yield parse_line(text.removesuffix("\n").removesuffix("\r"), task, place)
