"""glue.py: official formats with their quirks, clear errors, and fetching from a server on loopback."""

import functools
import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from minipelt import InputError, glue
from minipelt.glue import TASKS, Example, fetch, get_task, read

SIZES = {  # official train and dev rows
    "cola": (8551, 1043), "sst2": (67349, 872), "mrpc": (3668, 408), "stsb": (5749, 1500),
    "qqp": (363846, 40430), "mnli": (392702, 9815), "qnli": (104743, 5463), "rte": (2490, 277),
}
COMPLETE = [("cola", "train"), ("cola", "dev"), ("sst2", "train"), ("sst2", "dev"), ("mrpc", "train"), ("mrpc", "dev"), ("stsb", "train"),
            ("stsb", "dev"), ("rte", "train"), ("rte", "dev"), ("qnli", "dev"), ("mnli", "dev")]


def put(root, name, split, text, encoding="utf-8"):
    """Write a task's TSV."""
    folder = root / TASKS[name].folder
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.tsv").write_bytes(text.encode(encoding))


# ---- real rows


@pytest.mark.parametrize("name, split", COMPLETE)
def test_real_rows_are_all_read(glue, name, split):
    rows = read(TASKS[name], split, glue)
    assert len(rows) == SIZES[name][split == "dev"]
    assert all(row.text.strip() and (row.text_b is None) == (len(TASKS[name].columns) == 1) for row in rows)


@pytest.mark.parametrize("name", TASKS)
def test_real_labels_are_all_known(glue, name):
    for split in ("train", "dev"):
        labels = {row.label for row in read(TASKS[name], split, glue)}
        if name == "stsb": assert min(labels) == 0 and max(labels) == 5
        else: assert labels == set(range(TASKS[name].num_outputs))


def test_real_quirks(glue):
    assert read(TASKS["cola"], "train", glue)[0] == Example("Our friends won't buy this analysis, let alone the next one we propose.", None, 1)
    assert read(TASKS["cola"], "test", glue)[0] == Example("Bill whistled past the house.")
    assert read(TASKS["rte"], "test", glue)[0].label is None
    assert read(TASKS["mrpc"], "train", glue)[0].text.startswith('Amrozi accused his brother , whom he called " the witness " ,')
    assert len(read(TASKS["mnli"], "dev_mismatched", glue)) > 0


# ---- formats, on rows of our own


def test_quotes_are_plain_characters(tmp_path):
    put(tmp_path, "sst2", "train", 'sentence\tlabel\n"half a quote\t1\n" a whole " one\t0\n')
    assert [row.text for row in read(TASKS["sst2"], "train", tmp_path)] == ['"half a quote', '" a whole " one']


def test_cola_has_no_header_and_perhaps_no_last_newline(tmp_path):
    put(tmp_path, "cola", "dev", "x1\t1\t\tIt rains.\nx1\t0\t*\tIt rain.")
    assert read(TASKS["cola"], "dev", tmp_path) == [Example("It rains.", None, 1), Example("It rain.", None, 0)]


def test_cola_test_has_a_header_and_no_label(tmp_path):
    put(tmp_path, "cola", "test", "index\tsentence\n0\tIt rains.\n")
    assert read(TASKS["cola"], "test", tmp_path) == [Example("It rains.")]


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    put(tmp_path, "mrpc", "dev", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t10\t11\tone\ttwo\r\n")
    assert read(TASKS["mrpc"], "dev", tmp_path) == [Example("one", "two", 1)]


def test_mnli_train_and_dev_differ_in_columns_and_unlabelled_rows_are_skipped(tmp_path):
    start = "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\t"
    row = "0\t1\t1e\tfiction\tx\tx\tx\tx\tA cat sleeps.\tAn animal rests.\tentailment\t"
    put(tmp_path, "mnli", "train", start + "gold_label\n" + row + "entailment\n" + row + "-\n")
    put(tmp_path, "mnli", "dev_matched", start + "label2\tlabel3\tlabel4\tlabel5\tgold_label\n" + row + "neutral\tn\tn\tn\tneutral\n")
    assert read(TASKS["mnli"], "train", tmp_path) == [Example("A cat sleeps.", "An animal rests.", 0)]
    assert read(TASKS["mnli"], "dev", tmp_path)[0].label == 1


def test_task_names():
    assert get_task("SST-2") is get_task("sst2") is TASKS["sst2"]
    with pytest.raises(InputError, match="unknown task 'wnli': expected one of cola, sst2"): get_task("wnli")


@pytest.mark.parametrize("text, message", [
    ("sentence\tlabel\nfine\t1\nragged\n", r"train.tsv: line 3: 1 columns; expected 2"),
    ("sentence\tlabel\nfine\t2\n", r"train.tsv: line 2: label '2'; expected one of 0, 1"),
    ("text\tlabel\nfine\t1\n", r"train.tsv: line 1: no column 'sentence' in the header"),
    ("sentence\tlabel\n", r"train.tsv: no rows"),
    ("", r"train.tsv: line 1: no column 'sentence'"),
])
def test_bad_files_are_refused_with_file_and_line(tmp_path, text, message):
    put(tmp_path, "sst2", "train", text)
    with pytest.raises(InputError, match=message): read(TASKS["sst2"], "train", tmp_path)


def test_other_bad_files(tmp_path):
    with pytest.raises(InputError, match="train.tsv: no such file"): read(TASKS["rte"], "train", tmp_path)
    put(tmp_path, "sst2", "train", "sentence\tlabel\nfine\t1\ncaf\xe9\t1\n", encoding="latin-1")
    with pytest.raises(InputError, match="line 3: not UTF-8"): read(TASKS["sst2"], "train", tmp_path)
    put(tmp_path, "cola", "train", "x1\t1\tIt rains.\n")
    with pytest.raises(InputError, match="line 1: 3 columns; expected 4"): read(TASKS["cola"], "train", tmp_path)
    put(tmp_path, "stsb", "dev", "sentence1\tsentence2\tscore\na\tb\t5.5\n")
    with pytest.raises(InputError, match="line 2: score '5.5'; expected a number from 0 to 5"): read(TASKS["stsb"], "dev", tmp_path)


# ---- fetching


@pytest.fixture
def server(tmp_path):
    """A web server on loopback; yields (its folder, its address)."""
    folder = tmp_path / "www"
    (folder / "glue" / "data").mkdir(parents=True)
    (folder / "senteval" / "senteval_data").mkdir(parents=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{web.server_port}/"
    web.shutdown()


def official_zip():
    """A zip in the shape of the official ones: the splits, and originals that are not wanted."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as zipped:
        zipped.writestr("SST-2/train.tsv", "sentence\tlabel\nlovely\t1\n")
        zipped.writestr("SST-2/dev.tsv", "sentence\tlabel\ndreadful\t0\n")
        zipped.writestr("SST-2/test.tsv", "index\tsentence\n0\tso so\n")
        zipped.writestr("SST-2/original/dev.tsv", "something else")
    return memory.getvalue()


def with_hash(monkeypatch, name, content):
    import dataclasses
    monkeypatch.setitem(TASKS, name, dataclasses.replace(TASKS[name], sha256=hashlib.sha256(content).hexdigest()))


def test_an_official_zip_is_fetched_and_placed(server, tmp_path, monkeypatch):
    folder, address = server
    (folder / "glue/data/SST-2.zip").write_bytes(official_zip())
    with_hash(monkeypatch, "sst2", official_zip())
    placed = fetch(TASKS["sst2"], tmp_path / "glue", address)
    assert sorted(path.name for path in placed.iterdir()) == ["dev.tsv", "test.tsv", "train.tsv"]
    assert read(TASKS["sst2"], "dev", tmp_path / "glue") == [Example("dreadful", None, 0)]
    fetch(TASKS["sst2"], tmp_path / "glue", "http://127.0.0.1:1/")  # already there: nobody is asked
    assert [path.name for path in (tmp_path / "glue").iterdir()] == ["SST-2"]


def test_a_wrong_or_missing_file_leaves_nothing_behind(server, tmp_path):
    folder, address = server
    with pytest.raises(InputError, match="RTE.zip: download failed"): fetch(TASKS["rte"], tmp_path / "glue", address)
    (folder / "glue/data/SST-2.zip").write_bytes(official_zip())
    with pytest.raises(InputError, match="SST-2.zip: sha256 is"): fetch(TASKS["sst2"], tmp_path / "glue", address)
    assert list((tmp_path / "glue").iterdir()) == []


def test_mrpc_is_built_from_its_parts(server, tmp_path, monkeypatch):
    folder, address = server
    contents = {
        "senteval/senteval_data/msr_paraphrase_train.txt": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t10\t11\ta\tb\n0\t20\t21\tc\td\n1\t30\t31\te\tf\n",
        "senteval/senteval_data/msr_paraphrase_test.txt": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t40\t41\tg\th\n",
        "glue/data/mrpc_dev_ids.tsv": "20\t21\n",
    }
    for name, text in contents.items(): (folder / name).write_bytes(text.encode())
    monkeypatch.setattr(glue, "MRPC_FILES", {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()})
    fetch(TASKS["mrpc"], tmp_path / "glue", address)
    assert read(TASKS["mrpc"], "train", tmp_path / "glue") == [Example("a", "b", 1), Example("e", "f", 1)]
    assert read(TASKS["mrpc"], "dev", tmp_path / "glue") == [Example("c", "d", 0)]
    assert read(TASKS["mrpc"], "test", tmp_path / "glue") == [Example("g", "h")]
    assert (tmp_path / "glue/MRPC/test.tsv").read_text("utf-8").split("\n")[0] == "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String"


def test_the_command_line(tmp_path, capsys):
    assert glue.main(["wnli"]) == 2
    assert "unknown task 'wnli'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert glue.main(["sst2", "--into", str(tmp_path / "file")]) == 2
    assert "not a folder" in capsys.readouterr().err
    (tmp_path / "SST-2").mkdir()
    assert not glue.main(["sst2", "--into", str(tmp_path)])
    assert str(tmp_path / "SST-2") in capsys.readouterr().out


def test_this_chapter_needs_no_torch():
    import subprocess, sys
    program = "import sys, minipelt.glue; minipelt.glue.read(minipelt.glue.TASKS['rte'], 'dev'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
