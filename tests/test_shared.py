"""shared.py: rows are tokenised once, the base is loaded once, and a run in company equals the run alone."""

import pytest
import torch

from minipelt import shared as chapter
from minipelt.experiment import prepare, run_experiment
from minipelt.shared import Shared
from test_train import tiny_run

METHODS = ["apl", "lora", "bitfit", "ft", "prefix", "plb", "apl"]


def test_each_row_is_tokenised_once_and_each_base_loaded_once(tiny_folder, monkeypatch):
    seen, loads = [], []
    real_encode, real_load = chapter.encode, chapter.load
    monkeypatch.setattr(chapter, "encode", lambda examples, *rest: seen.extend(map(id, examples)) or real_encode(examples, *rest))
    monkeypatch.setattr(chapter, "load", lambda name: loads.append(name) or real_load(name))
    shared = Shared()
    for method in METHODS[:4]:
        for k in (20, 40): prepare(tiny_run(tiny_folder, "sst2", method, k=k, valid_rows=30), shared)
    assert len(seen) == len(set(seen)) == 40 + 30 + 132  # train and validation rows of the larger K, all of dev
    assert len(loads) == 1


def test_a_frozen_base_is_one_object_and_stays_as_it_was(tiny_folder, tmp_path):
    shared = Shared()
    base = shared.base(str(tiny_folder), torch.device("cpu"))[0]
    before = {name: p.clone() for name, p in base.named_parameters()}
    for number, method in enumerate(METHODS):
        prepared = prepare(tiny_run(tiny_folder, "sst2", method, epochs=1, k=20, valid_rows=20), shared)
        assert (prepared.model.bert is base) == (method not in ("bitfit", "ft", "plb"))
        (tmp_path / str(number)).mkdir()
        run_experiment(prepared, tmp_path / str(number))
    after = dict(shared.base(str(tiny_folder), torch.device("cpu"))[0].named_parameters())
    assert after.keys() == before.keys() and not any(p.requires_grad for p in after.values())
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("pooler", [True, False])
def test_runs_that_share_equal_runs_alone(tiny_folder, tmp_path, pooler):
    if not pooler:
        from safetensors.torch import load_file, save_file
        tensors = load_file(tiny_folder / "model.safetensors")
        save_file({name: tensor for name, tensor in tensors.items() if "pooler" not in name}, tiny_folder / "model.safetensors")
    shared = Shared()
    for number, method in enumerate(METHODS):
        run = tiny_run(tiny_folder, "sst2", method, epochs=2, k=20, valid_rows=20)
        files = []
        for name, company in (("alone", Shared()), ("shared", shared)):
            (folder := tmp_path / f"{number}-{name}").mkdir()
            run_experiment(prepare(run, company), folder)
            files.append((folder / "trained.safetensors").read_bytes())
        assert files[0] == files[1], method
