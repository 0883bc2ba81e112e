"""Predictions for GLUE's server, which alone has the labels of the test files."""

from collections.abc import Callable
from pathlib import Path

from minipelt.errors import InputError, plural
from minipelt.files import write_text
from minipelt.glue import Task, read

# What GLUE's server calls each submission, and the test file that it answers.
SUBMISSIONS = {
    "cola": {"CoLA.tsv": "test"},
    "sst2": {"SST-2.tsv": "test"},
    "mrpc": {"MRPC.tsv": "test"},
    "stsb": {"STS-B.tsv": "test"},
    "qqp": {"QQP.tsv": "test"},
    "mnli": {"MNLI-m.tsv": "test_matched", "MNLI-mm.tsv": "test_mismatched"},
    "qnli": {"QNLI.tsv": "test"},
    "rte": {"RTE.tsv": "test"},
}


def write_submissions(task: Task, predict: Callable, glue: str, out: str) -> None:
    """Predict a task's test files in the folder `glue`, write the submissions into `out`, and print their names.

    predict(examples) -> logits (n, C). Raises InputError for a task that is not GLUE's, or a file that cannot be read.
    """
    if not task.folder:
        raise InputError(f"--glue-test: {task.name} is no GLUE task; --input predicts a file")
    examples = {name: read(task, split, glue) for name, split in SUBMISSIONS[task.name].items()}
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, rows in examples.items():
        lines = submission_lines(task, predict(rows))
        path = Path(out) / name
        write_text(path, "\n".join(lines) + "\n")
        print(f"{path}: {plural(len(rows), 'prediction')}")


def submission_lines(task: Task, logits) -> list[str]:
    """Logits (n, C) -> the lines of a submission: index and prediction, the latter as the task's files write it."""
    if task.labels:
        predictions = [task.labels[number] for number in logits.argmax(dim=-1).tolist()]
    else:
        predictions = [f"{score:.3f}" for score in logits[:, 0].clamp(0, 5).tolist()]
    return ["index\tprediction", *(f"{index}\t{prediction}" for index, prediction in enumerate(predictions))]
