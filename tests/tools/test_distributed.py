"""distributed.py: two real processes train what one trains; the gradient's algebra by itself."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from helpers import ROOT, TINY, TORCHRUN, interrupt_at, launch, tiny_bert, tiny_run, write_tiny_folder
from safetensors.torch import load_file
from torch import distributed

from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.experiment import new_folder, prepare, run_experiment
from minipelt.loop import loss_function
from minipelt.settings import Method
from minipelt.tools.distributed import DataParallel, rank_and_size, start, stop, wrap
from minipelt.unipelt import attach, trained_parameters

TRAIN = str(ROOT / "train.py")


@pytest.fixture
def quiet_folder(tmp_path):
    """The tiny encoder without dropout, the classifier's included."""
    config = replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return write_tiny_folder(tmp_path / "quiet-bert", tiny_bert(config))


def assert_close(alone, together):
    """Raise unless two trained.safetensors hold the same numbers to float tolerance."""
    alone, together = load_file(alone / "trained.safetensors"), load_file(together / "trained.safetensors")
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        if name.endswith("key.bias"):
            continue  # its true gradient is 0 (softmax ignores it), so AdamW follows rounding alone
        torch.testing.assert_close(together[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["apl", "ft", "diff"])
def test_two_processes_train_what_one_trains(quiet_folder, tmp_path, method):
    """33 rows: the last batch has a single one, so a process has nothing but a repeated row. Dropout is off."""
    arguments = [
        "--task", "sst2", "--method", method, "--model", str(quiet_folder), "--k", "33", "--valid-rows", "40",
        "--epochs", "3", "--device", "cpu", "--max-length", "24", "--lr", "1e-3",
    ]  # fmt: skip
    launch([sys.executable, TRAIN, *arguments, "--out", "one"], tmp_path)
    printed = launch([*TORCHRUN, TRAIN, *arguments, "--out", "two"], tmp_path)
    assert printed.count("epoch  3") == 1  # one process speaks
    assert printed.count("run folder") == 1
    (one,), (two,) = ((tmp_path / name).iterdir() for name in ("one", "two"))
    assert one.name == two.name
    reports = [[json.loads(line) for line in open(folder / "metrics.jsonl")] for folder in (one, two)]
    for alone, together in zip(*reports, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert together["score"] == alone["score"]
    assert_close(one, two)
    records = [json.loads((folder / "run.json").read_text()) for folder in (one, two)]
    assert [record["processes"] for record in records] == [1, 2]
    results = [record["results"] for record in records]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["gates"].keys() == results[1]["gates"].keys()
    for name, means in results[0]["gates"].items():
        assert results[1]["gates"][name] == pytest.approx(means, abs=1e-4)


@pytest.mark.slow
def test_two_processes_go_on_with_an_interrupted_run(quiet_folder, tmp_path):
    run = tiny_run(quiet_folder, "sst2", "apl", epochs=4, k=33, valid_rows=40)
    first = new_folder(run, tmp_path)
    whole = run_experiment(prepare(run), first)

    second = new_folder(run, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(prepare(run), second, interrupt_at(2), save_seconds=0)
    launch([*TORCHRUN, TRAIN, "--resume", str(second)], tmp_path)
    resumed = json.loads((second / "run.json").read_text())
    assert resumed["processes"] == 2
    assert resumed["results"]["epochs"] == 4
    assert resumed["results"]["validation"] == whole["results"]["validation"]
    assert_close(first, second)


PROGRAM = """
import sys

import torch
from torch.nn.functional import cross_entropy

from minipelt.tools import distributed


class Toy(torch.nn.Module):
    extra_loss = None

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.linear(x))


def compare(rows):
    torch.manual_seed(1)
    x, labels, model = torch.randn(rows, 3), torch.randint(2, (rows,)), Toy()
    together = distributed.DataParallel(model)

    def gradients(computes):
        model.zero_grad()
        loss = cross_entropy(computes(x), labels) + sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    alone = gradients(model)
    for step in range(2):
        torch.testing.assert_close(gradients(together), alone)
    with torch.inference_mode():
        torch.testing.assert_close(together.eval()(x), model(x))


distributed.start("cpu")
compare(int(sys.argv[1]))
distributed.stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 5, 6])
def test_the_gradient_of_three_processes_is_that_of_the_batch(tmp_path, rows):
    """Its loss, and a term that depends on the parameters alone, as diff pruning's does."""
    (tmp_path / "program.py").write_text(PROGRAM)
    launch([*TORCHRUN[:-1], "3", "program.py", str(rows)], tmp_path)


@pytest.fixture
def alone():
    """A process group of one process, this one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    stop()
    assert rank_and_size() == (0, 1)


@pytest.mark.parametrize("method", ["apl", "diff"])
def test_a_group_of_one_computes_what_the_model_computes(tiny, batch, alone, method):
    """The same logits, the same gradients and, of diff pruning, the same term of the loss."""
    labels = torch.tensor([0, 1, 1])
    model = attach(BertClassifier(tiny, 2), Method(method, bottleneck=4, prefix_length=3, prefix_hidden=8)).train()
    results = []
    for each in (model, DataParallel(model)):
        torch.manual_seed(5)
        logits = each(*batch)
        loss_function(logits, labels).backward()
        gradients = {name: p.grad.clone() for name, p in trained_parameters(model).items()}
        results.append((logits, gradients))
        model.zero_grad()
        assert each.extra_loss is model.extra_loss
    torch.testing.assert_close(results[0], results[1])


def test_one_process_needs_no_wrapping(tiny):
    model = BertClassifier(tiny, 2)
    assert wrap(model) is model
    assert start("cpu") is None
    assert not distributed.is_initialized()


def test_devices_that_several_processes_cannot_share(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="device 'cuda:0' for several processes; expected cuda"):
        start("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="no GPU of its own; expected --nproc-per-node 1 at most"):
        start("cuda")
