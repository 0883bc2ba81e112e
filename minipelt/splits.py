"""Which rows train, which pick the best epoch, and which test: UniPELT's protocol (section 4.1).

With K: the training set is shuffled by the seed; its first K rows train, the next 1,000 pick the best epoch, and the
official dev set is the test set. Without K: all of train trains, and the best score on dev counts. This file needs no
torch.
"""

import random

from minipelt import glue
from minipelt.errors import InputError


def read_split(run, split):
    """The Examples of a split of a run's GLUE task."""
    root = glue.MINIGLUE if run.glue == "miniglue" else run.glue
    return glue.read(run.spec, split, root)


def count_rows(run, size):
    """How many of the `size` rows of a training file are for ("train", "validation"); None: the dev set is for
    validation.
    """
    if run.data:
        if run.k and run.k > size:
            raise InputError(f"{run.data.train}: {size} rows; expected at least the {run.k} of --k")
        return run.k or size, None
    if run.k is None:
        return size, None
    if run.k >= size:
        raise InputError(
            f"{run.task} has {size} training rows in {run.glue}: --k {run.k} leaves none for validation; "
            f"expected at most {size - 1}"
        )
    return run.k, min(run.valid_rows, size - run.k)


def choose_rows(run, size):
    """Row numbers of ("train", "validation") among the `size` rows of a training file; None: the dev set is for
    validation.
    """
    num_train, num_validation = count_rows(run, size)
    order = list(range(size))
    if run.k is None:
        return order, None
    random.Random(run.recipe.seed).shuffle(order)
    if num_validation is None:
        return order[:num_train], None
    return order[:num_train], order[num_train : num_train + num_validation]


def load_splits(run, read=read_split):
    """{"train", "validation", "test"} of a run, as lists of Examples; without K validation and test are one list."""
    examples, dev = read(run, "train"), read(run, "dev")
    train_rows, validation_rows = choose_rows(run, len(examples))
    return {
        "train": [examples[i] for i in train_rows],
        "validation": dev if validation_rows is None else [examples[i] for i in validation_rows],
        "test": dev if run.test_split == "dev" else read(run, run.test_split),
    }
