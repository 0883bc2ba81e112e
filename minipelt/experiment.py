"""One run of the paper's experiment: data split, model and method, training, test score, and the run folder.

    run = Run("sst2", Method("apl"), Recipe(learning_rate=1e-3), k=500)
    record = run_experiment(prepare(run), new_folder(run))

The protocol is UniPELT's (section 4.1). With K: the training set is shuffled by the seed; its first K rows train, the next 1,000
pick the best epoch, and the official dev set is the test set. Without K: all of train trains, and the best score on dev counts.
"""

import copy
import json
import os
import platform
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

import minipelt
from minipelt import InputError, metrics
from minipelt.bert import BertClassifier, initialise
from minipelt.checkpoint import load_json, load_tensors, load_trained, save_json, save_tensors, trained_tensors
from minipelt.gate import mean_gates, record_gates
from minipelt.glue import MINIGLUE, get_task, read
from minipelt.loop import Recipe, predict, train
from minipelt.owndata import Data
from minipelt.parallel import add_up, rank_and_size
from minipelt.shared import Shared
from minipelt.unipelt import HYPERPARAMETERS, Method, attach, count_parameters
from minipelt.weights import DEFAULT

# Found on validation rows; the README tells how. Every other method takes 1e-3.
LEARNING_RATES = {"ft": 1e-4, "head": 3e-2, "bitfit": 3e-3, "prefix": 5e-4, "layernorm": 3e-3, "ia3": 3e-2, "prompt": 1e-1, "top": 3e-4, "diff": 3e-4}


@dataclass(frozen=True)
class Run:
    """All settings of one run; a run with the same settings on the same machine gives the same numbers."""

    task: str
    method: Method
    recipe: Recipe
    model: str = DEFAULT  # name or folder of the base
    glue: str = "miniglue"  # folder of the GLUE TSVs; "miniglue" is the hand-written sample
    k: int | None = None  # training rows; None for all
    valid_rows: int = 1000  # with k: rows that pick the best epoch
    max_length: int = 128  # tokens
    device: str = "auto"
    data: Data | None = None  # files of the user's own in place of GLUE's; `task` is then only a name

    def __post_init__(self):
        if self.data is None: get_task(self.task)
        for name, value, least in (("k", self.k, 1), ("valid_rows", self.valid_rows, 1), ("max_length", self.max_length, 8)):
            if value is not None and value < least: raise InputError(f"{name} is {value}; expected at least {least}")

    @classmethod
    def load(cls, folder, **changes):
        """The settings in a run folder's run.json, with `changes`. Raises InputError if it holds none."""
        path = Path(folder) / "run.json"
        record = load_json(path)
        return cls.from_dict(record.get("run") if isinstance(record, dict) else None, path, **changes)

    @classmethod
    def from_dict(cls, values, place, **changes):
        """The settings as `dataclasses.asdict` gave them, with `changes`. Raises InputError, naming the place, if they are none."""
        try:
            values = values | changes
            data = Data(**values["data"]) if values.get("data") else None
            return cls(**values | {"method": Method(**values["method"]), "recipe": Recipe(**values["recipe"]), "data": data})
        except (KeyError, TypeError) as error:
            raise InputError(f"{place}: not the settings of a run ({error!r}); expected a file that train.py or a sweep wrote") from None

    @property
    def name(self):
        """The run in one word: sst2-apl-k500-seed1; settings of the method that are not the default are in it."""
        parts = [self.task, method_label(self.method, self.recipe.learning_rate), *[f"k{self.k}"] * (self.k is not None)]
        return "-".join([*parts, f"seed{self.recipe.seed}"]).replace("_", "")

    @property
    def spec(self):
        """The Task: columns, labels, metrics."""
        return self.data.spec(self.task) if self.data else get_task(self.task)

    def read(self, split):
        """The Examples of train, dev or, where the user has one, test, as the files have them."""
        return self.data.read(split) if self.data else read(self.spec, split, MINIGLUE if self.glue == "miniglue" else self.glue)

    @property
    def test_split(self):
        """Which split the test score is of."""
        return "test" if self.data and self.data.test else "dev"


def default_learning_rate(method):
    """The learning rate for a Method if the user names none."""
    head_alone = method.name == "top" and method.top_layers == 0
    return LEARNING_RATES.get("head" if head_alone else method.name, 1e-3)


def method_label(method, learning_rate, without=None):
    """A Method in one word: apl, apl-nogate, lora-alpha4; what is not the default is in it, but for the setting `without`."""
    changed = [f"{name.replace('_', '')}{value:g}" for name in HYPERPARAMETERS if name != without and (value := getattr(method, name)) != getattr(Method, name)]
    if without != "learning_rate" and learning_rate != default_learning_rate(method): changed.append(f"lr{learning_rate:g}")
    return "-".join([method.name, *["nogate"] * (not method.gate), *changed])


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


def count_rows(run, size):
    """How many of the `size` rows of a training file are for ("train", "validation"); None: the dev set is for validation."""
    if run.k is None or run.data: return min(run.k or size, size), None
    if run.k >= size:
        raise InputError(f"{run.task} has {size} training rows in {run.glue}: --k {run.k} leaves none for validation; expected at most {size - 1}")
    return run.k, min(run.valid_rows, size - run.k)


def choose_rows(run, size):
    """Row numbers of ("train", "validation") among the `size` rows of a training file; None: the dev set is for validation."""
    train, validation = count_rows(run, size)
    order = list(range(size))
    if run.k is None: return order, None
    random.Random(run.recipe.seed).shuffle(order)
    return order[:train], None if validation is None else order[train : train + validation]


def load_splits(run):
    """{"train", "validation", "test"} of a run, as lists of Examples."""
    rows, dev = run.read("train"), run.read("dev")
    train, validation = choose_rows(run, len(rows))
    test = dev if run.test_split == "dev" else run.read("test")
    return {"train": [rows[i] for i in train], "validation": dev if validation is None else [rows[i] for i in validation], "test": test}


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
    written after the first epoch and then when `save_seconds` have passed since the last time.
    """
    folder = Path(folder)
    run, model, rows = prepared
    task, counts = run.spec, count_parameters(model)
    say(", ".join(f"{name} {len(rows[name]):,} rows" for name in ("train", "validation", "test")) + f"; {task.metrics[0]}; {model.classifier.weight.device}")
    say(parameter_table(counts))

    record = {"run": asdict(run), "rows": {name: len(split) for name, split in rows.items()}, "parameters": counts,
              "device": model.classifier.weight.device.type, "threads": torch.get_num_threads(), "processes": rank_and_size()[1],
              "versions": {"minipelt": minipelt.__version__, "torch": torch.__version__, "python": platform.python_version()}}
    save_json(record, folder / "run.json")
    state = load_state(folder) if resume else None
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as log:
        log.writelines(json.dumps(report) + "\n" for report in (state[1] if state else []))
    last_save = -float("inf")

    def on_epoch(report, snapshot):
        nonlocal last_save
        best = report["epoch"] == report["best_epoch"]
        if best: save_tensors(trained_tensors(model), folder / "trained.safetensors")
        if time.perf_counter() - last_save >= save_seconds:
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


def load_state(folder):
    """What `train` needs to go on: the tensors and reports of resume.safetensors."""
    tensors, metadata = load_tensors(folder / "resume.safetensors")
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
