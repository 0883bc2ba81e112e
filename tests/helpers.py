"""What many tests share: a tiny BERT on disk, tiny runs, random values, and commands in a process of their own."""

import json
import os
import string
import subprocess
import sys
from dataclasses import asdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from safetensors.torch import save_file

from minipelt.bert import BertConfig, BertModel
from minipelt.paper.results import Line
from minipelt.settings import DEFAULT_MODEL, Method, Recipe, Run, default_learning_rate
from minipelt.unipelt import trained_parameters

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # one thread a process, as with torchrun
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

LETTERS = list(string.ascii_lowercase)
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL_TOKENS, *LETTERS, *("##" + letter for letter in LETTERS), *"0123456789.,'?!"]
TINY = BertConfig(
    vocab_size=len(WORDS),
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=128,
)


def tiny_bert(config=TINY):
    """A random encoder with 3 layers, D = 32, H = 4. Larger weights than BERT's 0.02, so that every path matters."""
    bert = BertModel(config)
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return bert.eval()


def write_tiny_folder(folder, bert=None):
    """Write a tiny encoder as a folder: config.json, model.safetensors, vocab.txt (letters, so any text tokenises)."""
    bert = bert or tiny_bert()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(asdict(bert.config)))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    save_file(bert.state_dict(), folder / "model.safetensors")
    return folder


def tiny_run(tiny_folder, task="rte", method="apl", epochs=3, **changes):
    """The Run of a small method on the tiny encoder. changes: fields of Run."""
    recipe = Recipe(1e-3, epochs=epochs, batch_size=32)
    method = Method(method, bottleneck=4, prefix_length=3, prefix_hidden=8)
    return Run(task, method, recipe, str(tiny_folder), max_length=24, device="cpu", **changes)


def randomise(module):
    """Give every parameter of a module fresh random values, so that nothing is zero by initialisation. Returns it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def disturb(model):
    """Move every trained parameter of a model away from its start. Returns it."""
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def interrupt_at(epoch):
    """A `say` for run_experiment that raises KeyboardInterrupt, as Ctrl-C does, when an epoch is reported."""

    def say(line):
        if line.startswith(f"epoch {epoch:>2}"):
            raise KeyboardInterrupt

    return say


def launch(command, folder):
    """Run a command line in a folder; returns what it printed. Fails if it fails."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert not result.returncode, result.stdout + result.stderr
    return result.stdout


def load_script(path):
    """A Python file that lies outside the package, as a module."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_script(script, monkeypatch, *arguments):
    """Run a script's command line, in this process. Fails if it fails."""
    monkeypatch.setattr(sys, "argv", [Path(script.__file__).name, *map(str, arguments)])
    assert script.main() == 0


def sweep_record(
    task, method, seed, score, k=100, glue="glue", model=DEFAULT_MODEL, data=None, frozen_head=False, **settings
):
    """A made-up line of a sweep's results.jsonl. score: of the task's metric, up to 1; settings: fields of Method."""
    method = Method(method, **settings)
    recipe = Recipe(default_learning_rate(method), seed=seed)
    run = Run(task, method, recipe, k=k, glue="" if data else glue, model=model, data=data, frozen_head=frozen_head)
    results = {"test": {run.spec.metrics[0]: score}, "gates": {"adapter": [0.2, 0.6]} if method.gated else {}}
    parts = dict.fromkeys(method.parts, 0)  # the first part has all of them
    line = {"run": asdict(run), "parameters": parts | {method.parts[0]: 7, "head": 2, "base": 100}, "results": results}
    if method.gated:
        line["parameters"]["gates"] = 0
    return json.loads(json.dumps(line))


def as_lines(records):
    """The lines of a file of runs, as it is read, from what json.loads makes of them."""
    return [Line(Run.from_dict(record["run"], "here"), record) for record in records]
