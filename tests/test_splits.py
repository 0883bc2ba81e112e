"""splits.py: which rows train, which pick the best epoch, and which test."""

import random

import pytest
from helpers import tiny_run

from minipelt.errors import InputError
from minipelt.experiment import prepare
from minipelt.glue import Example
from minipelt.settings import Data, Method, Recipe, Run
from minipelt.splits import choose_rows, count_rows, load_splits


def sst2_run(k=None, seed=1, **changes):
    """The settings of a run on the sample rows of SST-2."""
    return Run("sst2", Method("lora"), Recipe(1e-3, seed=seed), k=k, **changes)


def test_k_shot_split(tiny_folder):
    run = tiny_run(tiny_folder, "sst2", k=50, valid_rows=100)
    splits = load_splits(run)
    whole = load_splits(tiny_run(tiny_folder, "sst2"))
    assert [len(rows) for rows in splits.values()] == [50, 100, len(whole["test"])]
    assert not set(splits["train"]) & set(splits["validation"])
    assert set(splits["train"]) | set(splits["validation"]) <= set(whole["train"])
    assert splits == load_splits(run)
    assert whole["validation"] is whole["test"]
    for name, rows in prepare(run).rows.items():  # what trains is what was split
        assert rows.labels.tolist() == [example.label for example in splits[name]]


def test_validation_is_the_rows_that_come_next():
    """In the order that the seed gives: K rows train, and the 1,000 that follow them pick the best epoch."""
    order = list(range(5000))
    random.Random(7).shuffle(order)
    train, validation = choose_rows(sst2_run(k=500, seed=7), 5000)
    assert train == order[:500]
    assert validation == order[500:1500]
    longer, _ = choose_rows(sst2_run(k=510, seed=7), 5000)
    assert longer == train + validation[:10]
    _, shorter = choose_rows(sst2_run(k=500, seed=7, valid_rows=30), 5000)
    assert shorter == validation[:30]


def test_where_few_rows_are_left_they_all_validate():
    train, validation = choose_rows(sst2_run(k=500), 700)
    assert len(train) == 500
    assert sorted(train + validation) == list(range(700))


def test_without_k_all_rows_train_in_their_own_order():
    assert choose_rows(sst2_run(), 70) == (list(range(70)), None)
    assert count_rows(sst2_run(), 70) == (70, None)


@pytest.mark.parametrize("k, size", [(None, 240), (1, 2), (100, 101), (100, 5000), (2000, 2500)])
def test_the_counts_are_those_of_the_rows(k, size):
    num_train, num_validation = count_rows(sst2_run(k), size)
    train, validation = choose_rows(sst2_run(k), size)
    assert len(train) == num_train
    assert num_validation == (None if validation is None else len(validation))


def test_the_seed_chooses_the_rows():
    first, second = (load_splits(sst2_run(k=50, seed=seed))["train"] for seed in (1, 2))
    assert first != second
    assert load_splits(sst2_run(k=50, seed=1))["train"] == first


def test_a_k_that_leaves_no_validation_rows_is_refused(tiny_folder):
    with pytest.raises(InputError, match="leaves none for validation; expected at most 239"):
        count_rows(sst2_run(k=240), 240)
    with pytest.raises(InputError, match="leaves none for validation"):
        load_splits(tiny_run(tiny_folder, "rte", k=10_000))


# ---- own data


def own_run(k=None, test=None):
    """The settings of a run on files of the user's own."""
    data = Data("train.csv", "dev.csv", test, labels=("no", "yes"))
    return Run("mine", Method("lora"), Recipe(1e-3), k=k, data=data)


def read_numbered(run, split):
    """Ten rows, named after their split."""
    return [Example(f"{split} {number}", None, number % 2) for number in range(10)]


def test_own_data_brings_its_validation_rows_along():
    splits = load_splits(own_run(), read_numbered)
    assert splits["train"] == read_numbered(None, "train")
    assert splits["validation"] == read_numbered(None, "dev")
    assert splits["test"] is splits["validation"]


def test_own_data_with_k_takes_as_many_rows_as_the_seed_says():
    splits = load_splits(own_run(k=4), read_numbered)
    order = list(range(10))
    random.Random(1).shuffle(order)
    assert splits["train"] == [read_numbered(None, "train")[i] for i in order[:4]]
    assert splits["validation"] == read_numbered(None, "dev")
    assert len(load_splits(own_run(k=10), read_numbered)["train"]) == 10
    with pytest.raises(InputError, match="train.csv: 10 rows; expected at least the 11 of --k"):
        load_splits(own_run(k=11), read_numbered)


def test_own_data_with_a_test_file_is_scored_on_it():
    splits = load_splits(own_run(test="test.csv"), read_numbered)
    assert splits["test"] == read_numbered(None, "test")
    assert splits["validation"] == read_numbered(None, "dev")
