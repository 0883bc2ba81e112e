"""Loaded once: what the runs of one process share, the base and the tokenised rows.

    shared = Shared()
    for run in runs: run_experiment(prepare(run, shared), new_folder(run))

A PELT run changes nothing in the base, so the next run gets the very same one with its slots emptied; only a run that trains
part of the base itself works on a copy. A row is tokenised the first time that a run asks for it, and kept.
"""

import torch

from minipelt.batches import Rows, encode
from minipelt.unipelt import detach
from minipelt.weights import load


class Split:
    """A task's train or dev set: its rows as text and, once they were asked for, as token numbers."""

    def __init__(self, examples, tokenizer, max_length):
        self.examples, self.tokenizer, self.max_length = examples, tokenizer, max_length
        self.encoded = {}  # row number -> (input_ids, token_type_ids, label)

    def __len__(self):
        return len(self.examples)

    def rows(self, indices):
        """The rows at `indices`, in that order, as batches.Rows."""
        missing = [i for i in indices if i not in self.encoded]
        new = encode([self.examples[i] for i in missing], self.tokenizer, self.max_length)
        self.encoded.update(zip(missing, zip(new.input_ids, new.token_type_ids, new.labels)))
        ids, type_ids, labels = zip(*(self.encoded[i] for i in indices))
        return Rows(list(ids), list(type_ids), torch.stack(labels))


class Shared:
    """Bases by name and device; splits by task, file and base: each is loaded when a run first asks for it."""

    def __init__(self):
        self.bases, self.splits = {}, {}

    def base(self, name, device):
        """(BertModel on `device` with empty slots, tokenizer). The same object each time: one run at a time may use it."""
        if (name, device) not in self.bases:
            bert, tokenizer = load(name)
            self.bases[name, device] = bert.to(device), tokenizer
        bert, tokenizer = self.bases[name, device]
        return detach(bert), tokenizer

    def split(self, run, name, tokenizer):
        """The Split `name` (train or dev) of a run's task."""
        key = run.task, run.data, name, run.glue, run.model, run.max_length
        if key not in self.splits: self.splits[key] = Split(run.read(name), tokenizer, run.max_length)
        return self.splits[key]
