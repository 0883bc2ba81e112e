"""batches.py: truncation, padding, and orders that lose no row."""

import random

import torch

from minipelt.batches import Rows, collate, encode, evaluation_batches, training_batches
from minipelt.glue import Example
from minipelt.weights import load_tokenizer


def rows_of(lengths):
    return Rows([[7] * n for n in lengths], [[0] * n for n in lengths], torch.arange(len(lengths)))


def test_encoding_texts_and_pairs(tiny_folder):
    rows = encode([Example("a b", None, 1), Example("a", "b c", 0)], load_tokenizer(tiny_folder))
    assert [len(ids) for ids in rows.input_ids] == [4, 6]
    assert rows.token_type_ids[1] == [0, 0, 0, 1, 1, 1]
    assert rows.labels.tolist() == [1, 0] and rows.labels.dtype == torch.int64
    assert encode([Example("a", "b", 2.5)], load_tokenizer(tiny_folder)).labels.dtype == torch.float32


def test_truncation_takes_from_the_longer_text_first(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    long, short = " ".join("a" * 20), "b b b"
    for pair, kept in (((long, short), (6, 3)), ((short, long), (3, 6)), ((long, long), None)):
        row = encode([Example(*pair, 0)], tokenizer, max_length=12)
        assert len(row.input_ids[0]) == 12
        if kept: assert row.token_type_ids[0] == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
    assert row.token_type_ids[0].count(1) in (5, 6)  # two long texts: halves


def test_collate_pads_to_the_longest(tiny_folder):
    rows = encode([Example("a b c", None, 1), Example("a", None, 0), Example("a b c d e f", None, 1)], load_tokenizer(tiny_folder))
    (ids, mask, types), labels = collate(rows, [1, 0])
    assert ids.shape == mask.shape == types.shape == (2, 5)
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert ids[0, 3:].tolist() == [0, 0] and labels.tolist() == [0, 1]
    pairs = encode([Example("a", "b c", 0), Example("a b c", "d", 0)], load_tokenizer(tiny_folder))
    assert collate(pairs, [0, 1])[0][2].tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]]


def test_every_row_once_and_an_order_of_its_own_each_epoch():
    rows = rows_of([random.randint(3, 60) for _ in range(101)])
    first, again, other = (training_batches(rows, 8, seed) for seed in (1, 1, 2))
    assert sorted(sum(first, [])) == list(range(101)) and max(map(len, first)) == 8 and len(first) == 13
    assert first == again != other
    assert sorted(sum(evaluation_batches(rows, 8), [])) == list(range(101))


def test_a_small_set_is_mixed_anew_each_epoch():
    """Two rows that share a batch seldom do so in the next epoch, also with K = 100."""
    rows = rows_of([random.randint(3, 60) for _ in range(100)])
    together = [{(i, j) for batch in training_batches(rows, 16, seed) for i in batch for j in batch if i < j} for seed in (1, 2)]
    assert len(together[0] & together[1]) < 0.5 * len(together[0])


def test_batches_group_by_length():
    rows = rows_of([random.randint(3, 60) for _ in range(512)])
    padding = lambda batches: sum(max(rows.length(i) for i in batch) * len(batch) for batch in batches) / sum(map(len, rows.input_ids)) - 1
    ungrouped = [list(range(start, start + 16)) for start in range(0, 512, 16)]
    assert padding(training_batches(rows, 16, 1)) < 0.5 * padding(ungrouped)
    assert padding(evaluation_batches(rows, 16)) < 0.2
