"""Mangled files of rows: they are read, or refused in one line; what was not touched keeps its texts and its label."""

import csv
import json
import os
import re

import pytest
from attack.machinery import TALLY, times

from minipelt import glue
from minipelt.errors import InputError
from minipelt.glue import MINIGLUE, TASKS
from minipelt.settings import Data
from minipelt.tools import owndata

FILES = 5_000  # of each format, at the default size
PIECES = [  # what is put into a file somewhere
    b'"', b'""', b'",', b',"', b"\t", b",", b"\n", b"\r\n", b"\r", b"\n\n", b" ", b"\\", b"\xef\xbb\xbf", b"\x00",
    b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", "\u2028".encode(), "\x85".encode(), b"\x1c", b"\x0b",
    b"{", b"}", b"[", b"]", b":", b"null", b"true", b"NaN", b"1e999", b"-0", b"\\ud800", b"\\", b"'", b"#", b"-",
    b"x" * 2_000, b'"' + b"y\n" * 50, b"[" * 3_000, b"9" * 5_000,
]
LABELS = ["bad", "good", "so-so"]


def mangle(data, dice):
    """Bytes with one to three changes."""
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        data = CHANGES[dice.randrange(len(CHANGES))](data, dice)
    return data


def flip(data, dice):
    """Other bytes in place of some."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        if changed:
            changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def flip_bit(data, dice):
    """One bit of one byte."""
    if not data:
        return data
    place = dice.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]


def cut(data, dice):
    """Without its end, or without a piece of its middle."""
    start, end = sorted(dice.randint(0, len(data)) for _ in range(2))
    return data[:end] if dice.random() < 0.5 else data[:start] + data[end:]


def double(data, dice):
    """A piece of it twice, or the file."""
    if dice.random() < 0.1:
        return data + data
    start, end = sorted(dice.randint(0, len(data)) for _ in range(2))
    return data[:end] + data[start:]


def insert(data, dice):
    """A piece that means something, anywhere or at the edge of a cell or line."""
    edges = [match.end() for match in re.finditer(rb"[\t\n,\":]", data)]
    anywhere = not edges or dice.random() < 0.4
    place = dice.randint(0, len(data)) if anywhere else dice.choice(edges)
    return data[:place] + dice.choice(PIECES) + data[place:]


def swap(data, dice):
    """Two lines in each other's place."""
    lines = data.split(b"\n")
    i, j = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def recode(data, dice):
    """In another encoding, with or without a byte-order mark."""
    text = data.decode("utf-8", "replace")
    return text.encode(dice.choice(["utf-16", "utf-8-sig", "utf-16-le", "utf-32"]))


def end_lines_otherwise(data, dice):
    """As Windows ends them, or as old Macs did."""
    return data.replace(b"\n", dice.choice([b"\r\n", b"\r", b"\n\n"]))


CHANGES = [flip, flip, flip_bit, flip_bit, cut, double, insert, insert, insert, swap, recode, end_lines_otherwise]


# ---- what must hold


def check_refusal(error, path, place):
    """One line that names the file, and the line in it unless it is the file as a whole."""
    text = str(error)
    assert "\n" not in text and len(text) < 1_000, f"{place}: {text[:300]}"
    assert text.startswith(f"{path}: "), f"{place}: {text}"
    about = text[len(f"{path}: ") :]
    assert re.match(r"line \d+: ", about) or about.startswith(("no rows", "column ")), f"{place}: {text}"


def check_rows(found, lines, data, hidden, place):
    """Lines that are still there as they were give the rows that they gave, and no other row has their text.

    found: [(text, text_b, label)]; lines: {line: (text, text_b, label)} of the whole file; hidden: numbers of lines
    that may be missing.
    """
    still_there = data.split(b"\n")
    if all(label is None for _, _, label in found):  # a file for predict, whose header names no label any more
        lines = {line: (*row[:2], None) for line, row in lines.items()}
    texts = {}
    for each in found:
        texts.setdefault(each[0], []).append(each)
    for line, row in lines.items():
        rows = texts.get(row[0], [])
        for number, other in enumerate(still_there):
            assert other != line or number in hidden or row in rows, f"{place}: {line} gave {rows}"
        if line in still_there and data.count(row[0].encode()) == still_there.count(line):
            assert all(each == row for each in rows), f"{place}: {line} gave {rows}"


def inside_cells(data):
    """The numbers of the lines of a CSV file that are no records of their own: a quote joins them to others."""
    lines = [line.decode("utf-8", "replace").removesuffix("\r") + "\n" for line in data.split(b"\n")]
    reader = csv.reader(lines, strict=True)
    found = set()
    while reader.line_num < len(lines):
        first = reader.line_num
        try:
            next(reader)
        except csv.Error:
            found.add(first)
        except StopIteration:
            break
        if reader.line_num > first + 1:
            found.update(range(first, reader.line_num))
    return found


def attack(path, data, lines, read, dice, hides=lambda data: set()):
    """Mangle a file's bytes again and again, and read it.

    read() -> rows as `check_rows` has them; hides(data) -> the numbers of lines that may be missing in them.
    """
    refused = 0
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for number in range(times(FILES)):
        changed = mangle(data, dice)
        os.pwrite(file, changed, 0)  # in place: many times faster than a new file
        os.ftruncate(file, len(changed))
        place = f"file {number}: {changed[:1_000]!r}"
        try:
            found = read()
        except InputError as error:
            refused += 1
            check_refusal(error, path, place)
            continue
        except Exception as error:
            raise AssertionError(f"{place}: {error!r}") from error
        check_rows(found, lines, changed, hides(changed), place)
    os.close(file)
    TALLY[f"mangled files of rows read, {path.suffix} of {'own data' if path.stem == 'rows' else 'GLUE'}"] += number + 1
    TALLY["mangled files of rows refused"] += refused
    assert 0.1 < refused / times(FILES) < 0.9  # the mangling is neither too coarse nor too fine


# ---- own data


def own_rows(number=7):
    """(text, text_b, label) of rows, each with texts of its own."""
    strange = ["", " ", "é", "\u2028", "😀", "'", "x y"]
    return [(f"r{i}{strange[i % 7]} one", f"s{i} two", LABELS[i % 3]) for i in range(number)]


def lines_of(kind, rows):
    """({line: row}, the header's line or None) as a format writes them."""
    if kind == "jsonl":
        write = [json.dumps({"first": a, "second": b, "label": c, "n": [1]}, ensure_ascii=False) for a, b, c in rows]
        return dict(zip((line.encode() for line in write), rows, strict=True)), None
    mark = "\t" if kind == "tsv" else ","
    lines = {}
    for number, row in enumerate(rows):
        cells = [str(number), *row]
        if kind == "csv" and number % 2:
            cells = [f'"{cell}"' for cell in cells]
        lines[mark.join(cells).encode()] = row
    return lines, mark.join(["n", "first", "second", "label"]).encode()


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_own_data(kind, tmp_path, dice, capsys):
    """Read as a training run reads it: first its labels, then its rows. Columns by name, or by number."""
    path, rows = tmp_path / f"rows.{kind}", own_rows()
    lines, header = lines_of(kind, rows)
    data = b"\n".join([header, *lines] if header else lines) + b"\n"
    named = Data(str(path), str(path), text="first", text_b="second", label="label")
    numbered = Data(str(path), str(path), text="2", text_b="3", label="4")

    def read():
        by_number = kind != "jsonl" and dice.random() < 0.3
        columns = owndata.find_labels(numbered if by_number else named)
        examples = owndata.read_file(columns, str(path))
        return [(each.text, each.text_b, columns.labels[each.label]) for each in examples]

    def hides(changed):
        """By number, a first line whose label no other row has is taken as a header; a line says so."""
        first = {0} if changed.split(b"\n")[0] != header else set()
        return first | inside_cells(changed) if kind == "csv" else first

    path.write_bytes(data)
    assert read() == rows
    attack(path, data, lines, read, dice, hides if header else lambda changed: set())


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_bad_rows_are_skipped_and_no_others(kind, tmp_path, dice, capsys):
    """With --skip-bad-rows, and without labels, as predict reads them."""
    path, rows = tmp_path / f"rows.{kind}", own_rows()
    lines, header = lines_of(kind, rows)
    data = b"\n".join([header, *lines] if header else lines) + b"\n"
    columns = Data(
        str(path), str(path), text="first", text_b="second", label="label", labels=tuple(LABELS), skip_bad_rows=True
    )

    def read():
        label_needed = dice.random() < 0.5
        examples = owndata.read_file(columns, str(path), label_needed)
        capsys.readouterr()
        return [(e.text, e.text_b, None if e.label is None else LABELS[e.label]) for e in examples]

    def hides(changed):
        if header and changed.split(b"\n")[0] != header:  # another header has other columns: the rows do not fit it
            return range(len(changed))
        return inside_cells(changed) if kind == "csv" else set()

    attack(path, data, lines, read, dice, hides)


# ---- GLUE's files


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_glue(task, tmp_path, dice):
    """A few rows of the sample, with other texts, so that no two are alike."""
    path = tmp_path / task.folder / f"{task.dev}.tsv"
    path.parent.mkdir()
    whole = (MINIGLUE / task.folder / path.name).read_text(encoding="utf-8").split("\n")
    header = [] if task.header else [whole.pop(0)]
    columns = (task.header or header[0].lstrip("\ufeff")).split("\t")
    lines = {}
    for number, line in enumerate(whole[:7]):
        cells = line.split("\t")
        texts = []
        for i, column in enumerate(task.columns):
            cells[columns.index(column)] = f"r{number}{'ab'[i]} said"
            texts.append(cells[columns.index(column)])
        label = glue.parse_label(task, cells[columns.index(task.label_column)], path, number)
        row = (texts[0], texts[1] if len(texts) == 2 else None, label)
        lines["\t".join(cells).encode()] = row
    data = b"\n".join([*(line.encode() for line in header), *lines]) + b"\n"

    def read():
        examples = glue.read(task, "dev", tmp_path)
        return [(each.text, each.text_b, each.label) for each in examples]

    path.write_bytes(data)
    assert read() == list(lines.values())
    attack(path, data, lines, read, dice)
