"""Do one run: model and method, training, test score, and the run folder.

    run = Run("sst2", Method("apl"), Recipe(learning_rate=1e-3), k=500)
    record = run_experiment(prepare(run), new_folder(run))
"""

import copy
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

import minipelt
from minipelt import InputError, metrics
from minipelt.bert import BertClassifier, initialise
from minipelt.checkpoint import load_json, load_tensors, load_trained, save_json, save_tensors, trained_tensors
from minipelt.gate import mean_gates, record_gates
from minipelt.loop import predict, train
from minipelt.parallel import add_up, rank_and_size
from minipelt.run import Run, choose_rows
from minipelt.shared import Shared
from minipelt.unipelt import attach, count_parameters, trained_parameters


def choose_device(name):
    """`auto` -> CUDA, else MPS, else the CPU; any other name as torch knows it. On CUDA, makes torch deterministic."""
    if name.split(":")[0] not in ("auto", "cpu", "cuda", "mps"): raise InputError(f"unknown device {name!r}; expected auto, cpu, cuda or mps")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used ({str(error).splitlines()[0]}); expected auto, cpu, cuda or mps") from None
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cuda.enable_mem_efficient_sdp(False)  # its backward pass adds in an order that varies
    return device


def check_fits(run, config):
    """Raise InputError if a run asks for more than the base with this BertConfig has."""
    if run.max_length > config.max_position_embeddings:
        raise InputError(f"max_length is {run.max_length}; {run.model} has {config.max_position_embeddings} positions")
    if "top" in run.method.parts and run.method.top_layers > config.num_hidden_layers:
        raise InputError(f"top_layers is {run.method.top_layers}; {run.model} has {config.num_hidden_layers} layers")


def build(run, device, shared):
    """(model, tokenizer) of a run: the base, a new head, and the method as it is before training."""
    bert, tokenizer = shared.base(run.model, device)
    check_fits(run, bert.config)
    if run.method.trains_base: bert = copy.deepcopy(bert)
    torch.manual_seed(run.recipe.seed)
    if bert.pooler_is_new: initialise(bert.pooler, bert.config)  # here, so that it follows the seed
    return attach(BertClassifier(bert, run.spec.num_outputs).to(device), run.method), tokenizer


def score(task, logits, labels):
    """{metric: value} of a task. logits (n, C); labels (n)."""
    predictions = logits.argmax(dim=-1) if task.labels else logits[:, 0]
    return {name: getattr(metrics, name)(predictions.numpy(), labels.numpy()) for name in task.metrics}


class Prepared(NamedTuple):
    """A run that is ready to train: all that can be wrong with its settings has been found by now, and nothing is on disk yet."""

    run: Run
    model: BertClassifier
    rows: dict  # {"train", "validation", "test"}: batches.Rows


def prepare(run, shared=None):
    """Run -> Prepared. Raises InputError for a wrong name, file or value.

    With `shared`, what earlier runs loaded is used again; their models are then no longer to be used.
    """
    shared = shared or Shared()
    model, tokenizer = build(run, choose_device(run.device), shared)
    train_set, dev, test_set = (shared.split(run, name, tokenizer) for name in ("train", "dev", run.test_split))
    train_rows, validation_rows = choose_rows(run, len(train_set))
    rows = {"train": train_set.rows(train_rows), "test": test_set.rows(range(len(test_set)))}
    if validation_rows is not None: rows["validation"] = train_set.rows(validation_rows)
    else: rows["validation"] = rows["test"] if dev is test_set else dev.rows(range(len(dev)))
    if not run.spec.labels:  # regression starts at the mean score: only differences are left to learn
        torch.nn.init.constant_(model.classifier.bias, rows["train"].labels.mean().item())
    return Prepared(run, model, rows)


def new_folder(run, parent="runs"):
    """Make and return a folder for a run, named after it, with -2, -3 ... if that is taken."""
    for number in range(1, 10000):
        folder = Path(parent) / (run.name if number == 1 else f"{run.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError: continue
        except OSError as error: raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    raise InputError(f"{parent}/{run.name}: taken 9999 times; expected a free name")


def run_experiment(prepared, folder, say=lambda line: None, resume=False, save_seconds=60):
    """Train, test and record one run in an existing folder. Returns its record, as it stands in `folder`/run.json.

    say(line) is called with a line for people now and then. With `resume`, goes on from `folder`/resume.safetensors, which is
    written with every best epoch, and when `save_seconds` have passed since the last time.
    """
    folder = Path(folder)
    run, model, rows = prepared
    task, counts = run.spec, count_parameters(model)
    say(", ".join(f"{name} {len(rows[name]):,} rows" for name in ("train", "validation", "test")) + f"; {task.metrics[0]}; {model.classifier.weight.device}")
    say(parameter_table(counts))

    record = {"run": asdict(run), "rows": {name: len(split) for name, split in rows.items()}, "parameters": counts,
              "device": model.classifier.weight.device.type, "threads": torch.get_num_threads(), "processes": rank_and_size()[1],
              "versions": {"minipelt": minipelt.__version__, "torch": torch.__version__, "python": platform.python_version()}}
    state = load_state(folder / "resume.safetensors", model) if resume else None
    save_json(record, folder / "run.json")
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as log:
        log.writelines(json.dumps(report) + "\n" for report in (state[1] if state else []))
    last_save = -float("inf")

    def on_epoch(report, snapshot):
        nonlocal last_save
        best = report["epoch"] == report["best_epoch"]
        if best: save_tensors(trained_tensors(model), folder / "trained.safetensors")
        if best or time.perf_counter() - last_save >= save_seconds:
            tensors, reports = snapshot()
            save_tensors(tensors, folder / "resume.safetensors", {"reports": json.dumps(reports)})
            last_save = time.perf_counter()
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as log: log.write(json.dumps(report) + "\n")
        say(f"epoch {report['epoch']:>2}  loss {report['loss']:.4f}  validation {100 * report['score']:6.2f}{'  best' if best else ''}")

    def validate(model):
        logits = add_up(predict(model, rows["validation"], *rank_and_size()))
        return score(task, logits, rows["validation"].labels)[task.metrics[0]]

    reports = train(model, rows["train"], run.recipe, validate, state, on_epoch)
    load_trained(model, folder / "trained.safetensors")
    results = test(model, task, rows["test"])
    same = rows["validation"] is rows["test"]
    results["validation"] = results["test"] if same else score(task, predict(model, rows["validation"]), rows["validation"].labels)
    results |= {"best_epoch": reports[-1]["best_epoch"], "epochs": len(reports)}
    results["train_seconds"] = sum(report["train_seconds"] for report in reports)
    results["total_seconds"] = sum(report["train_seconds"] + report["validation_seconds"] for report in reports) + results["test_seconds"]
    record["results"] = results
    save_json(record, folder / "run.json")
    (folder / "resume.safetensors").unlink(missing_ok=True)
    return record


def test(model, task, rows):
    """{"test": {metric: value}, "gates": {submodule: [mean of each layer]}, "test_seconds"} on `rows`."""
    started = time.perf_counter()
    with record_gates(model) as gates:
        logits = predict(model, rows)
    return {"test": score(task, logits, rows.labels), "gates": mean_gates(gates), "test_seconds": time.perf_counter() - started}


def load_state(path, model):
    """What `train` needs to go on: the tensors and reports of a resume.safetensors. Raises InputError if they are not of this model."""
    tensors, metadata = load_tensors(path)
    for name, parameter in trained_parameters(model).items():
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise InputError(f"{path}: no tensor {name} of shape {tuple(parameter.shape)}; expected the base that the run began with")
    return tensors, json.loads(metadata["reports"])


def load_run(folder, **changes):
    """A run folder -> (Run, recorded results or {}, model with its trained tensors, tokenizer). `changes` replace settings."""
    run, folder = Run.load(folder, **changes), Path(folder)
    model, tokenizer = build(run, choose_device(run.device), Shared())
    load_trained(model, folder / "trained.safetensors")
    return run, load_json(folder / "run.json").get("results", {}), model.eval(), tokenizer


def parameter_table(counts):
    """What `count_parameters` gives as lines of text, with each part's share of the base."""
    lines = [f"  {part:<16}{count:>12,}{100 * count / counts['base']:>9.3f} %" for part, count in counts.items()]
    return "\n".join(["trained parameters, and the base beside them", *lines])
