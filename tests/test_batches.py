"""batches.py: truncation, padding, and orders that lose no row."""

import torch

from minipelt.batches import Rows, collate, encode, evaluation_batches, training_batches
from minipelt.glue import Example
from minipelt.weights import load_tokenizer


def rows_of(lengths):
    """Rows of these lengths."""
    return Rows([[7] * n for n in lengths], [[0] * n for n in lengths], torch.arange(len(lengths)))


def random_rows(n):
    """n rows of 3 to 59 tokens."""
    return rows_of(torch.randint(3, 60, (n,)).tolist())


def flat(batches):
    """The row numbers of all batches."""
    return [number for batch in batches for number in batch]


def test_encoding_texts_and_pairs(tiny_folder):
    rows = encode([Example("a b", None, 1), Example("a", "b c", 0)], load_tokenizer(tiny_folder))
    assert [len(ids) for ids in rows.input_ids] == [4, 6]
    assert rows.token_type_ids[1] == [0, 0, 0, 1, 1, 1]
    assert rows.labels.tolist() == [1, 0]
    assert rows.labels.dtype == torch.int64
    assert encode([Example("a", "b", 2.5)], load_tokenizer(tiny_folder)).labels.dtype == torch.float32


def test_truncation_takes_from_the_longer_text_first(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    long, short = " ".join("a" * 20), "b b b"
    for pair, kept in (((long, short), (6, 3)), ((short, long), (3, 6))):
        row = encode([Example(*pair, 0)], tokenizer, max_length=12)
        assert len(row.input_ids[0]) == 12
        assert row.token_type_ids[0] == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
    row = encode([Example(long, long, 0)], tokenizer, max_length=12)
    assert len(row.input_ids[0]) == 12
    assert row.token_type_ids[0].count(1) in (5, 6)  # two long texts: halves


def test_collate_pads_to_the_longest(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    examples = [Example("a b c", None, 1), Example("a", None, 0), Example("a b c d e f", None, 1)]
    (ids, mask, types), labels = collate(encode(examples, tokenizer), [1, 0])
    assert ids.shape == mask.shape == types.shape == (2, 5)
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert ids[0, 3:].tolist() == [0, 0]
    assert labels.tolist() == [0, 1]
    pairs = encode([Example("a", "b c", 0), Example("a b c", "d", 0)], tokenizer)
    types = collate(pairs, [0, 1])[0][2]
    assert types.tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]]


def test_every_row_once_and_an_order_of_its_own_each_epoch():
    rows = random_rows(101)
    first, again, other = (training_batches(rows, 8, seed) for seed in (1, 1, 2))
    assert sorted(flat(first)) == list(range(101))
    assert max(map(len, first)) == 8
    assert len(first) == 13
    assert first == again
    assert first != other
    assert sorted(flat(evaluation_batches(rows, 8))) == list(range(101))


def test_a_small_set_is_mixed_anew_each_epoch():
    """Two rows that share a batch seldom do so in the next epoch, also with K = 100."""
    rows = random_rows(100)
    together = []
    for seed in (1, 2):
        batches = training_batches(rows, 16, seed)
        together.append({(i, j) for batch in batches for i in batch for j in batch if i < j})
    assert len(together[0] & together[1]) < 0.5 * len(together[0])


def padding(rows, batches):
    """How many tokens of padding the batches have, as a share of the tokens of their rows."""
    padded = sum(max(rows.length(i) for i in batch) * len(batch) for batch in batches)
    return padded / sum(map(len, rows.input_ids)) - 1


def test_batches_group_by_length():
    rows = random_rows(512)
    ungrouped = [list(range(start, start + 16)) for start in range(0, 512, 16)]
    assert padding(rows, training_batches(rows, 16, 1)) < 0.5 * padding(rows, ungrouped)
    assert padding(rows, evaluation_batches(rows, 16)) < 0.2


def test_the_longest_batch_is_evaluated_first():
    rows = random_rows(100)
    widths = [max(rows.length(i) for i in batch) for batch in evaluation_batches(rows, 16)]
    assert widths == sorted(widths, reverse=True)
