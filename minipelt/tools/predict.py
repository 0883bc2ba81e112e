"""Ask a trained run: labels with their probabilities, and what its gates let through (`python -m minipelt predict`)."""

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from minipelt import loop
from minipelt.batches import encode
from minipelt.bert import BertClassifier
from minipelt.errors import InputError, plural
from minipelt.experiment import load_run, score
from minipelt.files import write_text
from minipelt.gate import mean_gates, record_gates
from minipelt.progress import scoring_bar
from minipelt.settings import Run
from minipelt.tools import texts
from minipelt.tools.merge import fold
from minipelt.tools.submission import write_submissions

BARS = " ▁▂▃▄▅▆▇█"


class Predictor(NamedTuple):
    """A trained run, ready to be asked."""

    run: Run
    model: BertClassifier
    tokenizer: Tokenizer

    def logits(self, examples):
        """Examples -> logits (n, C) on the CPU, in their order. Raises InputError if one is not a number."""
        logits = loop.predict(self.model, encode(examples, self.tokenizer, self.run.max_length))
        check_finite(logits)
        return logits

    def ask(self, example):
        """One Example -> (its logits (C) on the CPU, {submodule: [gate of each layer]} of the same pass)."""
        with record_gates(self.model) as recorded:
            logits = self.logits([example])[0]
        return logits, mean_gates(recorded)  # a mean over one example: its own gates


def check_finite(logits):
    """Raise InputError unless all logits are numbers."""
    if not torch.isfinite(logits).all():
        raise InputError("the model's answer is not a number; expected a run and a base with finite weights")


def answer_of(task, logits):
    """One row's logits (C) -> label and probabilities, or the score. Raises InputError if they are no numbers."""
    check_finite(logits)
    if not task.labels:
        return {"score": round(logits.item(), 6)}
    probabilities = [round(p, 6) for p in logits.float().softmax(dim=-1).tolist()]
    names = dict(zip(task.label_names, probabilities, strict=True))
    return {"label": task.label_names[logits.argmax()], "probabilities": names}


# ---- what is printed


def describe(task, logits):
    """One row's logits (C) -> a line: the label and every class's probability, or the score."""
    answer = answer_of(task, logits)
    if not task.labels:
        return f"{answer['score']:.3f}"
    each = "  ".join(f"{name} {p:.3f}" for name, p in answer["probabilities"].items())
    return f"{answer['label']}  ({each})"


def print_answer(task, example, logits):
    """A line: prediction and texts, with a tab between. A tab or line end inside a text is shown as a space."""
    shown = [text for text in (example.text, example.text_b) if text is not None]
    print("\t".join([describe(task, logits), *(re.sub(r"[\t\r\n]", " ", text) for text in shown)]), flush=True)


def print_score(task, examples, logits):
    """The task's metrics over the rows that have a label, if there are any."""
    labelled = [number for number, example in enumerate(examples) if example.label is not None]
    if not labelled:
        return
    scores = score(task, logits[labelled], torch.tensor([examples[number].label for number in labelled]))
    shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in scores.items())
    rows = plural(len(examples), "row")
    if len(labelled) < len(examples):
        rows = f"the {len(labelled):,} of {rows} that have a label"
    print(f"{shown} on {rows}")


def draw_gates(means, bars=BARS):
    """{submodule: [gate of each layer]} -> lines of text, a bar and a number for each gate."""
    if not means:
        return "(this method has no gates)"
    layers = len(next(iter(means.values())))
    width = max(12, *(len(name) + 1 for name in means))
    titles = [f"layer {layer}" for layer in range(layers)]
    lines = [f"{'gate':<{width}}" + "".join(f"{title:>9}" for title in titles)]
    for name, values in means.items():
        cells = [f"{bars[round(value * 8)]:>5}{value:4.2f}" for value in values]
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def bars_for(stream):
    """The bars, or blanks where a stream's encoding has none."""
    try:
        BARS.encode(getattr(stream, "encoding", None) or "utf-8")
        return BARS
    except UnicodeEncodeError:
        return " " * len(BARS)


# ---- what is written


def save_predictions(path, task, examples, logits):
    """Write a row for each example into a .csv or .jsonl file: texts, prediction, label if known, probabilities."""
    records = [as_record(task, example, row) for example, row in zip(examples, logits, strict=True)]
    if Path(path).suffix == ".jsonl":
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        write_text(path, "\n".join(lines) + "\n")
        return
    rows = []
    for record in records:
        probabilities = record.pop("probabilities", {})
        rows.append(record | {f"p({name})": value for name, value in probabilities.items()})
    sheet = io.StringIO()
    # Texts in quotes: Python leaves a carriage return in a text without them, and then cannot read it.
    writer = csv.DictWriter(sheet, rows[0], lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, sheet.getvalue())


def as_record(task, example, logits):
    """One example and its logits (C) as a JSON object; `label` is what the file said, or null."""
    record = {"text": example.text}
    if len(task.columns) == 2:
        record["text_b"] = example.text_b
    answer = answer_of(task, logits)
    if not task.labels:
        return record | {"prediction": answer["score"], "label": example.label}
    label = None if example.label is None else task.label_names[example.label]
    return record | {"prediction": answer["label"], "label": label, "probabilities": answer["probabilities"]}


# ---- the command


def predict(args):
    """Load the run and answer what was asked."""
    changes = {"device": args.device} if args.device else {}
    run, _, model, tokenizer = load_run(args.run, **changes)
    predictor = Predictor(run, model, tokenizer)
    if args.merge and not fold(model):
        raise InputError(f"--merge: nothing of method {run.method.name} folds into the base's weights")

    if args.glue_test:
        write_submissions(run.spec, predictor.logits, args.glue or "glue", args.out or ".")
    elif args.input is not None:
        predict_file(predictor, args.input, args.output, args.gates)
    elif args.text is not None:
        answer_each(predictor, [texts.from_command_line(args.text, args.text_b, run.spec)], args.gates)
    else:
        answer_each(predictor, texts.from_standard_input(run.spec), args.gates)


def answer_each(predictor, examples, gates):
    """Print each example's prediction as soon as it is there, and its gates if wanted. Returns the logits (n, C)."""
    rows = []
    for example in examples:
        logits, found = predictor.ask(example)
        print_answer(predictor.run.spec, example, logits)
        if gates:
            print(draw_gates(found, bars_for(sys.stdout)))
        rows.append(logits)
    return torch.stack(rows) if rows else None


def predict_file(predictor, path, output, gates):
    """Predict a file in batches, print or write the answers and, where it has labels, print the score."""
    task = predictor.run.spec
    examples = texts.read_file(path, predictor.run)
    if not examples:
        raise InputError(f"{path}: no rows; expected at least one")
    if gates:
        logits = answer_each(predictor, examples, gates)
    else:
        with scoring_bar(predictor.model, examples):
            logits = predictor.logits(examples)
        if output is None:
            for example, row in zip(examples, logits, strict=True):
                print_answer(task, example, row)
    if output is not None:
        save_predictions(output, task, examples, logits)
        print(f"{output}: {plural(len(examples), 'prediction')}")
    print_score(task, examples, logits)
