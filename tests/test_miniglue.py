"""The sample rows: official formats, sizes, balance, no repeats, and not to be solved by counting words.

    python tests/test_miniglue.py        prints the table of minipelt/miniglue/README.md
"""

import re
from collections import Counter

import numpy as np
import pytest

from minipelt.glue import MINIGLUE, TASKS, read
from minipelt.metrics import spearman

HEADERS = {  # as in the official files
    "cola": None,
    "sst2": "sentence\tlabel",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "mnli": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
}
POSITIVE_SHARE = {"cola": (0.65, 0.75), "sst2": (0.45, 0.6), "mrpc": (0.6, 0.72), "qqp": (0.32, 0.42), "qnli": (0.45, 0.55), "rte": (0.45, 0.55)}


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def majority(rows):
    """Accuracy of always naming the most frequent class."""
    return Counter(row.label for row in rows).most_common(1)[0][1] / len(rows)


def overlap(row):
    """Share of the two texts' words that both have."""
    a, b = set(words(row.text)), set(words(row.text_b or ""))
    return len(a & b) / len(a | b)


def features(rows, vocabulary):
    """(n, 3 V + 2): which words text a has, text b has, both have; word overlap; and 1."""
    table = np.zeros((len(rows), 3 * len(vocabulary) + 2))
    for i, row in enumerate(rows):
        a, b = set(words(row.text)), set(words(row.text_b or ""))
        for part, present in enumerate((a, b, a & b)):
            for word in present & vocabulary.keys(): table[i, part * len(vocabulary) + vocabulary[word]] = 1
        table[i, -2:] = 3 * overlap(row), 1
    return table


def bag_of_words_accuracy(train, dev, decay=0.01):
    """Dev accuracy of a logistic regression on words, by gradient descent with momentum."""
    counts = Counter(word for row in train for word in set(words(row.text) + words(row.text_b or "")))
    vocabulary = {word: i for i, word in enumerate(word for word, count in counts.items() if count >= 2)}
    x, y = features(train, vocabulary), np.eye(1 + max(row.label for row in train))[[row.label for row in train]]
    w, velocity = np.zeros((x.shape[1], y.shape[1])), 0
    for _ in range(600):
        p = np.exp(x @ w - (x @ w).max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        velocity = 0.9 * velocity + x.T @ (p - y) / len(x) + decay * w
        w -= 0.05 * velocity
    return float(np.mean((features(dev, vocabulary) @ w).argmax(axis=1) == [row.label for row in dev]))


@pytest.fixture(params=TASKS)
def task(request):
    return TASKS[request.param]


def test_sizes_and_official_format(task):
    train, dev = read(task, "train"), read(task, "dev")
    assert len(train) >= (240 if task.name == "sst2" else 120) and len(dev) >= (120 if task.name == "sst2" else 60)
    for path in (MINIGLUE / task.folder).glob("*.tsv"):
        raw = path.read_bytes().decode("utf-8")
        assert raw.endswith("\n") and "\r" not in raw, path
        if task.name == "cola":
            assert all(re.fullmatch(r"\w+\t(1\t|0\t\*)\t[^\t]+", line) for line in raw.removesuffix("\n").split("\n"))
        else:
            more = {"mnli": "\tgold_label" if path.stem == "train" else "\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label"}.get(task.name, "")
            assert raw.split("\n")[0] == HEADERS[task.name] + more


def test_mnli_has_a_mismatched_dev_set_of_other_genres():
    genres = {split: {line.split("\t")[3] for line in open(MINIGLUE / "MNLI" / f"{split}.tsv", encoding="utf-8")} - {"genre"} for split in ("train", "dev_matched", "dev_mismatched")}
    assert genres["train"] == genres["dev_matched"] and not genres["train"] & genres["dev_mismatched"]
    assert len(read(TASKS["mnli"], "dev_mismatched")) >= 60


def test_no_row_twice_and_none_in_both_splits(task):
    rows = [(row.text, row.text_b) for split in ("train", "dev") for row in read(task, split)]
    assert len(rows) == len(set(rows))


def test_balanced_as_the_real_task(task):
    for split in ("train", "dev"):
        labels = [row.label for row in read(task, split)]
        if task.name == "stsb": assert min(np.histogram(labels, 5, (0, 5))[0]) > 0.12 * len(labels)
        elif task.name == "mnli": assert max(Counter(labels).values()) < 0.4 * len(labels)
        else:
            low, high = POSITIVE_SHARE[task.name]
            assert low <= labels.count(1) / len(labels) <= high


def test_counting_words_does_not_solve_it(task):
    train, dev = read(task, "train"), read(task, "dev")
    if task.name == "stsb": assert spearman([overlap(row) for row in dev], [row.label for row in dev]) < 0.65
    else: assert bag_of_words_accuracy(train, dev) < majority(dev) + 0.15


if __name__ == "__main__":
    print("| task | train | dev | majority | bag of words |\n| --- | --- | --- | --- | --- |")
    for task in TASKS.values():
        train, dev = read(task, "train"), read(task, "dev")
        if task.name == "stsb": shown = "0", f"{spearman([overlap(row) for row in dev], [row.label for row in dev]):.3f} (Spearman of word overlap)"
        else: shown = f"{100 * majority(dev):.1f}", f"{100 * bag_of_words_accuracy(train, dev):.1f}"
        print(f"| {task.name} | {len(train)} | {len(dev)} | {shown[0]} | {shown[1]} |")
