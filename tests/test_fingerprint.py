"""fingerprint.py: another base, vocabulary or row has another fingerprint; runs refuse what they did not begin with."""

import json

import pytest
import torch
from helpers import interrupt_at, tiny_run
from safetensors.torch import load_file, save_file

from minipelt import fingerprint
from minipelt.batches import Rows
from minipelt.errors import InputError
from minipelt.experiment import load_run, new_folder, prepare, run_experiment
from minipelt.identity import check_base
from minipelt.weights import load


def change_one_number(folder):
    """Add a little to one weight of a base."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.layer.0.output.dense.weight"][0, 0] += 1e-4
    save_file(tensors, path)


def swap_two_words(folder):
    """Exchange two words of a vocabulary: the same words, other numbers."""
    path = folder / "vocab.txt"
    path.write_text(path.read_text().replace("\na\nb\n", "\nb\na\n"))


def change_the_dropout(folder):
    """Another number in config.json that no shape depends on."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_dropout_prob": 0.2}))


CHANGES = [change_one_number, swap_two_words, change_the_dropout]


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_is_recognised(tiny_folder, change):
    before = load(tiny_folder)[0].fingerprint
    assert load(tiny_folder)[0].fingerprint == before and len(before) == 16
    change(tiny_folder)
    assert load(tiny_folder)[0].fingerprint != before


def test_rows_are_recognised():
    rows = Rows([[2, 5, 3], [2, 6, 3]], [[0, 0, 0], [0, 0, 0]], torch.tensor([0, 1]))
    others = [
        Rows([[2, 5, 3], [2, 7, 3]], rows.token_type_ids, rows.labels),
        Rows(rows.input_ids, [[0, 0, 0], [0, 0, 1]], rows.labels),
        Rows(rows.input_ids, rows.token_type_ids, torch.tensor([1, 0])),
        Rows(rows.input_ids[::-1], rows.token_type_ids, rows.labels),
        Rows(rows.input_ids[:1], rows.token_type_ids[:1], rows.labels[:1]),
    ]
    prints = [fingerprint.of_rows(each) for each in (rows, *others)]
    assert len(set(prints)) == len(prints) and fingerprint.of_rows(rows) == prints[0]


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_refuses_another_base(tiny_folder, tmp_path, change):
    run = tiny_run(tiny_folder, "sst2", "lora", epochs=1, k=20, valid_rows=10)
    run_experiment(prepare(run), folder := new_folder(run, tmp_path))
    load_run(folder)
    change(tiny_folder)
    with pytest.raises(InputError, match="was trained on another base or vocabulary"):
        load_run(folder)


def test_a_record_without_the_base_s_name_is_refused_in_a_sentence():
    record = {"run": {}, "fingerprints": {"base": "abc"}}
    with pytest.raises(InputError, match="another base or vocabulary than its base is now"):
        check_base("def", record, "runs/x")


@pytest.fixture
def interrupted(tiny_folder, tmp_path):
    """(a Run, its folder after two of three epochs)."""

    run = tiny_run(tiny_folder, "sst2", "lora", k=20, valid_rows=10)
    folder = new_folder(run, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(prepare(run), folder, interrupt_at(2), save_seconds=0)
    return run, folder


def test_a_resumed_run_refuses_another_base(interrupted, tiny_folder):
    run, folder = interrupted
    kept = (folder / "run.json").read_bytes()
    change_one_number(tiny_folder)
    with pytest.raises(InputError, match="another base"):
        run_experiment(prepare(run), folder, resume=True)
    assert (folder / "run.json").read_bytes() == kept


@pytest.mark.parametrize("split, words", [("train", "training"), ("validation", "validation"), ("test", "test")])
def test_a_resumed_run_refuses_other_rows(interrupted, split, words):
    run, folder = interrupted
    prepared = prepare(run)
    rows = prepared.rows[split]
    shorter = Rows(rows.input_ids[:-1], rows.token_type_ids[:-1], rows.labels[:-1])
    with pytest.raises(InputError, match=f"the {words} rows are not those that the run began with"):
        run_experiment(prepared._replace(rows=prepared.rows | {split: shorter}), folder, resume=True)


def test_a_run_begun_before_validation_rows_had_a_fingerprint_goes_on(interrupted):
    run, folder = interrupted
    record = json.loads((folder / "run.json").read_text())
    del record["fingerprints"]["validation"]
    (folder / "run.json").write_text(json.dumps(record))
    assert "results" in run_experiment(prepare(run), folder, resume=True)


def test_a_resumed_run_refuses_edited_settings(interrupted):
    run, folder = interrupted
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"batch_size": 32', '"batch_size": 8'))
    edited = type(run).load(folder)
    assert edited.recipe.batch_size == 8
    with pytest.raises(InputError, match="recipe is .*'batch_size': 8.* the run began with .*'batch_size': 32"):
        run_experiment(prepare(edited), folder, resume=True)
