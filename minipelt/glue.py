"""The eight GLUE tasks of UniPELT: their columns, labels and metrics, and how to read the official TSVs.

    examples = read(get_task("sst2"), "train", "glue")

Quotes are plain characters in these files, so they are split at tabs and nothing else. This file needs no torch.
`python -m minipelt fetch` brings the official files.
"""

from dataclasses import dataclass
from pathlib import Path

from minipelt.errors import InputError, short
from minipelt.files import read_lines

MINIGLUE = Path(__file__).parent / "miniglue"


@dataclass(frozen=True)
class Task:
    """One GLUE task, or a task of the user's own."""

    name: str  # what the command line calls it
    folder: str  # GLUE's own folder name; "" for own data
    columns: tuple[str, ...]  # the one or two text columns, by header
    label_column: str
    labels: tuple[str, ...]  # the classes as the files write them, by number; () for regression
    label_names: tuple[str, ...]  # the classes as people say them
    metrics: tuple[str, ...]  # names in metrics.py: the paper's first, then the other that GLUE reports
    dev: str = "dev"
    test: str = "test"
    header: str = ""  # for a file without a header line, what the line would be

    @property
    def num_outputs(self) -> int:
        """Width of the head: the number of classes, or 1 for regression."""
        return len(self.labels) or 1


ZERO_ONE = ("0", "1")
NLI = ("entailment", "not_entailment")
NLI3 = ("entailment", "neutral", "contradiction")
COLA_HEADER = "source\tlabel\tmark\tsentence"
TASKS = {
    task.name: task
    for task in (
        Task("cola", "CoLA", ("sentence",), "label", ZERO_ONE, ("unacceptable", "acceptable"),
             ("matthews", "accuracy"), header=COLA_HEADER),
        Task("sst2", "SST-2", ("sentence",), "label", ZERO_ONE, ("negative", "positive"), ("accuracy",)),
        Task("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", ZERO_ONE, ("not_equivalent", "equivalent"),
             ("f1", "accuracy")),
        Task("stsb", "STS-B", ("sentence1", "sentence2"), "score", (), (), ("spearman", "pearson")),
        Task("qqp", "QQP", ("question1", "question2"), "is_duplicate", ZERO_ONE, ("not_duplicate", "duplicate"),
             ("f1", "accuracy")),
        Task("mnli", "MNLI", ("sentence1", "sentence2"), "gold_label", NLI3, NLI3, ("accuracy",),
             dev="dev_matched", test="test_matched"),
        Task("qnli", "QNLI", ("question", "sentence"), "label", NLI, NLI, ("accuracy",)),
        Task("rte", "RTE", ("sentence1", "sentence2"), "label", NLI, NLI, ("accuracy",)),
    )
}


@dataclass(frozen=True)
class Example:
    """One row of a task."""

    text: str
    text_b: str | None = None  # the second text of a pair
    label: int | float | None = None  # class number, score, or None in a test file


def get_task(name: str) -> Task:
    """The task called `name` (`sst2`, `SST-2` ...). Raises InputError for an unknown one."""
    key = name.lower().replace("-", "")
    if key not in TASKS:
        raise InputError(f"unknown task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[key]


def find_data(tasks: list[Task]) -> str:
    """Where to read tasks if the user names no folder: "glue" if all are there, else "miniglue", with a line that says
    so.
    """
    missing = [task for task in tasks if not (Path("glue") / task.folder).is_dir()]
    if not missing:
        return "glue"
    names = " ".join(task.name for task in missing)
    print(
        f"no glue/{missing[0].folder} here: using the sample rows of minipelt/miniglue "
        f"(python -m minipelt fetch {names} brings the real ones)"
    )
    return "miniglue"


def read(task: Task, split: str, root: str | Path = MINIGLUE) -> list[Example]:
    """The rows of `root`/<task folder>/<split>.tsv; `split` is train, dev, test, or a file's own name (dev_mismatched).

    Rows that the annotators left without a gold label (`-`) are skipped. Raises InputError with file and line for a
    bad row.
    """
    file_name = {"dev": task.dev, "test": task.test}.get(split, split)
    path = Path(root) / task.folder / f"{file_name}.tsv"
    has_labels = not file_name.startswith("test")
    lines = read_lines(path)
    first_row = 2  # the number of the first row's line in the file
    if task.header and has_labels:
        lines.insert(0, task.header)
        first_row = 1
    header = lines[0].split("\t") if lines else []
    text_places = [place_of(column, header, path) for column in task.columns]
    label_place = place_of(task.label_column, header, path) if has_labels else None

    examples = []
    for number, line in enumerate(lines[1:], start=first_row):
        cells = line.split("\t")
        if len(cells) != len(header):
            raise InputError(f"{path}: line {number}: {len(cells)} columns; expected {len(header)}")
        texts = [cells[place] for place in text_places]
        label = None
        if has_labels:
            if cells[label_place] == "-":
                continue
            label = parse_label(task, cells[label_place], path, number)
        examples.append(make_example(texts, label))
    if not examples:
        raise InputError(f"{path}: no rows; expected at least one")
    return examples


def place_of(column: str, header: list[str], path: Path) -> int:
    """Where a column is. Raises InputError if the header has none of that name."""
    if column not in header:
        raise InputError(f"{path}: line 1: no column {column!r} in the header")
    return header.index(column)


def make_example(texts: list[str], label: int | float | None) -> Example:
    """One or two texts and a label -> Example."""
    text_b = texts[1] if len(texts) == 2 else None
    return Example(texts[0], text_b, label)


def parse_label(task: Task, label: str, path: Path, number: int) -> int | float:
    """A label cell -> class number, or score. Raises InputError with file and line for what is neither."""
    if task.labels:
        if label not in task.labels:
            raise InputError(f"{path}: line {number}: label {short(label)}; expected one of {', '.join(task.labels)}")
        return task.labels.index(label)
    try:
        score = float(label)
    except ValueError:
        score = float("nan")
    if not 0 <= score <= 5:
        raise InputError(f"{path}: line {number}: score {short(label)}; expected a number from 0 to 5")
    return score
