"""owndata.py: three formats, headers and numbers, everything that can be wrong with a row, and a whole run with predictions."""

import json
from pathlib import Path

import pytest

import train as command
from minipelt import InputError, predict
from minipelt.glue import Example
from minipelt.owndata import Data

ROWS = [("good film", "pos"), ("bad film", "neg"), ('a "so so" one, really', "mixed"), ("fine", "pos")]


def write(path, rows=ROWS, header=("text", "label")):
    """Rows in the format that the file's name asks for."""
    path = Path(path)
    if path.suffix == ".jsonl": text = "".join(json.dumps(dict(zip(header, row))) + "\n" for row in rows)
    elif path.suffix == ".csv":
        import csv, io
        out = io.StringIO()
        csv.writer(out).writerows([header, *rows] if header else rows)
        text = out.getvalue()
    else: text = "".join("\t".join(map(str, row)) + "\n" for row in ([header, *rows] if header else rows))
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_every_format_gives_the_same_examples(tmp_path, suffix):
    file = write(tmp_path / f"rows{suffix}")
    data = Data(file, file).found()
    assert data.labels == ("mixed", "neg", "pos")
    assert data.read("train") == [Example(text, label=data.labels.index(label)) for text, label in ROWS]


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_columns_by_number_and_a_file_without_header(tmp_path, suffix):
    file = write(tmp_path / f"rows{suffix}", [(1, *row, "x") for row in ROWS], header=None)
    examples = Data(file, file, text="2", text_b="4", label="3").found().read("train")
    assert len(examples) == 4 and examples[0] == Example("good film", "x", 2)


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_columns_by_number_and_a_header(tmp_path, suffix, capsys):
    train, dev = write(tmp_path / f"rows{suffix}"), write(tmp_path / f"dev{suffix}", ROWS[:1], header=None)
    data = Data(train, dev, text="1", label="2").found()
    assert data.labels == ("mixed", "neg", "pos") and "line 1 is taken as a header: 'label' is the label of no other row" in capsys.readouterr().out
    assert data.read("train") == Data(train, train).found().read("train") and data.read("dev") == [Example("good film", label=2)]
    scores = write(tmp_path / f"scores{suffix}", [("a", 1.5), ("b", -2)])
    assert [example.label for example in Data(scores, scores, text="1", label="2", regression=True).found().read("dev")] == [1.5, -2.0]


def test_a_first_row_that_may_be_one_stays(tmp_path):
    for rows in (ROWS, [("good", "pos"), ("bad", "neg"), ("worse", "neg")]):  # its label comes again; or without it one class were left
        file = write(tmp_path / "rows.tsv", rows, header=None)
        assert len(Data(file, file, text="1", label="2").found().read("train")) == len(rows)


def test_labels_that_are_numbers_keep_their_order(tmp_path):
    file = write(tmp_path / "rows.tsv", [("a", 10), ("b", 9), ("c", -1)])
    assert Data(file, file).found().labels == ("-1", "9", "10")


def test_labels_that_look_like_numbers(tmp_path):
    assert Data(write(tmp_path / "a.tsv", [("a", "1"), ("b", "01"), ("c", "001")]), "").found().labels == ("001", "01", "1")  # always in one order
    assert Data(write(tmp_path / "b.tsv", [("a", "²"), ("b", "--1"), ("c", "5")]), "").found().labels == ("--1", "5", "²")


def test_regression(tmp_path):
    file = write(tmp_path / "rows.csv", [("a", 1.5), ("b", -2)])
    data = Data(file, file, regression=True).found()
    assert [example.label for example in data.read("dev")] == [1.5, -2.0] and data.spec("x").num_outputs == 1 and data.spec("x").metrics[0] == "spearman"


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_at_the_end(tmp_path):
    (tmp_path / "rows.tsv").write_bytes("\ufefftext\tlabel\r\nkäse\t1\r\nbrot\t0\r\n\r\n".encode())
    file = str(tmp_path / "rows.tsv")
    assert [example.text for example in Data(file, file).found().read("train")] == ["käse", "brot"]


def test_quotes_in_csv_span_lines_and_count_them(tmp_path):
    (tmp_path / "rows.csv").write_text('text,label\n"two\nlines",a\nx,b\ny,b,c\n')
    file = str(tmp_path / "rows.csv")
    with pytest.raises(InputError, match="line 5: 3 columns; expected 2"): Data(file, file).found()


@pytest.mark.parametrize("name, content, message", [
    ("rows.tsv", b"", "rows.tsv: no rows; expected at least one"),
    ("rows.tsv", b"text\tlabel\n", "rows.tsv: no rows; expected at least one"),
    ("rows.tsv", b"words\tlabel\na\tb\n", "line 1: no column 'text'; expected it among words, label, or columns by number"),
    ("rows.tsv", b"text\tlabel\na\tb\nc\n", "line 3: 1 columns; expected 2"),
    ("rows.tsv", b"text\tlabel\na\tb\n\xff\tb\n", "line 3: not UTF-8"),
    ("rows.csv", b"text,label\na,b\n\xff,b\n", "line 3: not UTF-8"),
    ("rows.csv", b'text,label\na,b\n"a"b,c\n', "line 3: not valid CSV"),
    ("rows.csv", b'text,label\na,b\n"c,b\nd,b\n', "line 3: a quote is opened here and never closed"),
    ("rows.tsv", b"text\tlabel\na\tb\nc\t\n", "line 3: the column 'label' is empty; expected a label"),
    ("rows.jsonl", b'{"text": "cut \\ud83d", "label": 1}\n', "line 1: 'text' is not Unicode text"),
    ("rows.tsv", b"text\tlabel\na\tb\nc\tb\n", "every row has the label 'b'; expected at least two labels"),
    ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"\n', "line 2: not valid JSON"),
    ("rows.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2: expected a JSON object"),
    ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"}\n', "line 2: no text or number 'label'; expected it among text"),
    ("rows.txt", b"a", "expected a file whose name ends in .tsv, .csv, .jsonl"),
])
def test_wrong_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error: Data(str(tmp_path / name), "").found()
    assert message in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_missing_file_and_columns_of_two_kinds(tmp_path):
    with pytest.raises(InputError, match="none.tsv: no such file"): Data(str(tmp_path / "none.tsv"), "").found()
    with pytest.raises(InputError, match="not both"): Data("a", "b", text="1", label="label")
    with pytest.raises(InputError, match="no column 3; the line has 2"): Data(write(tmp_path / "rows.tsv"), "", text="1", label="3").found()


def test_an_unknown_label_in_dev(tmp_path):
    data = Data(write(tmp_path / "train.tsv"), write(tmp_path / "dev.tsv", [("x", "pos"), ("y", "great")])).found()
    with pytest.raises(InputError, match="dev.tsv: line 3: label 'great'; expected one of mixed, neg, pos, as in .*train.tsv"): data.read("dev")


def test_a_csv_row_over_several_lines_that_are_not_utf8_is_one_bad_row(tmp_path, capsys):
    (tmp_path / "rows.csv").write_bytes(b'text,label\n"start\n\xff\n\xff\nend",a\ngood,a\n"caf\xe9 one\nmore",b\nfine,b\n')
    file = str(tmp_path / "rows.csv")
    with pytest.raises(InputError, match="line 3: not UTF-8"): Data(file, file).found()
    assert [example.text for example in Data(file, file, skip_bad_rows=True).found().read("train")] == ["good", "fine"]
    assert "2 bad rows skipped, 2 read" in capsys.readouterr().out


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path, capsys):
    (tmp_path / "train.csv").write_bytes(b'text,label\na,x\nb\n\xff\xfe,x\n"q"r,x\nc,y\n')
    (tmp_path / "dev.csv").write_bytes(b"text,label\na,x\nb,z\n")
    data = Data(*(str(tmp_path / name) for name in ("train.csv", "dev.csv")), skip_bad_rows=True).found()
    assert [example.text for example in data.read("train")] == ["a", "c"] and len(data.read("dev")) == 1
    out = capsys.readouterr().out
    assert "train.csv: 3 bad rows skipped, 2 read; the first: " in out and "line 3: 1 columns; expected 2" in out and "dev.csv: 1 bad rows skipped, 1 read" in out


# ---- whole runs


def go(tiny_folder, *arguments):
    return command.main(["--model", str(tiny_folder), "--max-length", "24", "--device", "cpu", "--epochs", "2", "--method", "lora", *arguments])


def test_train_eval_and_predict_with_the_user_s_labels(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = [write(tmp_path / f"{name}.tsv", ROWS * 4, ("review", "verdict")) for name in ("train", "dev", "test")]
    columns = ["--text-column", "review", "--label-column", "verdict"]
    assert go(tiny_folder, "--train", "train.tsv", "--dev", "dev.tsv", "--test", "test.tsv", *columns) == 0
    (folder,) = Path("runs").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert folder.name == "train-lora-seed1" and record["run"]["data"]["labels"] == ["mixed", "neg", "pos"] and record["run"]["data"]["test"] == files[2]
    assert list(record["results"]["test"]) == ["accuracy", "macro_f1"] and record["rows"] == {"train": 16, "validation": 16, "test": 16}
    monkeypatch.chdir("/")
    assert command.main(["--eval", str(tmp_path / folder)]) == 0
    assert f"{record['results']['test']['accuracy']!r} (recorded: {record['results']['test']['accuracy']!r})" in capsys.readouterr().out
    assert predict.main([str(tmp_path / folder), "--text", "good film"]) == 0
    out = capsys.readouterr().out
    assert "mixed 0." in out and "pos 0." in out and out.split()[0] in ("mixed", "neg", "pos")
    assert predict.main([str(tmp_path / folder), "--glue-test"]) == 2
    assert "train is no GLUE task" in capsys.readouterr().err


def test_regression_on_pairs_with_k(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("pairs.csv", [("a b", "b", 1.0), ("c", "c", 5), ("d", "e f", -3), ("g", "h", 0.5)], ("one", "two", "score"))
    assert go(tiny_folder, "--train", "pairs.csv", "--dev", "pairs.csv", "--text-column", "one", "--text-b-column", "two", "--label-column", "score",
              "--regression", "--k", "3") == 0
    record = json.loads(next(Path("runs").iterdir()).joinpath("run.json").read_text())
    assert list(record["results"]["test"]) == ["spearman", "pearson"] and record["rows"] == {"train": 3, "validation": 4, "test": 4}


@pytest.mark.parametrize("arguments, message", [
    (["--train", "rows.tsv"], "--train without --dev"), (["--train", "none.tsv", "--dev", "rows.tsv"], "none.tsv: no such file"),
    (["--train", "rows.tsv", "--dev", "none.tsv"], "none.tsv: no such file"), (["--train", "rows.tsv", "--dev", "rows.tsv", "--label-column", "stars"], "no column 'stars'"),
])
def test_wrong_input_is_one_line(tiny_folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write("rows.tsv")
    assert go(tiny_folder, *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err and not Path("runs").exists()


def test_dev_without_train(capsys):
    with pytest.raises(SystemExit): command.main(["--task", "sst2", "--dev", "y.tsv"])
    assert "belong to --train" in capsys.readouterr().err


def test_task_or_train(capsys):
    with pytest.raises(SystemExit): command.main(["--task", "sst2", "--train", "x.tsv", "--dev", "y.tsv"])
    assert "expected one of them" in capsys.readouterr().err
