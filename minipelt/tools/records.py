"""The records of a .tsv, .csv or .jsonl file, each with the line on which it begins.

    for number, record in records("reviews.csv"):
        ...

In a TSV file, as in GLUE, a quote is a character like any other; in a CSV file it quotes, and a quoted cell may span
lines.
"""

import csv
import json
from pathlib import Path

from minipelt.errors import InputError
from minipelt.files import BYTE_ORDER_MARK, read_bytes

FORMATS = (".tsv", ".csv", ".jsonl")
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit of 131,072 is below what a long document has


def records(path):
    """Yield (line number, record) of a file.

    record: a list of cells, or for JSON lines whatever the line holds, or an InputError that says what is wrong with
    the line. Raises InputError if the file cannot be read, if its name ends otherwise, or for a quote that is never
    closed.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: expected a file whose name ends in {', '.join(FORMATS)}")
    lines = read_bytes(path).removeprefix(BYTE_ORDER_MARK).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    read = {".tsv": tsv_records, ".csv": csv_records, ".jsonl": json_records}[path.suffix]
    return read(path, lines)


def decode(line, path, number):
    """A line's bytes -> (text without its line end, None), or (text with the bad bytes replaced, InputError)."""
    line = line.removesuffix(b"\r")
    try:
        return line.decode("utf-8"), None
    except UnicodeDecodeError:
        return line.decode("utf-8", "replace"), InputError(f"{path}: line {number}: not UTF-8")


def tsv_records(path, lines):
    """The cells between the tabs of each line."""
    for number, line in enumerate(lines, start=1):
        text, error = decode(line, path, number)
        yield number, error or text.split("\t")


def json_records(path, lines):
    """What each line holds."""
    for number, line in enumerate(lines, start=1):
        text, error = decode(line, path, number)
        if error:
            yield number, error
            continue
        try:
            yield number, json.loads(text, parse_constant=refuse_constant)
        except RecursionError:
            yield number, InputError(f"{path}: line {number}: not valid JSON (nested too deeply)")
        except ValueError as error:  # a JSONDecodeError, or Python's own for a number of thousands of digits
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).split(" for ")[0]
            yield number, InputError(f"{path}: line {number}: not valid JSON ({reason})")


def refuse_constant(name):
    """What json calls for NaN and Infinity, which Python reads though JSON has no such numbers."""
    raise ValueError(f"{name} is no number")


def csv_records(path, lines):
    """The cells of each record. A line with bad bytes spoils its whole record, whose lines go together all the same."""
    csv.field_size_limit(LONGEST_CELL)
    bad_lines = []  # (number, InputError) that the reader has met since the last record

    def decoded():
        for number, line in enumerate(lines, start=1):
            text, error = decode(line, path, number)
            if error:
                bad_lines.append((number, error))
            yield text + "\n"

    reader = csv.reader(decoded(), strict=True)
    while True:
        first_line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise InputError(f"{path}: line {first_line}: a quote is opened here and never closed") from None
            record = InputError(f"{path}: line {first_line}: not valid CSV ({error})")
        yield bad_lines[0] if bad_lines else (first_line, record)
        bad_lines.clear()
