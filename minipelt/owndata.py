"""Your own data: TSV, CSV or JSON-lines files with one or two text columns and a label or a score.

    python train.py --train reviews.tsv --dev reviews-dev.tsv --text-column text --label-column stars

Columns are named as the header line names them, or numbered from 1, with a header or without. In a TSV file, as in GLUE, a quote is a
character like any other; in a CSV file it quotes. The classes are the labels that the training file holds.
"""

import csv
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from minipelt import InputError
from minipelt.glue import Example, Task, read_bytes

FORMATS = (".tsv", ".csv", ".jsonl")


@dataclass(frozen=True)
class Data:
    """Files and their columns; with the classes, once `found` has read them."""

    train: str
    dev: str
    test: str | None = None  # without it, the test score is that of dev
    text: str = "text"  # columns: names, or numbers from 1
    text_b: str | None = None
    label: str = "label"
    regression: bool = False
    skip_bad_rows: bool = False
    labels: tuple = ()  # the classes by number, as the files write them
    header: str | None = None  # columns by number: the first line is a header where it has this for a label

    def __post_init__(self):
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has lists
        columns = [column for column in (self.text, self.text_b, self.label) if column is not None]
        if len({is_number(column) for column in columns}) > 1 or any(is_number(column) and int(column) < 1 for column in columns):
            raise InputError(f"columns {', '.join(columns)}: expected names or numbers from 1, not both")

    def spec(self, name):
        """The Task that this data is."""
        columns = (self.text,) if self.text_b is None else (self.text, self.text_b)
        metrics = ("accuracy", "macro_f1") if self.labels else ("spearman", "pearson")
        return Task(name, "", columns, self.label, self.labels, self.labels, metrics, "", "")

    def found(self):
        """This Data with the labels that the training file holds. Raises InputError if there are fewer than two."""
        may_have_header = is_number(self.text) and not self.train.endswith(".jsonl")
        if self.regression and not may_have_header: return self
        by_line = {number: label for number, _, label in read_rows(self, self.train)}
        header = self.header
        if may_have_header and 1 in by_line and self.cannot_be_label(by_line[1], {label for number, label in by_line.items() if number > 1}):
            header = by_line.pop(1)
            print(f"{self.train}: line 1 is taken as a header: {header!r} is {'no number' if self.regression else 'the label of no other row'}")
        if self.regression: return replace(self, header=header)
        labels = set(by_line.values())
        if len(labels) < 2: raise InputError(f"{self.train}: column {self.label!r}: every row has the label {labels.pop()!r}; expected at least two labels")
        whole = all(re.fullmatch(r"-?[0-9]+", label) for label in labels)
        return replace(self, header=header, labels=tuple(sorted(labels, key=lambda label: (int(label) if whole else 0, label))))

    def cannot_be_label(self, first, others):
        """Whether the first line's label looks like a column's name: it is no number in a regression, or the one row of a class beside two others."""
        if not self.regression: return first not in others and len(others) > 1
        try:
            float(first)
        except ValueError: return True
        return False

    def read(self, split):
        """The Examples of `split` (train, dev or test). Raises InputError with file and line for a bad row, unless those are skipped."""
        path, examples, bad = getattr(self, split), [], []
        for number, texts, label in read_rows(self, path, bad):
            try:
                examples.append(Example(*texts, *[None] * (2 - len(texts)), label=self.parse(label, f"{path}: line {number}")))
            except InputError as error:
                if not self.skip_bad_rows: raise
                bad.append(error)
        if bad: print(f"{path}: {len(bad)} bad rows skipped, {len(examples)} read; the first: {bad[0]}")
        if not examples: raise InputError(f"{path}: no rows; expected at least one")
        return examples

    def parse(self, label, place):
        """A label as the file writes it -> class number, or score."""
        if not self.regression:
            if label in self.labels: return self.labels.index(label)
            raise InputError(f"{place}: label {label!r}; expected one of {', '.join(self.labels)}, as in {self.train}")
        try:
            score = float(label)
        except ValueError:
            score = math.nan
        if math.isfinite(score): return score
        raise InputError(f"{place}: {label!r}; expected a number, as --regression has it")


def read_rows(data, path, bad=None):
    """Yield (line number, [text] or [text, text_b], label) of a file.

    A bad row raises InputError or, where such rows are to be skipped, goes to the list `bad`.
    """
    path = Path(path)
    if path.suffix not in FORMATS: raise InputError(f"{path}: expected a file whose name ends in {', '.join(FORMATS)}")
    columns = [column for column in (data.text, data.text_b, data.label) if column is not None]
    where = width = None  # of the columns in a row, and its number of cells: what the first line tells
    found = 0
    for number, row in records(path):
        place = f"{path}: line {number}"
        try:
            if isinstance(row, InputError): raise row
            if path.suffix == ".jsonl": cells = pick(row, columns, place)
            else:
                if is_header := where is None and not is_number(data.text): where = places(row, columns, place)
                elif where is None:
                    where = numbered(row, columns, place)
                    is_header = row[where[-1]] == data.header
                width = width or len(row)
                if len(row) != width: raise InputError(f"{place}: {len(row)} columns; expected {width}")
                if is_header: continue
                cells = [row[i] for i in where]
            if not cells[-1]: raise InputError(f"{place}: the column {data.label!r} is empty; expected a label")
        except InputError as error:
            if not data.skip_bad_rows or (path.suffix != ".jsonl" and where is None): raise
            if bad is not None: bad.append(error)
            continue
        found += 1
        yield number, cells[:-1], cells[-1]
    if not found: raise InputError(f"{path}: no rows; expected at least one")


def is_number(column):
    """Whether a column is given by its number."""
    return re.fullmatch("[0-9]+", column) is not None


def places(header, columns, place):
    """Where the columns are in a header."""
    for column in columns:
        if column not in header: raise InputError(f"{place}: no column {column!r}; expected it among {', '.join(header)}, or columns by number")
    return [header.index(column) for column in columns]


def numbered(row, columns, place):
    """Where columns given by number are."""
    for column in columns:
        if int(column) > len(row): raise InputError(f"{place}: no column {column}; the line has {len(row)}")
    return [int(column) - 1 for column in columns]


def pick(row, columns, place):
    """The columns of a JSON object, as strings."""
    if not isinstance(row, dict): raise InputError(f"{place}: expected a JSON object")
    for column in columns:
        if not isinstance(row.get(column), (str, int, float)): raise InputError(f"{place}: no text or number {column!r}; expected it among {', '.join(row)}")
    cells = [str(row[column]) for column in columns]
    for column, cell in zip(columns, cells):
        try:
            cell.encode("utf-8")
        except UnicodeEncodeError: raise InputError(f"{place}: {column!r} is not Unicode text: it holds half a surrogate pair") from None
    return cells


def records(path):
    """Yield (line number, cells, or an object for JSON lines, or the InputError that is wrong with the line)."""
    lines = read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    while lines and not lines[-1].strip(): lines.pop()
    wrong = []  # what the CSV reader's source found on its way to the next row

    def decoded():
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                wrong.append((number, InputError(f"{path}: line {number}: not UTF-8")))
                text = line.decode("utf-8", "replace")  # its quotes count: they tell where the row ends
            yield text.removesuffix("\r") + "\n"

    if path.suffix == ".csv":
        reader = csv.reader(decoded(), strict=True)
        while True:
            first = reader.line_num + 1  # a quoted cell may span lines
            try:
                row = next(reader)
            except StopIteration: return
            except csv.Error as error:
                if "end of data" in str(error): raise InputError(f"{path}: line {first}: a quote is opened here and never closed") from None
                row = InputError(f"{path}: line {first}: not valid CSV ({error})")
            yield wrong[0] if wrong else (first, row)
            wrong.clear()
    for number, line in enumerate(decoded(), start=1):
        if wrong: yield wrong.pop()
        elif path.suffix == ".tsv": yield number, line.removesuffix("\n").split("\t")
        else:
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError): yield number, InputError(f"{path}: line {number}: not valid JSON")
