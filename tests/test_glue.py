"""glue.py: the tasks as GLUE and the paper have them, official formats with their quirks, and clear errors."""

import subprocess
import sys

import pytest
from helpers import ENVIRONMENT

from minipelt.errors import InputError
from minipelt.glue import TASKS, Example, Task, find_data, get_task, read

SIZES = {  # official train and dev rows
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "qqp": (363846, 40430),
    "mnli": (392702, 9815),
    "qnli": (104743, 5463),
    "rte": (2490, 277),
}
COMPLETE = [
    ("cola", "train"),
    ("cola", "dev"),
    ("sst2", "train"),
    ("sst2", "dev"),
    ("mrpc", "train"),
    ("mrpc", "dev"),
    ("stsb", "train"),
    ("stsb", "dev"),
    ("rte", "train"),
    ("rte", "dev"),
    ("qnli", "dev"),
    ("mnli", "dev"),
]


def put(root, name, split, text, encoding="utf-8"):
    """Write a task's TSV."""
    folder = root / TASKS[name].folder
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.tsv").write_bytes(text.encode(encoding))


# ---- the tasks, stated once more


@pytest.mark.parametrize("name, metrics", [
    ("cola", ("matthews", "accuracy")),
    ("sst2", ("accuracy",)),
    ("mrpc", ("f1", "accuracy")),
    ("stsb", ("spearman", "pearson")),
    ("qqp", ("f1", "accuracy")),
    ("mnli", ("accuracy",)),
    ("qnli", ("accuracy",)),
    ("rte", ("accuracy",)),
])
def test_the_headline_metric_is_the_papers_and_stands_first(name, metrics):
    assert TASKS[name].metrics == metrics


@pytest.mark.parametrize("name, labels, label_names", [
    ("cola", ("0", "1"), ("unacceptable", "acceptable")),
    ("sst2", ("0", "1"), ("negative", "positive")),
    ("mrpc", ("0", "1"), ("not_equivalent", "equivalent")),
    ("stsb", (), ()),
    ("qqp", ("0", "1"), ("not_duplicate", "duplicate")),
    ("mnli", ("entailment", "neutral", "contradiction"), ("entailment", "neutral", "contradiction")),
    ("qnli", ("entailment", "not_entailment"), ("entailment", "not_entailment")),
    ("rte", ("entailment", "not_entailment"), ("entailment", "not_entailment")),
])
def test_the_labels_as_files_write_them_and_as_people_say_them(name, labels, label_names):
    assert TASKS[name].labels == labels
    assert TASKS[name].label_names == label_names
    assert TASKS[name].num_outputs == (len(labels) or 1)


def test_the_eight_tasks_in_their_order_and_their_folders():
    folders = {name: task.folder for name, task in TASKS.items()}
    assert list(folders) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
    assert list(folders.values()) == ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE"]
    assert all(task.name == name for name, task in TASKS.items())


FIRST_ROWS = [
    ("cola", "x1\t1\t\tA text.\n", Example("A text.", None, 1)),
    ("sst2", "sentence\tlabel\nA text.\t1\n", Example("A text.", None, 1)),
    (
        "mrpc",
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t10\t11\tFirst.\tSecond.\n",
        Example("First.", "Second.", 1),
    ),
    (
        "stsb",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tg\tf\ty\to\ts\ts\tFirst.\tSecond.\t2.5\n",
        Example("First.", "Second.", 2.5),
    ),
    (
        "qqp",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tFirst?\tSecond?\t1\n",
        Example("First?", "Second?", 1),
    ),
    ("qnli", "index\tquestion\tsentence\tlabel\n0\tFirst?\tSecond.\tentailment\n", Example("First?", "Second.", 0)),
    (
        "rte",
        "index\tsentence1\tsentence2\tlabel\n0\tFirst.\tSecond.\tnot_entailment\n",
        Example("First.", "Second.", 1),
    ),
]


@pytest.mark.parametrize("name, text, expected", FIRST_ROWS, ids=[row[0] for row in FIRST_ROWS])
def test_which_text_is_the_first_and_which_number_a_label_has(tmp_path, name, text, expected):
    """The premise comes first, as in the official files (MNLI: below)."""
    put(tmp_path, name, "train", text)
    assert read(TASKS[name], "train", tmp_path) == [expected]


def test_task_names():
    assert get_task("SST-2") is get_task("sst2") is TASKS["sst2"]
    with pytest.raises(InputError, match="unknown task 'wnli': expected one of cola, sst2"):
        get_task("wnli")


# ---- real rows


@pytest.mark.slow
@pytest.mark.parametrize("name, split", COMPLETE)
def test_real_rows_are_all_read(glue, name, split):
    rows = read(TASKS[name], split, glue)
    assert len(rows) == SIZES[name][split == "dev"]
    assert all(row.text.strip() for row in rows)
    has_pairs = len(TASKS[name].columns) == 2
    assert all((row.text_b is not None) == has_pairs for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_real_labels_are_all_known(glue, name):
    for split in ("train", "dev"):
        labels = {row.label for row in read(TASKS[name], split, glue)}
        if name == "stsb":
            assert (min(labels), max(labels)) == (0, 5)
        else:
            assert labels == set(range(TASKS[name].num_outputs))


@pytest.mark.slow
def test_real_quirks(glue):
    first = read(TASKS["cola"], "train", glue)[0]
    assert first == Example("Our friends won't buy this analysis, let alone the next one we propose.", None, 1)
    assert read(TASKS["cola"], "test", glue)[0] == Example("Bill whistled past the house.")
    assert read(TASKS["rte"], "test", glue)[0].label is None
    start = 'Amrozi accused his brother , whom he called " the witness " ,'
    assert read(TASKS["mrpc"], "train", glue)[0].text.startswith(start)
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
    text = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t10\t11\tone\ttwo\r\n"
    put(tmp_path, "mrpc", "dev", text)
    assert read(TASKS["mrpc"], "dev", tmp_path) == [Example("one", "two", 1)]


def test_mnli_train_and_dev_differ_in_columns_and_unlabelled_rows_are_skipped(tmp_path):
    start = "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\t"
    more = "label2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    row = "0\t1\t1e\tfiction\tx\tx\tx\tx\tA cat sleeps.\tAn animal rests.\tentailment\t"
    put(tmp_path, "mnli", "train", start + "gold_label\n" + row + "entailment\n" + row + "-\n")
    put(tmp_path, "mnli", "dev_matched", start + more + row + "neutral\tn\tn\tn\tneutral\n")
    assert read(TASKS["mnli"], "train", tmp_path) == [Example("A cat sleeps.", "An animal rests.", 0)]
    assert read(TASKS["mnli"], "dev", tmp_path)[0].label == 1


def test_a_file_can_be_asked_for_by_its_own_name(tmp_path):
    header = "sentence1\tsentence2\tgold_label\n"
    put(tmp_path, "mnli", "dev_mismatched", header + "a\tb\tcontradiction\n")
    put(tmp_path, "mnli", "test_matched", "sentence1\tsentence2\nc\td\n")
    assert read(TASKS["mnli"], "dev_mismatched", tmp_path) == [Example("a", "b", 2)]
    assert read(TASKS["mnli"], "test", tmp_path) == [Example("c", "d", None)]


def test_a_task_of_one_s_own_reads_alike(tmp_path):
    task = Task("mine", "", ("a", "b"), "c", ("no", "yes"), ("no", "yes"), ("accuracy",))
    (tmp_path / "train.tsv").write_text("c\tb\ta\nyes\tsecond\tfirst\n")
    assert read(task, "train", tmp_path) == [Example("first", "second", 1)]


# ---- errors


@pytest.mark.parametrize("text, message", [
    ("sentence\tlabel\nfine\t1\nragged\n", r"train.tsv: line 3: 1 columns; expected 2"),
    ("sentence\tlabel\nfine\t2\n", r"train.tsv: line 2: label '2'; expected one of 0, 1"),
    ("text\tlabel\nfine\t1\n", r"train.tsv: line 1: no column 'sentence' in the header"),
    ("sentence\tlabel\n", r"train.tsv: no rows"),
    ("", r"train.tsv: line 1: no column 'sentence'"),
])
def test_bad_files_are_refused_with_file_and_line(tmp_path, text, message):
    put(tmp_path, "sst2", "train", text)
    with pytest.raises(InputError, match=message):
        read(TASKS["sst2"], "train", tmp_path)


@pytest.mark.parametrize("name", ["sst2", "stsb"])
def test_a_long_label_is_cut_in_the_message(tmp_path, name):
    task = TASKS[name]
    columns = [*task.columns, task.label_column]
    (tmp_path / task.folder).mkdir()
    row = ["text"] * len(task.columns) + ["9" * 5_000]
    (tmp_path / task.folder / "dev.tsv").write_text("\t".join(columns) + "\n" + "\t".join(row) + "\n")
    with pytest.raises(InputError) as caught:
        read(task, "dev", tmp_path)
    assert "line 2: " in str(caught.value) and len(str(caught.value)) < 500


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="RTE/train.tsv: no such file"):
        read(TASKS["rte"], "train", tmp_path)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_bytes_that_are_not_utf_8_are_named_by_their_line(tmp_path, start, end):
    folder = tmp_path / "SST-2"
    folder.mkdir()
    lines = [f"{start}sentence\tlabel".encode(), b"fine\t1", b"caf\xe9\t1", b"fine\t0", b""]
    (folder / "train.tsv").write_bytes(end.encode().join(lines))
    with pytest.raises(InputError, match=r"train.tsv: line 3: not UTF-8"):
        read(TASKS["sst2"], "train", tmp_path)
    (folder / "train.tsv").write_bytes(start.encode() + b"\xff")
    with pytest.raises(InputError, match=r"train.tsv: line 1: not UTF-8"):
        read(TASKS["sst2"], "train", tmp_path)


def test_line_numbers_count_from_the_first_line_of_the_file(tmp_path):
    """CoLA has no header line: its first row is line 1. Skipped rows count too."""
    put(tmp_path, "cola", "train", "x1\t1\tIt rains.\n")
    with pytest.raises(InputError, match="line 1: 3 columns; expected 4"):
        read(TASKS["cola"], "train", tmp_path)
    put(tmp_path, "mnli", "train", "sentence1\tsentence2\tgold_label\na\tb\t-\na\tb\tmaybe\n")
    with pytest.raises(InputError, match="line 3: label 'maybe'; expected one of entailment, neutral, contradiction"):
        read(TASKS["mnli"], "train", tmp_path)


@pytest.mark.parametrize("score", ["5.5", "-0.1", "nan", "inf", "high", ""])
def test_scores_are_numbers_from_0_to_5(tmp_path, score):
    put(tmp_path, "stsb", "dev", f"sentence1\tsentence2\tscore\na\tb\t{score}\n")
    with pytest.raises(InputError, match=f"line 2: score '{score}'; expected a number from 0 to 5"):
        read(TASKS["stsb"], "dev", tmp_path)


# ---- where the rows are


def test_the_folder_glue_is_used_where_it_has_all_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert find_data([TASKS["rte"]]) == "miniglue"
    said = capsys.readouterr().out
    assert "no glue/RTE here" in said
    assert "python -m minipelt fetch rte" in said
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    assert find_data([TASKS["rte"]]) == "glue"
    assert capsys.readouterr().out == ""
    assert find_data([TASKS["rte"], TASKS["sst2"]]) == "miniglue"
    assert "fetch sst2 brings" in capsys.readouterr().out


def test_reading_needs_no_torch():
    program = (
        "import sys\n"
        "from minipelt.glue import TASKS, read\n"
        "read(TASKS['rte'], 'dev')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=ENVIRONMENT)
