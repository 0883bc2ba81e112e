"""One run, from its settings to its record: model and method, training, test score, and the run folder.

    run = Run("sst2", Method("apl"), Recipe(learning_rate=1e-3), k=500)
    record = run_experiment(prepare(run), new_folder(run))
"""

import copy
import json
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch

from minipelt import metrics
from minipelt.batches import Rows, encode
from minipelt.bert import BertClassifier, initialise
from minipelt.checkpoint import (
    check_tensors,
    load_tensors,
    load_trained,
    load_training,
    save_tensors,
    save_training,
    trained_tensors,
)
from minipelt.economy import memory_advice, recompute_layers, use_bfloat16
from minipelt.errors import InputError, check_utf8, plural
from minipelt.files import alone_in, append_json_lines, save_json, write_text
from minipelt.gate import mean_gates, record_gates
from minipelt.identity import check_as_trained, check_base, check_same, describe_run, told_with_tensors
from minipelt.loop import make_optimizer, predict, train
from minipelt.progress import Stopwatch, scoring_bar, step_bar
from minipelt.record import check_reports, load_record
from minipelt.settings import Run
from minipelt.splits import load_splits, read_split
from minipelt.unipelt import attach, trained_parameters
from minipelt.weights import load


class Prepared(NamedTuple):
    """A run that is ready to train: what can be wrong with its settings has been found, and nothing is on disk yet."""

    run: Run
    model: BertClassifier
    rows: dict[str, Rows]  # "train", "validation", "test"


# ---- from settings to a model and rows


def choose_device(name: str) -> torch.device:
    """`auto` -> CUDA, else MPS, else the CPU; any other name as torch knows it. On CUDA, makes torch deterministic."""
    if name.split(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(f"unknown device {name!r}; expected auto, cpu, cuda or mps")
    if name == "auto":
        name = "cpu"
        if torch.backends.mps.is_available():
            name = "mps"
        if torch.cuda.is_available():
            name = "cuda"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); expected auto, cpu, cuda or mps") from None
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cuda.enable_mem_efficient_sdp(False)  # its backward pass adds in an order that varies
    return device


def check_fits(run, config):
    """Raise InputError if a run asks for more than the base with this BertConfig has."""
    if run.max_length > config.max_position_embeddings:
        raise InputError(f"max_length is {run.max_length}; {run.model} has {config.max_position_embeddings} positions")
    if run.method.top_layers > config.num_hidden_layers and "top_layers" in run.method.uses:
        raise InputError(f"top_layers is {run.method.top_layers}; {run.model} has {config.num_hidden_layers} layers")


def load_base(name, device):
    """(BertModel on `device`, frozen, with empty slots; tokenizer)."""
    bert, tokenizer = load(name)
    return bert.to(device).requires_grad_(False), tokenizer


def build(run, device, load=load_base):
    """(model, tokenizer) of a run: the base, a new head, and the method as it is before training.

    load(name, device) gives the base; where a method changes the base itself, it works on a copy.
    """
    bert, tokenizer = load(run.model, device)
    check_fits(run, bert.config)
    if run.method.trains_base:
        bert = copy.deepcopy(bert)
    torch.manual_seed(run.recipe.seed)
    if bert.pooler_is_new:  # made here, so that it follows the seed
        initialise(bert.pooler, bert.config)
    model = BertClassifier(bert, run.spec.num_outputs).to(device)
    attach(model, run.method)
    if run.frozen_head:
        model.classifier.weight.requires_grad_(False)
        model.classifier.bias.requires_grad_("bitfit" in run.method.parts)
    if not trained_parameters(model):
        raise InputError(f"nothing trains: the head is frozen, and method {run.method.name} trains nothing else here")
    if run.gradient_checkpointing:
        recompute_layers(model.bert)
    if run.precision == "bf16":
        use_bfloat16(model)
    return model, tokenizer


def prepare(run, load=load_base, read=read_split) -> Prepared:
    """Run -> Prepared. Raises InputError for a wrong name, file or value.

    load(name, device) gives the base and its tokenizer, read(run, split) the Examples: a sweep hands in what it has
    loaded already, and runs on the user's own data another reader. The model is then no longer to be used once `load`
    is asked again.
    """
    model, tokenizer = build(run, choose_device(run.device), load)
    splits = load_splits(run, read)
    rows = {"train": encode(splits["train"], tokenizer, run.max_length)}
    rows["test"] = encode(splits["test"], tokenizer, run.max_length)
    same = splits["validation"] is splits["test"]
    rows["validation"] = rows["test"] if same else encode(splits["validation"], tokenizer, run.max_length)
    if not run.spec.labels and not run.zero_start:  # start at the mean score: only differences are left to learn
        torch.nn.init.constant_(model.classifier.bias, rows["train"].labels.mean().item())
    return Prepared(run, model, rows)


def new_folder(run, parent="runs") -> Path:
    """Make and return a folder for a run, named after it, with -2, -3 ... if that is taken. Raises InputError."""
    check_utf8("the run folder", f"{parent}/{run.name}")
    for number in range(1, 10000):
        name = run.name if number == 1 else f"{run.name}-{number}"
        folder = Path(parent) / name
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    raise InputError(f"{parent}/{run.name}: taken 9999 times; expected a free name")


# ---- the run


def score(task, logits, labels):
    """{metric: value} of a task. logits (n, C); labels (n). Raises InputError if an answer is no number."""
    if not torch.isfinite(logits).all():
        raise InputError("the model's answers are no numbers; expected a run and a base with finite weights")
    predictions = logits.argmax(dim=-1) if task.labels else logits[:, 0]
    return {name: getattr(metrics, name)(predictions.numpy(), labels.numpy()) for name in task.metrics}


def run_experiment(prepared, folder, say=lambda line: None, resume=False, save_seconds=60, wrap=lambda model: model):
    """Train, test and record one run in an existing folder. Returns its record, as it stands in `folder`/run.json.

    say(line) is called with a line for the reader now and then. With `resume`, goes on from
    `folder`/resume.safetensors, which is written with every best epoch, and when `save_seconds` have passed since the
    last time. wrap(model) gives what trains and predicts in the model's place, such as a DataParallel around it.
    """
    with alone_in(folder), memory_advice(prepared.run):
        return run_in(Path(folder), prepared, say, resume, save_seconds, wrap)


def run_in(folder, prepared, say, resume, save_seconds, wrap):
    """`run_experiment` in a folder that no other process works in."""
    run, model, rows = prepared
    record = describe_run(prepared)
    if resume:
        check_same(record, folder)
        best = folder / "trained.safetensors"
        check_tensors(load_tensors(best)[0], trained_tensors(model), best)  # before it trains for hours
    sizes = ", ".join(f"{name} {plural(len(rows[name]), 'row')}" for name in ("train", "validation", "test"))
    say(f"{sizes}; {run.spec.metrics[0]}; {model.classifier.weight.device}")
    say(parameter_table(record["parameters"]))

    wrapped = wrap(model)
    if run.compile:
        wrapped = torch.compile(wrapped)
    reports = train_and_save(prepared, wrapped, folder, record, say, resume, save_seconds)
    load_trained(model, folder / "trained.safetensors")
    results = test(model, run.spec, rows["test"])
    results["validation"] = results["test"]
    if rows["validation"] is not rows["test"]:
        logits = predict(wrapped, rows["validation"])  # as after every epoch; several processes share the rows
        results["validation"] = score(run.spec, logits, rows["validation"].labels)
    results["best_epoch"] = reports[-1]["best_epoch"]
    results["epochs"] = len(reports)
    results["train_seconds"] = sum(report["train_seconds"] for report in reports)
    validation_seconds = sum(report["validation_seconds"] for report in reports)
    results["total_seconds"] = results["train_seconds"] + validation_seconds + results["test_seconds"]
    record["results"] = results
    save_json(record, folder / "run.json")
    (folder / "resume.safetensors").unlink(missing_ok=True)
    return record


def train_and_save(prepared, wrapped, folder, record, say, resume, save_seconds):
    """The loop of one run, with what a reader and a later resume want of it: lines, a bar, a log, files.

    Returns the reports.
    """
    run, model, rows = prepared
    optimizer = make_optimizer(model, run.recipe)
    steps = math.ceil(len(rows["train"]) / run.recipe.batch_size)
    state, log = folder / "resume.safetensors", folder / "metrics.jsonl"
    reports = []
    if resume:
        reports = load_training(state, model, optimizer, steps)
        check_timed(reports, state)
    save_json(record, folder / "run.json")
    write_text(log, "")
    append_json_lines(log, reports)
    stopwatch = Stopwatch()

    def validate(model):
        with stopwatch.pause(), scoring_bar(model, rows["validation"]):
            logits = predict(model, rows["validation"])
        if not torch.isfinite(logits).all():
            return -math.inf  # never the best
        return score(run.spec, logits, rows["validation"].labels)[run.spec.metrics[0]]

    last_save = -math.inf
    with step_bar(optimizer, steps * len(reports), steps * run.recipe.epochs, run.name) as bar:
        for report in train(wrapped, rows["train"], run.recipe, validate, optimizer, reports):
            check_finite(report, run.recipe)
            train_seconds, validation_seconds = stopwatch.lap()
            report |= {"train_seconds": train_seconds, "validation_seconds": validation_seconds}
            reports.append(report)
            is_best = report["best_epoch"] == report["epoch"]
            if is_best:
                said = {"settings": json.dumps(told_with_tensors(record["run"]))}
                save_tensors(trained_tensors(model), folder / "trained.safetensors", said)
            if is_best or time.perf_counter() - last_save >= save_seconds:
                save_training(state, model, optimizer, reports, record["run"])
                last_save = time.perf_counter()
            append_json_lines(log, [report])
            say(epoch_line(report))
            bar.set_postfix(epoch=report["epoch"], loss=f"{report['loss']:.3f}", best=f"{report['best_score']:.4f}")
            stopwatch.restart()
    return reports


def check_timed(reports, path):
    """Raise InputError if one of a resume file's epochs does not tell how long it took: the sum is in the results."""
    try:
        check_reports(reports, seconds=True)
    except ValueError as error:
        raise InputError(f"{path}: {error}; the run cannot go on from it") from None


def check_finite(report, recipe):
    """Raise InputError if an epoch's loss, or what the model answers after it, is no number any more."""
    loss, epoch, best = report["loss"], report["epoch"], report["best_epoch"]
    if math.isfinite(loss) and math.isfinite(report["score"]):
        return
    what = "the model's answers are no numbers after" if math.isfinite(loss) else f"the loss is {loss} in"
    kept = f"; epoch {best}, the best before it, is kept" if 0 < best < epoch else ""
    raise InputError(f"{what} epoch {epoch}; a learning rate below {recipe.learning_rate:g} may help{kept}")


def epoch_line(report):
    """An epoch's report as a line of text."""
    mark = "  best" if report["best_epoch"] == report["epoch"] else ""
    return f"epoch {report['epoch']:>2}  loss {report['loss']:.4f}  validation {100 * report['score']:6.2f}{mark}"


def test(model, task, rows):
    """{"test": {metric: value}, "gates": {submodule: [mean of each layer]}, "test_seconds"} on `rows`."""
    started = time.perf_counter()
    with record_gates(model) as gates, scoring_bar(model, rows):
        logits = predict(model, rows)
    scores = score(task, logits, rows.labels)
    return {"test": scores, "gates": mean_gates(gates), "test_seconds": time.perf_counter() - started}


def load_run(folder, load=load_base, **changes):
    """A run folder -> (Run, recorded results or {}, model with its trained tensors, tokenizer).

    load: as `build` takes it; `changes` replace settings. Raises InputError if the base or a setting that an answer
    depends on is another than the run was trained with.
    """
    folder = Path(folder)
    run, record = Run.load(folder, **changes), load_record(folder)
    model, tokenizer = build(run, choose_device(run.device), load)
    check_base(model.bert.fingerprint, record, folder)
    check_as_trained(record["run"], folder)
    load_trained(model, folder / "trained.safetensors")
    return run, record.get("results", {}), model.eval(), tokenizer


def parameter_table(counts):
    """What `count_parameters` gives as lines of text, with each part's share of the base."""
    lines = ["trained parameters, and the base beside them"]
    for part, count in counts.items():
        lines.append(f"  {part:<16}{count:>12,}{100 * count / counts['base']:>9.3f} %")
    return "\n".join(lines)
