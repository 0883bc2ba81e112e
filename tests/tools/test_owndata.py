"""tools/owndata.py and records.py: three formats, headers and numbers, and everything that can be wrong with a row."""

import csv
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import tiny_run

from minipelt.errors import InputError
from minipelt.glue import Example
from minipelt.settings import Data
from minipelt.splits import load_splits
from minipelt.tools import owndata
from minipelt.tools.owndata import as_number, find_labels, is_whole, listing, read_file, read_split, reader
from minipelt.tools.records import records

ROWS = [("good film", "pos"), ("bad film", "neg"), ('a "so so" one, really', "mixed"), ("fine", "pos")]
HEADER = ("text", "label")


def write(path, rows=ROWS, header=HEADER):
    """Write rows in the format that the file's name asks for. Returns the name."""
    path = Path(path)
    lines = [header, *rows] if header else rows
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
    elif path.suffix == ".csv":
        out = io.StringIO()
        csv.writer(out).writerows(lines)
        text = out.getvalue()
    else:
        text = "".join("\t".join(map(str, line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def own(file, dev=None, **settings):
    """The Data of a training file, with the labels that it holds."""
    return find_labels(Data(str(file), str(dev or file), **settings))


def read(data, split="train"):
    """The Examples of a Data."""
    return read_file(data, getattr(data, split))


def labels_of(examples):
    """The labels alone."""
    return [example.label for example in examples]


def texts_of(examples):
    """The texts alone."""
    return [example.text for example in examples]


# ---- three formats


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_every_format_gives_the_same_examples(tmp_path, suffix):
    data = own(write(tmp_path / f"rows{suffix}"))
    assert data.labels == ("mixed", "neg", "pos")
    assert read(data) == [Example(text, label=data.labels.index(label)) for text, label in ROWS]


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_columns_by_number_and_a_file_without_header(tmp_path, suffix):
    file = write(tmp_path / f"rows{suffix}", [(1, *row, "x") for row in ROWS], header=None)
    examples = read(own(file, text="2", text_b="4", label="3"))
    assert len(examples) == 4
    assert examples[0] == Example("good film", "x", 2)


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_columns_by_number_and_a_header(tmp_path, suffix, capsys):
    train = write(tmp_path / f"rows{suffix}")
    dev = write(tmp_path / f"dev{suffix}", ROWS[:1], header=None)
    data = own(train, dev, text="1", label="2")
    assert data.labels == ("mixed", "neg", "pos")
    assert data.header == "label"
    printed = capsys.readouterr().out
    assert "line 1 is taken as a header: 'label' is the label of no other row" in printed
    assert read(data) == read(own(train))
    assert read(data, "dev") == [Example("good film", label=2)]


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_a_header_over_scores_by_number(tmp_path, suffix, capsys):
    scores = write(tmp_path / f"scores{suffix}", [("a", 1.5), ("b", -2)])
    data = own(scores, text="1", label="2", regression=True)
    assert labels_of(read(data, "dev")) == [1.5, -2.0]
    assert "line 1 is taken as a header: 'label' is no number" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [ROWS, [("good", "pos"), ("bad", "neg"), ("worse", "neg")]])
def test_a_first_row_that_may_be_one_stays(tmp_path, rows, capsys):
    """Its label comes again; or without it one class were left."""
    file = write(tmp_path / "rows.tsv", rows, header=None)
    assert len(read(own(file, text="1", label="2"))) == len(rows)
    assert capsys.readouterr().out == ""


def test_labels_that_are_numbers_keep_their_order(tmp_path):
    file = write(tmp_path / "rows.tsv", [("a", 10), ("b", 9), ("c", -1)])
    assert own(file).labels == ("-1", "9", "10")


def test_labels_that_look_like_numbers(tmp_path):
    zeros = write(tmp_path / "a.tsv", [("a", "1"), ("b", "01"), ("c", "001")])
    assert own(zeros).labels == ("001", "01", "1")  # always in one order
    signs = write(tmp_path / "b.tsv", [("a", "²"), ("b", "--1"), ("c", "5")])
    assert own(signs).labels == ("--1", "5", "²")


@pytest.mark.parametrize("text, number, whole", [
    ("3", 3.0, True),
    ("-3", -3.0, True),
    ("1e3", 1000.0, False),
    (" 2.5 ", 2.5, False),
    ("1_000", None, False),
    ("٣", None, False),
    ("nan", None, False),
    ("-inf", None, False),
    ("1e999", None, False),
    ("", None, False),
    ("9" * 5000, None, False),
])
def test_what_is_a_number(text, number, whole):
    assert as_number(text) == number
    assert is_whole(text) == whole


def test_regression(tmp_path):
    file = write(tmp_path / "rows.csv", [("a", 1.5), ("b", -2)])
    data = own(file, regression=True)
    assert data.labels == ()
    assert labels_of(read(data, "dev")) == [1.5, -2.0]
    assert data.spec("x").num_outputs == 1
    assert data.spec("x").metrics[0] == "spearman"


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_at_the_end(tmp_path):
    file = tmp_path / "rows.tsv"
    file.write_bytes("\ufefftext\tlabel\r\nkäse\t1\r\nbrot\t0\r\n\r\n".encode())
    assert texts_of(read(own(file))) == ["käse", "brot"]


def test_quotes_in_csv_span_lines_and_count_them(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('text,label\n"two\nlines",a\nx,b\ny,b,c\n')
    with pytest.raises(InputError, match="line 5: 3 columns; expected 2"):
        own(file)
    assert texts_of(read(own(file, skip_bad_rows=True))) == ["two\nlines", "x"]


def test_a_csv_cell_longer_than_python_s_own_limit(tmp_path, capsys):
    """Of 200,000 characters over 600 lines that look like rows: one row, and never its inside."""
    inside = "\n".join(f"row {number}," + "x" * 330 for number in range(600))
    assert len(inside) > 200_000
    file = write(tmp_path / "rows.csv", [("short", "a"), (inside, "b"), ("after", "a")])
    for skip_bad_rows in (False, True):
        data = own(file, skip_bad_rows=skip_bad_rows)
        assert data.labels == ("a", "b")
        assert texts_of(read(data)) == ["short", inside, "after"]
    assert capsys.readouterr().out == ""
    assert [number for number, _ in records(file)] == [1, 2, 3, 603]


def test_rows_without_a_label_are_read_where_none_is_needed(tmp_path):
    """As predict does: no label column, an empty cell, null."""
    data = own(write(tmp_path / "train.tsv"))
    (tmp_path / "some.csv").write_text("text,label\na,\nb,pos\n")
    (tmp_path / "some.jsonl").write_text('{"text": "a", "label": null}\n{"text": "b", "label": "pos"}\n')
    for name in ("some.csv", "some.jsonl"):
        assert labels_of(read_file(data, str(tmp_path / name), label_needed=False)) == [None, 2]
    write(tmp_path / "none.tsv", [("a",), ("b",)], ("text",))
    write(tmp_path / "none.jsonl", [("a",), ("b",)], ("text",))
    for name in ("none.tsv", "none.jsonl"):
        assert labels_of(read_file(data, str(tmp_path / name), label_needed=False)) == [None, None]
    with pytest.raises(InputError, match="line 1: no column 'label'"):
        read_file(data, str(tmp_path / "none.tsv"))
    by_number = own(write(tmp_path / "rows.tsv", header=None), text="1", label="2")
    (tmp_path / "one.tsv").write_text("a\nb\n")
    assert labels_of(read_file(by_number, str(tmp_path / "one.tsv"), label_needed=False)) == [None, None]


def test_a_run_reads_its_own_files_and_others_read_glue(tmp_path, tiny_folder):
    data = own(write(tmp_path / "train.tsv"), write(tmp_path / "dev.tsv", ROWS[:2]))
    run = tiny_run(tiny_folder, "mine", "lora", data=data, k=3)
    assert reader(run) is read_split
    assert labels_of(read_split(run, "dev")) == [2, 1]
    splits = load_splits(run, reader(run))
    assert [len(rows) for rows in splits.values()] == [3, 2, 2]
    with_test = replace(run, data=replace(data, test=write(tmp_path / "test.tsv", ROWS[:1])))
    assert len(load_splits(with_test, reader(with_test))["test"]) == 1
    glue = tiny_run(tiny_folder, "sst2", "lora")
    assert reader(glue)(glue, "dev")[0].label in (0, 1)


# ---- wrong files


@pytest.mark.parametrize("name, content, message", [
    ("rows.tsv", b"", "rows.tsv: no rows; expected at least one"),
    ("rows.tsv", b"text\tlabel\n", "rows.tsv: no rows; expected at least one"),
    ("rows.tsv", b"words\tlabel\na\tb\n",
     "line 1: no column 'text'; expected it among words, label, or columns by number"),
    ("rows.tsv", b"text\tlabel\na\tb\nc\n", "line 3: 1 column; expected 2"),
    ("rows.tsv", b"text\tlabel\na\tb\nc\td\te\n", "line 3: 3 columns; expected 2"),
    ("rows.tsv", b"text\tlabel\na\tb\n\xff\tb\n", "line 3: not UTF-8"),
    ("rows.tsv", b"\xff\ntext\tlabel\na\tb\n", "line 1: not UTF-8"),
    ("rows.csv", b"text,label\na,b\n\xff,b\n", "line 3: not UTF-8"),
    ("rows.csv", b'text,label\na,b\n"a"b,c\n', "line 3: not valid CSV"),
    ("rows.csv", b'text,label\na,b\n"c,b\nd,b\n', "line 3: a quote is opened here and never closed"),
    ("rows.csv", b"text,label,label\na,b,c\n", "line 1: 2 columns are called 'label'; expected one"),
    ("rows.tsv", b"text\ttext\tlabel\ttext\na\tb\tc\td\n", "line 1: 3 columns are called 'text'; expected one"),
    ("rows.tsv", b"text\tlabel\na\tb\nc\t\n", "line 3: the column 'label' is empty; expected a label"),
    ("rows.tsv", b"text\tlabel\na\tb\nc\tb\n", "every row has the label 'b'; expected at least two labels"),
    ("rows.jsonl", b'{"text": "cut \\ud83d", "label": 1}\n', "line 1: 'text' is not Unicode text"),
    ("rows.jsonl", b'{"text": "a", "label": "\\udc00"}\n', "line 1: 'label' is not Unicode text"),
    ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"\n', "line 2: not valid JSON"),
    ("rows.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2: expected a JSON object"),
    ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"}\n', "line 2: no 'label'; expected it among text"),
    ("rows.jsonl", b'{"text": "a", "label": null}\n', "line 1: 'label' is null; expected a text or a number"),
    ("rows.jsonl", b'{"text": "a", "label": ""}\n', "line 1: 'label' is empty; expected a label"),
    ("rows.jsonl", b'{"text": ["a"], "label": 1}\n', "line 1: 'text' is a list; expected a text or a number"),
    ("rows.jsonl", b'{"text": {}, "label": 1}\n', "line 1: 'text' is an object; expected a text or a number"),
    ("rows.jsonl", b'{"text": "a", "label": NaN}\n', "line 1: not valid JSON (NaN is no number)"),
    ("rows.jsonl", b'{"text": "a", "label": -Infinity}\n', "line 1: not valid JSON (-Infinity is no number)"),
    ("rows.jsonl", b'{"text": "a", "label": 1e999}\n', "line 1: 'label' is too large"),
    ("rows.jsonl", b"[" * 100_000, "line 1: not valid JSON (nested too deeply)"),
    ("rows.jsonl", b'{"text": ' * 100_000, "line 1: not valid JSON (nested too deeply)"),
    ("rows.jsonl", b'{"text": "a", "label": ' + b"9" * 10_000 + b"}\n", "line 1: not valid JSON"),
    ("rows.txt", b"a", "expected a file whose name ends in .tsv, .csv, .jsonl"),
])
def test_wrong_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        own(tmp_path / name)
    sentence = str(error.value)
    assert message in sentence
    assert str(tmp_path / name) in sentence
    assert "\n" not in sentence
    assert len(sentence) < len(str(tmp_path)) + 250


@pytest.mark.parametrize("first, second, message", [
    ("1", "1.0", "line 2: label 1.0, and 1 before it; expected one way to write a label"),
    ("true", "1", "line 2: label 1, and True before it"),
    ("0.0", "false", "line 2: label False, and 0.0 before it"),
])
def test_labels_that_python_takes_for_one_key_are_not_mixed(tmp_path, first, second, message):
    """Not even where bad rows are skipped: nobody knows which of them is bad."""
    file = tmp_path / "rows.jsonl"
    lines = [f'{{"text": "a", "label": {label}}}\n' for label in (first, second, "7")]
    file.write_text("".join(lines))
    for skip_bad_rows in (False, True):
        with pytest.raises(InputError, match=message):
            own(file, skip_bad_rows=skip_bad_rows)


def test_labels_written_in_one_way_are_as_the_file_has_them(tmp_path):
    file = tmp_path / "rows.jsonl"
    for values, labels in ((("true", "false"), ("False", "True")), (("1.0", "2.0"), ("1.0", "2.0"))):
        file.write_text("".join(f'{{"text": "a", "label": {value}}}\n' for value in values))
        assert own(file).labels == labels
    file.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 1.0}\n')
    assert labels_of(read(own(file, regression=True))) == [1.0, 1.0]  # numbers are numbers however they are written


@pytest.mark.parametrize("score, message", [
    ("nan", "line 3: 'nan'; expected a number, as --regression has it"),
    ("inf", "line 3: 'inf'; expected a number"),
    ("1_000", "line 3: '1_000'; expected a number"),
    ("good", "line 3: 'good'; expected a number"),
    ("1e39", "line 3: '1e39' is too large to train on; expected scores in a range of a few units"),
    ("-1e39", "line 3: '-1e39' is too large to train on"),
    ("2e19", "line 3: '2e19' is too large to train on"),
])
def test_scores_are_numbers_that_float32_can_square(tmp_path, score, message):
    """A line, and not a loss of infinity and the advice to lower the learning rate."""
    data = own(write(tmp_path / "rows.tsv", [("a", 1.5), ("b", score)]), regression=True)
    with pytest.raises(InputError, match=message):
        read(data)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="none.tsv: no such file"):
        own(tmp_path / "none.tsv")
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        own(tmp_path / "folder.tsv")
    with pytest.raises(InputError, match="name too long"):
        own(tmp_path / ("x" * 300 + ".tsv"))


def test_columns_that_are_not_there_or_not_apart(tmp_path):
    file = write(tmp_path / "rows.tsv")
    with pytest.raises(InputError, match="no column 3; the line has 2"):
        own(file, text="1", label="3")
    with pytest.raises(InputError, match="columns label, label: expected another column for each text and the label"):
        own(file, text="label")
    with pytest.raises(InputError, match="columns text, text, label: expected another column"):
        own(file, text_b="text")


def test_a_duplicate_name_that_nobody_asks_for_is_no_error(tmp_path):
    file = write(tmp_path / "rows.tsv", [("a", "x", 1, "y"), ("b", "x", 2, "y")], ("text", "note", "label", "note"))
    assert texts_of(read(own(file))) == ["a", "b"]


def test_an_unknown_label_in_dev(tmp_path):
    dev = write(tmp_path / "dev.tsv", [("x", "pos"), ("y", "great")])
    data = own(write(tmp_path / "train.tsv"), dev)
    expected = "dev.tsv: line 3: label 'great'; expected one of mixed, neg, pos, as in .*train.tsv"
    with pytest.raises(InputError, match=expected):
        read(data, "dev")


def test_a_csv_row_over_several_lines_that_are_not_utf8_is_one_bad_row(tmp_path, capsys):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,label\n"start\n\xff\n\xff\nend",a\ngood,a\n"caf\xe9 one\nmore",b\nfine,b\n')
    with pytest.raises(InputError, match="line 3: not UTF-8"):
        own(file)
    assert texts_of(read(own(file, skip_bad_rows=True))) == ["good", "fine"]
    assert "2 bad rows skipped, 2 read" in capsys.readouterr().out


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path, capsys):
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_bytes(b'text,label\na,x\nb\n\xff\xfe,x\n"q"r,x\nc,y\n')
    dev.write_bytes(b"text,label\na,x\nb,z\n")
    data = own(train, dev, skip_bad_rows=True)
    assert texts_of(read(data)) == ["a", "c"]
    assert len(read(data, "dev")) == 1
    printed = capsys.readouterr().out
    assert "train.csv: 3 bad rows skipped, 2 read; the first: " in printed
    assert "line 3: 1 column; expected 2" in printed
    assert "dev.csv: 1 bad row skipped, 1 read" in printed


def test_a_header_that_is_bad_is_never_skipped(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b"text,l\xffabel\na,x\nb,y\n")
    with pytest.raises(InputError, match="line 1: not UTF-8"):
        own(file, skip_bad_rows=True)


def test_a_file_with_nothing_but_bad_rows(tmp_path):
    data = own(write(tmp_path / "train.tsv"), write(tmp_path / "dev.tsv", [("x", "odd")]), skip_bad_rows=True)
    with pytest.raises(InputError, match="dev.tsv: no rows; expected at least one"):
        read(data, "dev")


# ---- many labels


@pytest.mark.parametrize("make_label, advice", [
    (lambda number: f"a review of {number} words", "expected a column of classes, which --label-column names"),
    (lambda number: number, "expected --regression if they are numbers to be predicted, or a column of classes"),
    (lambda number: f"{number}.5", "expected --regression if they are numbers"),
])
def test_hundreds_of_labels_are_one_sentence(tmp_path, make_label, advice):
    rows = [(f"text {number}", make_label(number)) for number in range(900)]
    with pytest.raises(InputError) as error:
        own(write(tmp_path / "rows.tsv", rows))
    sentence = str(error.value)
    assert "column 'label' has 900 different labels in 900 rows" in sentence
    assert "... and 897 more" in sentence
    assert advice in sentence
    assert len(sentence) < len(str(tmp_path)) + 300
    assert "\n" not in sentence


def test_decimal_numbers_are_no_classes_however_often_they_come(tmp_path):
    rows = [("a", f"{number % 150}.5") for number in range(3000)]
    with pytest.raises(InputError, match="150 different labels in 3,000 rows .*--regression"):
        own(write(tmp_path / "rows.tsv", rows))


@pytest.mark.parametrize("count, rows", [(100, 100), (150, 1500)])
def test_many_classes_with_enough_rows_are_classes(tmp_path, count, rows):
    file = write(tmp_path / "rows.tsv", [("a", f"class {number % count}") for number in range(rows)])
    assert len(own(file).labels) == count


class Counted(str):
    """A string that counts how often it is compared."""

    count = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.count += 1
        return str.__eq__(self, other)

    def __lt__(self, other):
        Counted.count += 1
        return str.__lt__(self, other)


@pytest.mark.parametrize("columns", [{"text": "text", "label": "label"}, {"text": "1", "label": "2"}])
def test_looking_for_many_labels_takes_few_comparisons(monkeypatch, columns):
    """Not one for each pair of rows: 3,000 rows with a label each are 4,500,000 pairs."""
    lines = [("text", Counted(f"label {number}")) for number in range(3000)]
    header = [(1, list(HEADER))] if columns["text"] == "text" else []
    found = header + [(number, list(line)) for number, line in enumerate(lines, start=2)]
    monkeypatch.setattr(owndata, "records", lambda path: iter(found))
    monkeypatch.setattr(Counted, "count", 0)
    with pytest.raises(InputError, match="3,000 different labels"):
        own("rows.tsv", **columns)
    assert Counted.count < 100_000


def test_reading_many_labels_takes_a_comparison_or_two_a_row(tmp_path, monkeypatch):
    rows = [("a", f"label {number % 300}") for number in range(3000)]
    data = own(write(tmp_path / "rows.tsv", rows))
    data = replace(data, labels=tuple(Counted(label) for label in data.labels))
    monkeypatch.setattr(Counted, "count", 0)
    assert len(set(labels_of(read(data)))) == 300
    assert Counted.count <= 3 * len(rows)


def test_a_wrong_label_among_many_is_one_short_sentence(tmp_path):
    """As where --label-column names another column in the dev file: each row is bad, the first is named."""
    rows = [("a", f"label {number % 300}") for number in range(3000)]
    data = own(write(tmp_path / "rows.tsv", rows), write(tmp_path / "dev.tsv", [("a", "x" * 10_000)]))
    expected = "dev.tsv: line 2: label 'xxx.*expected one of label 0, .* and 290 more"
    with pytest.raises(InputError, match=expected) as error:
        read(data, "dev")
    assert len(str(error.value)) < 2 * len(str(tmp_path)) + 400


def test_a_listing_is_short_whatever_the_names():
    assert listing(["a", "b"]) == "a, b"
    assert listing(range(1000), most=3) == "0, 1, 2 ... and 997 more"
    assert listing(["x" * 1000]) == "x" * 40 + "..."
    assert listing(["two\nlines", "half \ud83d"]) == "two lines, half \\ud83d"


# ---- mangled files


def mangled(data, generator):
    """Bytes with a few of them replaced, removed, doubled or cut off."""
    data = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(data)) if data else 0
        kind = generator.randrange(4)
        if kind == 0:
            data[place : place + 1] = bytes([generator.choice(b'\t\n\r,"{}[]:\\\x00\xff\xc3e1')])
        elif kind == 1:
            del data[place : place + generator.randint(1, 5)]
        elif kind == 2:
            data[place:place] = data[place : place + generator.randint(1, 30)]
        else:
            del data[place + 20 :]
    return bytes(data)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_mangled_files_are_read_or_refused_in_one_line(tmp_path, suffix, skip_bad_rows):
    file = Path(write(tmp_path / f"rows{suffix}", ROWS * 3))
    whole, generator = file.read_bytes(), random.Random(suffix)
    for _ in range(300):
        file.write_bytes(mangled(whole, generator))
        try:
            examples = read(own(file, skip_bad_rows=skip_bad_rows))
        except InputError as error:
            assert "\n" not in str(error)
            continue
        assert all(isinstance(example.text, str) and isinstance(example.label, int) for example in examples)
