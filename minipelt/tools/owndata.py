"""Your own data: TSV, CSV or JSON-lines files with one or two text columns and a label or a score.

    python train.py --train reviews.tsv --dev reviews-dev.tsv --text-column text --label-column stars

Columns are named as the header line names them, or numbered from 1, with a header or without. The classes are the
labels that the training file holds, as it writes them. Nothing is guessed in silence: a file that can be read in two
ways is refused, or a line says how it was read. This file needs no torch.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from minipelt import splits
from minipelt.commands import given
from minipelt.errors import InputError, plural, short
from minipelt.glue import Example, make_example
from minipelt.settings import Data, Run
from minipelt.tools.records import records

LARGEST_SCORE = 1e15  # a score's square must be a number in float32, with room for sums: the loss is a mean of squares
MANY_LABELS = 100  # a column with more different labels is looked at twice
ROWS_A_LABEL = 10  # ... and holds classes if each has so many rows on average


# ---- from a command line's options


def own_name(args: Namespace) -> str:
    """What the data is called. Raises InputError for what cannot be in a folder's name."""
    name = Path(args.train).stem if args.name is None else args.name
    if not name.strip(". ") or any(mark in name for mark in "/\\\n"):
        raise InputError(f"--name {name!r}: expected a name that a folder can have")
    return name


def own_data(args: Namespace) -> Data:
    """The options as a Data, with the labels that the training file holds. Raises InputError."""
    if not args.dev:
        raise InputError("--train without --dev: expected a file with rows to pick the best epoch")
    files = {name: str(Path(file).resolve()) for name, file in given(args, ("train", "dev", "test")).items()}
    options = given(args, ("regression", "skip_bad_rows"))
    for name, option in (("text", "text_column"), ("text_b", "text_b_column"), ("label", "label_column")):
        if getattr(args, option) is not None:
            options[name] = getattr(args, option)
    return find_labels(Data(**files, **options))


# ---- Examples


def reader(run: Run) -> Callable[[Run, str], list[Example]]:
    """What reads the rows of a run: `read_split` for the user's own files, else GLUE's."""
    return read_split if run.data else splits.read_split


def read_split(run: Run, split: str) -> list[Example]:
    """The Examples of `split` (train, dev or test) of a run on the user's own files.

    Raises InputError with file and line for a bad row, unless those are skipped: a line then says how many were.
    """
    return read_file(run.data, getattr(run.data, split))


def read_file(data: Data, path: str, label_needed: bool = True) -> list[Example]:
    """The Examples of any file that has the columns of `data`.

    With label_needed=False, rows without a label are taken too, and get the label None. Raises InputError as
    `read_split` does.
    """
    examples, bad = [], []
    numbers = {label: number for number, label in enumerate(data.labels)}
    for number, texts, text in read_rows(data, path, bad, label_needed):
        try:
            label = None if text is None else parse_label(data, text, numbers, f"{path}: line {number}")
        except InputError as error:
            if not data.skip_bad_rows:
                raise
            bad.append(error)
            continue
        examples.append(make_example(texts, label))
    if bad:
        print(f"{path}: {plural(len(bad), 'bad row')} skipped, {len(examples):,} read; the first: {bad[0]}")
    if not examples:
        raise InputError(f"{path}: no rows; expected at least one")
    return examples


def parse_label(data: Data, label: str, numbers: dict, place: str) -> int | float:
    """A label as the file writes it -> class number, or score. Raises InputError, naming the place.

    numbers: {label: class number}.
    """
    if not data.regression:
        if label not in numbers:
            known = f"{listing(data.labels)}, as in {data.train}"
            raise InputError(f"{place}: label {short(label)}; expected one of {known}")
        return numbers[label]
    score = as_number(label)
    if score is None:
        raise InputError(f"{place}: {short(label)}; expected a number, as --regression has it")
    if abs(score) > LARGEST_SCORE:
        raise InputError(f"{place}: {short(label)} is too large to train on; expected scores in a range of a few units")
    return score


# ---- the labels of a training file


def find_labels(data: Data) -> Data:
    """`data` with the labels that its training file holds, and with the header's label where columns go by number.

    Raises InputError if there are fewer than two labels, or so many that the column can hardly be one of classes.
    """
    by_number = goes_by_number(data) and Path(data.train).suffix != ".jsonl"
    if data.regression and not by_number:
        return data
    by_line = {number: label for number, _, label in read_rows(data, data.train)}
    if by_number and 1 in by_line and is_header(data, by_line):
        header = by_line.pop(1)
        reason = "no number" if data.regression else "the label of no other row"
        print(f"{data.train}: line 1 is taken as a header: {short(header)} is {reason}")
        data = replace(data, header=header)
    if data.regression:
        return data
    labels = set(by_line.values())
    if len(labels) < 2:
        only = short(labels.pop())
        raise InputError(
            f"{data.train}: column {data.label!r}: every row has the label {only}; expected at least two labels"
        )
    check_number_of_labels(data, labels, len(by_line))
    if all(is_whole(label) for label in labels):
        return replace(data, labels=tuple(sorted(labels, key=lambda label: (int(label), label))))
    return replace(data, labels=tuple(sorted(labels)))


def is_header(data: Data, by_line: dict) -> bool:
    """Whether line 1 looks like a header by its label: no number, or a class that no other row has.

    In a classification two other classes must be there: of two rows with different labels, both are rows.
    """
    if data.regression:
        return as_number(by_line[1]) is None
    others = {label for number, label in by_line.items() if number > 1}
    return by_line[1] not in others and len(others) >= 2


def check_number_of_labels(data: Data, labels: set, rows: int) -> None:
    """Raise InputError for a column that can hardly be one of classes.

    It has many labels, and they are decimal numbers, or few rows have the same.
    """
    if len(labels) <= MANY_LABELS:
        return
    numbers = all(as_number(label) is not None for label in labels)
    decimal = numbers and not all(is_whole(label) for label in labels)
    if rows >= ROWS_A_LABEL * len(labels) and not decimal:
        return
    if numbers:
        advice = "--regression if they are numbers to be predicted, or a column of classes"
    else:
        advice = "a column of classes, which --label-column names"
    raise InputError(
        f"{data.train}: column {data.label!r} has {len(labels):,} different labels in {rows:,} rows "
        f"({listing(sorted(labels), most=3)}); expected {advice}"
    )


# ---- rows and their columns


def read_rows(data: Data, path: str, bad: list | None = None, label_needed: bool = True) -> Iterator:
    """Yield (line number, [text] or [text, text_b], label) of a file.

    A label is None where it is missing and not needed.
    A bad row raises InputError or, where such rows are to be skipped, goes to the list `bad`.
    """
    select = select_by_key if Path(path).suffix == ".jsonl" else select_by_place
    found = 0
    for number, cells in select(data, path, label_needed):
        if isinstance(cells, InputError):
            if not data.skip_bad_rows:
                raise cells
            if bad is not None:
                bad.append(cells)
            continue
        found += 1
        yield number, cells[:-1], cells[-1]
    if not found:
        raise InputError(f"{path}: no rows; expected at least one")


def select_by_place(data: Data, path: str, label_needed: bool) -> Iterator:
    """Yield (line number, the wanted cells or an InputError) of a TSV or CSV file.

    The first record tells where they are.
    """
    places = width = None
    for number, record in records(path):
        place = f"{path}: line {number}"
        if places is None:
            if isinstance(record, InputError):
                raise record  # without the first record nobody knows where the columns are
            width = len(record)
            if goes_by_number(data):
                places = numbered_places(data, record, place, label_needed)
                if places[-1] is None or record[places[-1]] != data.header:
                    yield number, pick_cells(data, record, places, place, label_needed)
            else:
                places = named_places(data, record, place, label_needed)
        elif isinstance(record, InputError):
            yield number, record
        elif len(record) != width:
            yield number, InputError(f"{place}: {plural(len(record), 'column')}; expected {width}")
        else:
            yield number, pick_cells(data, record, places, place, label_needed)


def named_places(data: Data, header: list, place: str, label_needed: bool) -> list:
    """Where the columns of `data` are in a header. Raises InputError.

    None stands for a label that is missing and not needed.
    """
    places = []
    for column in data.columns:
        count = header.count(column)
        if count > 1:
            raise InputError(f"{place}: {count} columns are called {short(column)}; expected one, or columns by number")
        if count:
            places.append(header.index(column))
        elif column == data.label and not label_needed:
            places.append(None)
        else:
            known = f"{listing(header)}, or columns by number"
            raise InputError(f"{place}: no column {column!r}; expected it among {known}")
    return places


def numbered_places(data: Data, record: list, place: str, label_needed: bool) -> list:
    """Where the columns of `data`, which go by number, are. Raises InputError.

    None stands for a label that is missing and not needed.
    """
    places = []
    for column in data.columns:
        if int(column) <= len(record):
            places.append(int(column) - 1)
        elif column == data.label and not label_needed:
            places.append(None)
        else:
            raise InputError(f"{place}: no column {column}; the line has {len(record)}")
    return places


def pick_cells(data: Data, record: list, places: list, place: str, label_needed: bool) -> list | InputError:
    """The wanted cells of a record, the label's last, or what is wrong with them."""
    cells = [None if where is None else record[where] for where in places]
    if cells[-1]:
        return cells
    if label_needed:
        return InputError(f"{place}: the column {data.label!r} is empty; expected a label")
    return [*cells[:-1], None]


def select_by_key(data: Data, path: str, label_needed: bool) -> Iterator:
    """Yield (line number, the wanted values as strings or an InputError) of a JSON-lines file."""
    written = {}  # {label as JSON has it: how it is written}; in Python 1, 1.0 and True are one key
    for number, record in records(path):
        place = f"{path}: line {number}"
        if isinstance(record, InputError):
            yield number, record
            continue
        try:
            cells = pick_values(data, record, place, label_needed)
        except InputError as error:
            yield number, error
            continue
        label = record.get(data.label)
        if isinstance(label, int | float) and not data.regression:
            before = written.setdefault(label, cells[-1])
            if before != cells[-1]:
                found = f"label {cells[-1]}, and {before} before it"
                raise InputError(f"{place}: {found}; expected one way to write a label")
        yield number, cells


def pick_values(data: Data, record, place: str, label_needed: bool) -> list:
    """The wanted values of a JSON object as strings, the label's last. Raises InputError if they are not there."""
    cells = [pick_value(record, column, place) for column in data.columns[:-1]]
    if not label_needed and record.get(data.label) in (None, ""):
        return [*cells, None]
    label = pick_value(record, data.label, place)
    if not label:
        raise InputError(f"{place}: {data.label!r} is empty; expected a label")
    return [*cells, label]


def pick_value(record, column: str, place: str) -> str:
    """What a JSON object has under a key, as a string. Raises InputError for anything but a text or a number."""
    if not isinstance(record, dict):
        raise InputError(f"{place}: expected a JSON object")
    if column not in record:
        raise InputError(f"{place}: no {column!r}; expected it among {listing(record)}")
    value = record[column]
    if not isinstance(value, str | int | float):
        kind = {type(None): "null", list: "a list", dict: "an object"}[type(value)]
        raise InputError(f"{place}: {column!r} is {kind}; expected a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{place}: {column!r} is too large; expected a text or a number")
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{place}: {column!r} is not Unicode text: it holds half a surrogate pair")
    return text


# ---- small things


def goes_by_number(data: Data) -> bool:
    """Whether columns are given by their numbers; settings.Data has seen to it that all are, or none."""
    return data.text.isascii() and data.text.isdigit()


def as_number(text: str) -> float | None:
    """A finite number as files write it, or None for anything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    written_as_number = text.isascii() and "_" not in text  # Python reads 1_000 and the digits of every script
    return number if written_as_number and math.isfinite(number) else None


def is_whole(text: str) -> bool:
    """Whether a label is a whole number, as in 3 or -3."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 1000  # Python refuses to read some thousands


def listing(names, most: int = 10) -> str:
    """Names with commas between; the first ones and a count where there are many, and a long name cut."""
    names = list(names)
    shown = []
    for name in names[:most]:
        text = " ".join(str(name).split()).encode("utf-8", "backslashreplace").decode()
        shown.append(text if len(text) <= 40 else f"{text[:40]}...")
    rest = f" ... and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shown) + rest
