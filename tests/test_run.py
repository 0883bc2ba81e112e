"""run.py: which rows a run takes."""

import pytest

from minipelt import InputError
from minipelt.experiment import prepare
from minipelt.loop import Recipe
from minipelt.run import Run, load_splits
from minipelt.unipelt import Method
from test_train import tiny_run


def test_k_shot_split(tiny_folder):
    splits = load_splits(tiny_run(tiny_folder, "sst2", k=50, valid_rows=100))
    whole = load_splits(tiny_run(tiny_folder, "sst2"))
    assert [len(rows) for rows in splits.values()] == [50, 100, len(whole["test"])]
    assert not set(splits["train"]) & set(splits["validation"])
    assert set(splits["train"]) | set(splits["validation"]) <= set(whole["train"])
    assert splits == load_splits(tiny_run(tiny_folder, "sst2", k=50, valid_rows=100))
    assert whole["validation"] is whole["test"]
    for name, rows in prepare(tiny_run(tiny_folder, "sst2", k=50, valid_rows=100)).rows.items():  # what trains is what was split
        assert rows.labels.tolist() == [example.label for example in splits[name]]


def test_the_seed_chooses_the_rows(tiny_folder):
    runs = [Run("sst2", Method("lora"), Recipe(1e-3, seed=seed), k=50) for seed in (1, 2)]
    assert load_splits(runs[0])["train"] != load_splits(runs[1])["train"]


def test_a_k_that_leaves_no_validation_rows_is_refused(tiny_folder):
    with pytest.raises(InputError, match="leaves none for validation"): load_splits(tiny_run(tiny_folder, "rte", k=10_000))
