"""From rows of text to padded batches of tensors, grouped by length so that little of a batch is padding."""

import random
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rows:
    """A tokenised set of examples."""

    input_ids: list  # n lists of token numbers: [CLS] text [SEP] (text_b [SEP])
    token_type_ids: list  # n lists of 0 (first text) and 1 (second)
    labels: torch.Tensor  # (n): class numbers (int64) or scores (float32)

    def __len__(self):
        return len(self.input_ids)

    def length(self, index):
        """Number of tokens of one row."""
        return len(self.input_ids[index])


def encode(examples, tokenizer, max_length=128):
    """Tokenise examples. A text or pair above `max_length` tokens loses tokens from the longer text first."""
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    encodings = tokenizer.encode_batch([e.text if e.text_b is None else (e.text, e.text_b) for e in examples])
    labels = torch.tensor([0 if e.label is None else e.label for e in examples])
    return Rows([e.ids for e in encodings], [e.type_ids for e in encodings], labels)


def collate(rows, indices, device="cpu"):
    """The rows at `indices`, padded to the longest of them.

    Returns (input_ids, attention_mask, token_type_ids), each (B, T) int64, and the labels (B).
    """
    width = max(rows.length(i) for i in indices)

    def padded(lists):
        return torch.tensor([values + [0] * (width - len(values)) for values in lists], device=device)  # (B, T)

    ids = [rows.input_ids[i] for i in indices]
    inputs = (padded(ids), padded([[1] * len(row) for row in ids]), padded([rows.token_type_ids[i] for i in indices]))
    return inputs, rows.labels[indices].to(device)


def training_batches(rows, batch_size, seed):
    """One epoch: every row once, in an order that `seed` fixes. Returns lists of row numbers.

    Rows are shuffled, cut into pools of up to 8 batches, sorted by length within a pool, cut into batches, and the
    batches shuffled: neighbours in length share a batch. There are at least two pools, so that a small set is mixed
    anew each epoch too.
    """
    pool = batch_size * max(1, min(8, len(rows) // (2 * batch_size)))  # rows
    shuffle = random.Random(seed).shuffle
    order = list(range(len(rows)))
    shuffle(order)
    batches = []
    for start in range(0, len(order), pool):
        batches += in_batches(sorted(order[start : start + pool], key=rows.length), batch_size)
    shuffle(batches)
    return batches


def evaluation_batches(rows, batch_size):
    """Every row once, longest first (so that a batch too large for memory fails at once).

    Returns lists of row numbers.
    """
    return in_batches(sorted(range(len(rows)), key=rows.length, reverse=True), batch_size)


def in_batches(order, batch_size):
    """Cut a list into lists of `batch_size`; the last may be shorter."""
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
