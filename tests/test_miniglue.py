"""The sample rows: official formats, sizes, balance, no repeats, and not to be solved by counting words.

    python tests/test_miniglue.py        prints the table of minipelt/miniglue/README.md
"""

import re
from collections import Counter

import numpy as np
import pytest

from minipelt.glue import MINIGLUE, TASKS, read
from minipelt.metrics import spearman

MNLI_START = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\tlabel1"
)
HEADERS = {  # as in the official files; MNLI's goes on as below
    "cola": None,
    "sst2": "sentence\tlabel",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "mnli": MNLI_START,
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
}
MNLI_ENDS = {
    "train": "\tgold_label",
    "dev_matched": "\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
    "dev_mismatched": "\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
}
POSITIVE_SHARE = {
    "cola": (0.65, 0.75),
    "sst2": (0.45, 0.6),
    "mrpc": (0.6, 0.72),
    "qqp": (0.32, 0.42),
    "qnli": (0.45, 0.55),
    "rte": (0.45, 0.55),
}


def words(text):
    """The words of a text, in small letters."""
    return re.findall(r"[a-z0-9']+", text.lower())


def majority(rows):
    """Accuracy of always naming the most frequent class."""
    return Counter(row.label for row in rows).most_common(1)[0][1] / len(rows)


def overlap(row):
    """Share of the two texts' words that both have."""
    a, b = set(words(row.text)), set(words(row.text_b or ""))
    return len(a & b) / len(a | b)


def overlap_score(rows):
    """Spearman correlation of word overlap and label."""
    return spearman([overlap(row) for row in rows], [row.label for row in rows])


def features(rows, vocabulary):
    """(n, 3 V + 2): which words text a has, text b has, both have; word overlap; and 1."""
    table = np.zeros((len(rows), 3 * len(vocabulary) + 2))
    for i, row in enumerate(rows):
        a, b = set(words(row.text)), set(words(row.text_b or ""))
        for part, present in enumerate((a, b, a & b)):
            for word in present & vocabulary.keys():
                table[i, part * len(vocabulary) + vocabulary[word]] = 1
        table[i, -2:] = 3 * overlap(row), 1
    return table


def bag_of_words_accuracy(train, dev, decay=0.01):
    """Dev accuracy of a logistic regression on words, by gradient descent with momentum."""
    counts = Counter(word for row in train for word in set(words(row.text) + words(row.text_b or "")))
    frequent = [word for word, count in counts.items() if count >= 2]
    vocabulary = {word: i for i, word in enumerate(frequent)}
    x = features(train, vocabulary)
    y = np.eye(1 + max(row.label for row in train))[[row.label for row in train]]
    w, velocity = np.zeros((x.shape[1], y.shape[1])), 0
    for _ in range(600):
        p = np.exp(x @ w - (x @ w).max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        velocity = 0.9 * velocity + x.T @ (p - y) / len(x) + decay * w
        w -= 0.05 * velocity
    predictions = (features(dev, vocabulary) @ w).argmax(axis=1)
    return float(np.mean(predictions == [row.label for row in dev]))


@pytest.fixture(params=TASKS)
def task(request):
    """Every task in turn."""
    return TASKS[request.param]


def test_sizes(task):
    num_train, num_dev = (240, 120) if task.name == "sst2" else (120, 60)
    assert len(read(task, "train")) >= num_train
    assert len(read(task, "dev")) >= num_dev


def test_official_format(task):
    for path in (MINIGLUE / task.folder).glob("*.tsv"):
        raw = path.read_bytes().decode("utf-8")
        assert raw.endswith("\n"), path
        assert "\r" not in raw, path
        lines = raw.removesuffix("\n").split("\n")
        if task.name == "cola":
            assert all(re.fullmatch(r"\w+\t(1\t|0\t\*)\t[^\t]+", line) for line in lines), path
        else:
            more = MNLI_ENDS[path.stem] if task.name == "mnli" else ""
            assert lines[0] == HEADERS[task.name] + more, path


def genres(split):
    """The genres of a split of MNLI."""
    text = (MINIGLUE / "MNLI" / f"{split}.tsv").read_text(encoding="utf-8").removesuffix("\n")
    return {line.split("\t")[3] for line in text.split("\n")[1:]}


def test_mnli_has_a_mismatched_dev_set_of_other_genres():
    assert genres("train") == genres("dev_matched")
    assert not genres("train") & genres("dev_mismatched")
    assert len(read(TASKS["mnli"], "dev_mismatched")) >= 60


def test_no_row_twice_and_none_in_both_splits(task):
    rows = [(row.text, row.text_b) for split in ("train", "dev") for row in read(task, split)]
    assert len(rows) == len(set(rows))


def test_balanced_as_the_real_task(task):
    for split in ("train", "dev"):
        labels = [row.label for row in read(task, split)]
        if task.name == "stsb":
            assert min(np.histogram(labels, 5, (0, 5))[0]) > 0.12 * len(labels)
        elif task.name == "mnli":
            assert max(Counter(labels).values()) < 0.4 * len(labels)
        else:
            low, high = POSITIVE_SHARE[task.name]
            assert low <= labels.count(1) / len(labels) <= high


@pytest.mark.slow
def test_counting_words_does_not_solve_it(task):
    train, dev = read(task, "train"), read(task, "dev")
    if task.name == "stsb":
        assert overlap_score(dev) < 0.65
    else:
        assert bag_of_words_accuracy(train, dev) < majority(dev) + 0.15


def print_table():
    """The table of minipelt/miniglue/README.md."""
    print("| task | train | dev | majority | bag of words |\n| --- | --- | --- | --- | --- |")
    for task in TASKS.values():
        train, dev = read(task, "train"), read(task, "dev")
        if task.name == "stsb":
            shown = ("0", f"{overlap_score(dev):.3f} (Spearman of word overlap)")
        else:
            shown = (f"{100 * majority(dev):.1f}", f"{100 * bag_of_words_accuracy(train, dev):.1f}")
        print(f"| {task.name} | {len(train)} | {len(dev)} | {shown[0]} | {shown[1]} |")


if __name__ == "__main__":
    print_table()
