"""parallel.py: two real processes train what one trains; the pieces by themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minipelt.bert import BertClassifier
from minipelt.experiment import new_folder, prepare, run_experiment
from minipelt.parallel import WholeBatchDropout
from minipelt.unipelt import Method, attach
from test_train import tiny_run

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # one thread a process, as torchrun has it


def launch(command, folder):
    """Run a command line in a folder; returns what it printed."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert not result.returncode, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("method", ["apl", "ft"])
def test_two_processes_train_what_one_trains(tiny_folder, tmp_path, method):
    """33 rows: the last batch has a single one, so a process is left without. Dropout is on, as in the tiny model's config."""
    arguments = ["--task", "sst2", "--method", method, "--model", str(tiny_folder), "--k", "33", "--valid-rows", "40", "--epochs", "3", "--device", "cpu",
                 "--max-length", "24", "--lr", "1e-3"]
    launch([sys.executable, str(ROOT / "train.py"), *arguments, "--out", "one"], tmp_path)
    printed = launch([*TORCHRUN, str(ROOT / "train.py"), *arguments, "--out", "two"], tmp_path)
    assert printed.count("epoch  3") == 1 and printed.count("run folder") == 1  # one process speaks
    (one,), (two,) = ((tmp_path / name).iterdir() for name in ("one", "two"))
    assert one.name == two.name
    reports = [[json.loads(line) for line in open(folder / "metrics.jsonl")] for folder in (one, two)]
    for alone, together in zip(*reports):
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-5) and together["score"] == alone["score"]
    alone, together = (load_file(folder / "trained.safetensors") for folder in (one, two))
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        if name.endswith("key.bias"): continue  # its true gradient is 0 (softmax ignores it), so AdamW follows rounding alone
        torch.testing.assert_close(together[name], tensor, atol=2e-5, rtol=1e-4, msg=name)
    results = [json.loads((folder / "run.json").read_text()) for folder in (one, two)]
    assert [record["processes"] for record in results] == [1, 2]
    assert results[0]["results"]["test"] == results[1]["results"]["test"]


def test_two_processes_go_on_with_an_interrupted_run(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, "sst2", "apl", epochs=4, k=33, valid_rows=40)
    whole = run_experiment(prepare(run), new_folder(run, tmp_path))

    def interrupt(line):
        if line.startswith("epoch  2"): raise KeyboardInterrupt

    folder = new_folder(run, tmp_path)
    with pytest.raises(KeyboardInterrupt): run_experiment(prepare(run), folder, interrupt, save_seconds=0)
    launch([*TORCHRUN, str(ROOT / "train.py"), "--resume", str(folder)], tmp_path)
    resumed = json.loads((folder / "run.json").read_text())
    assert resumed["processes"] == 2 and resumed["results"]["epochs"] == 4
    assert resumed["results"]["validation"] == whole["results"]["validation"]
    alone, together = (load_file(tmp_path / name / "trained.safetensors") for name in (f"{run.name}", f"{run.name}-2"))
    for name, tensor in alone.items(): torch.testing.assert_close(together[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


def test_dropout_of_a_part_is_that_of_the_whole_batch(tiny, batch):
    """Rows 1 and 2 of the batch, with the noise of all three rows, give rows 1 and 2 of the whole batch's logits."""
    model = attach(BertClassifier(tiny, 2), Method("apl", bottleneck=4, prefix_length=3, prefix_hidden=8)).train()
    torch.manual_seed(5)
    whole = model(*batch)
    torch.manual_seed(5)
    with WholeBatchDropout(slice(1, 3), 3): part = model(*(x[1:3] for x in batch))
    torch.testing.assert_close(part, whole[1:3], atol=1e-5, rtol=1e-5)
    torch.manual_seed(6)
    assert not torch.allclose(model(*batch), whole, atol=1e-3)  # dropout does something here


def test_evaluation_mode_has_no_noise(tiny, batch):
    model = BertClassifier(tiny, 2).eval()
    with WholeBatchDropout(slice(0, 3), 3): torch.testing.assert_close(model(*batch), model(*batch), atol=0, rtol=0)
