"""sweep.Shared: files are read once, a base is loaded once, and a run in company equals the run alone."""

import pytest
import torch
from helpers import tiny_run
from safetensors.torch import load_file, save_file

from minipelt import experiment, splits
from minipelt.experiment import prepare, run_experiment
from minipelt.paper.sweep import Shared
from minipelt.unipelt import slots

METHODS = ["apl", "lora", "bitfit", "ft", "prefix", "plb", "diff", "apl"]
TRAIN_BASE = {"bitfit", "ft", "plb", "diff"}


def test_each_file_is_read_once_and_each_base_loaded_once(tiny_folder, monkeypatch):
    reads, loads = [], []
    real_read, real_load = splits.read_split, experiment.load_base

    def read_split(run, split):
        reads.append((run.task, split))
        return real_read(run, split)

    def load_base(name, device):
        loads.append(name)
        return real_load(name, device)

    monkeypatch.setattr(splits, "read_split", read_split)
    monkeypatch.setattr(experiment, "load_base", load_base)
    shared = Shared()
    for task in ("sst2", "rte"):
        for method, k in (("apl", 20), ("ft", 20), ("apl", 40)):
            prepare(tiny_run(tiny_folder, task, method, k=k, valid_rows=30), shared.load, shared.read)
    assert reads == [("sst2", "train"), ("sst2", "dev"), ("rte", "train"), ("rte", "dev")]
    assert loads == [str(tiny_folder)]


def test_other_files_and_other_bases_are_not_mixed_up(tiny_folder, tmp_path):
    """The same task from another folder, and a base of another name."""
    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        (tmp_path / f"SST-2/{split}.tsv").write_text("sentence\tlabel\n" + "other\t1\n" * 3)
    shared = Shared()
    sample, other = (tiny_run(tiny_folder, "sst2", glue=glue) for glue in ("miniglue", str(tmp_path)))
    assert len(shared.read(sample, "train")) == 264 and len(shared.read(other, "train")) == 3
    assert shared.mean_length(other, "train") == 7  # [CLS], five letters, [SEP]
    assert shared.mean_length(sample, "train") > 8
    cpu = torch.device("cpu")
    link = tmp_path / "other-base"
    link.symlink_to(tiny_folder)
    assert shared.load(str(tiny_folder), cpu)[0] is shared.load(str(tiny_folder), cpu)[0]
    assert shared.load(str(tiny_folder), cpu)[0] is not shared.load(str(link), cpu)[0]


@pytest.mark.slow
def test_a_frozen_base_is_one_object_and_stays_as_it_was(tiny_folder, tmp_path):
    shared = Shared()
    cpu = torch.device("cpu")
    base, _ = shared.load(str(tiny_folder), cpu)
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    for number, method in enumerate(METHODS):
        run = tiny_run(tiny_folder, "sst2", method, epochs=1, k=20, valid_rows=20)
        prepared = prepare(run, shared.load, shared.read)
        assert (prepared.model.bert is base) == (method not in TRAIN_BASE)
        folder = tmp_path / str(number)
        folder.mkdir()
        run_experiment(prepared, folder)
    base, _ = shared.load(str(tiny_folder), cpu)
    after = dict(base.named_parameters())
    assert after.keys() == before.keys() and not any(parameter.requires_grad for parameter in after.values())
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(getattr(module, slot) is None for _, module, slot in slots(base))


@pytest.mark.slow
@pytest.mark.parametrize("pooler", [True, False])
def test_runs_that_share_equal_runs_alone(tiny_folder, tmp_path, pooler):
    """Also where the base has no pooler, and each run makes its own."""
    if not pooler:
        tensors = load_file(tiny_folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
        save_file(kept, tiny_folder / "model.safetensors")
    shared = Shared()
    for number, method in enumerate(METHODS):
        run = tiny_run(tiny_folder, "sst2", method, epochs=2, k=20, valid_rows=20)
        files = []
        for name, prepared in (("alone", prepare(run)), ("shared", prepare(run, shared.load, shared.read))):
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            run_experiment(prepared, folder)
            files.append((folder / "trained.safetensors").read_bytes())
        assert files[0] == files[1], method
