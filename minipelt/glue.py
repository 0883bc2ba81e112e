"""The eight GLUE tasks of UniPELT: their files, columns, labels and metrics; reading the official TSVs; fetching them.

    python -m minipelt.glue sst2 rte        fetches the official files into glue/SST-2 and glue/RTE

Quotes are plain characters in these files, so they are split at tabs and nothing else. This file needs no torch.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from minipelt import InputError, place, run_command

MINIGLUE = Path(__file__).parent / "miniglue"
BASE_URL = "https://dl.fbaipublicfiles.com/"


@dataclass(frozen=True)
class Task:
    """One GLUE task."""

    name: str  # what the command line calls it
    folder: str  # GLUE's own folder name
    columns: tuple  # the one or two text columns, by header
    label_column: str
    labels: tuple  # the classes as the files write them, by number; () for regression
    label_names: tuple  # the classes as people say them
    metrics: tuple  # names in metrics.py: the paper's first, then the other that GLUE reports
    archive: str  # official file
    sha256: str
    dev: str = "dev"
    test: str = "test"
    header: str = ""  # for a file without a header line, what the line would be

    @property
    def num_outputs(self):
        """Width of the head: the number of classes, or 1 for regression."""
        return len(self.labels) or 1


NLI = ("entailment", "not_entailment")
NLI3 = ("entailment", "neutral", "contradiction")
TASKS = {
    task.name: task
    for task in (
        Task("cola", "CoLA", ("sentence",), "label", ("0", "1"), ("unacceptable", "acceptable"), ("matthews", "accuracy"),
             "CoLA.zip", "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff", header="source\tlabel\tmark\tsentence"),
        Task("sst2", "SST-2", ("sentence",), "label", ("0", "1"), ("negative", "positive"), ("accuracy",),
             "SST-2.zip", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
        Task("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1"), ("not_equivalent", "equivalent"), ("f1", "accuracy"), "", ""),
        Task("stsb", "STS-B", ("sentence1", "sentence2"), "score", (), (), ("spearman", "pearson"),
             "STS-B.zip", "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
        Task("qqp", "QQP", ("question1", "question2"), "is_duplicate", ("0", "1"), ("not_duplicate", "duplicate"), ("f1", "accuracy"),
             "QQP-clean.zip", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
        Task("mnli", "MNLI", ("sentence1", "sentence2"), "gold_label", NLI3, NLI3, ("accuracy",),
             "MNLI.zip", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633", "dev_matched", "test_matched"),
        Task("qnli", "QNLI", ("question", "sentence"), "label", NLI, NLI, ("accuracy",),
             "QNLIv2.zip", "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
        Task("rte", "RTE", ("sentence1", "sentence2"), "label", NLI, NLI, ("accuracy",),
             "RTE.zip", "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
    )
}

# MRPC has no official archive: two text files, and a list of the pairs that GLUE holds out as its dev set.
MRPC_FILES = {
    "senteval/senteval_data/msr_paraphrase_train.txt": "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
    "senteval/senteval_data/msr_paraphrase_test.txt": "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
    "glue/data/mrpc_dev_ids.tsv": "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
}


@dataclass(frozen=True)
class Example:
    """One row of a task."""

    text: str
    text_b: str | None = None  # the second text of a pair
    label: int | float | None = None  # class number, score, or None in a test file


def get_task(name):
    """The task called `name` (`sst2`, `SST-2` ...). Raises InputError for an unknown one."""
    key = name.lower().replace("-", "")
    if key not in TASKS: raise InputError(f"unknown task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[key]


def find_data(tasks):
    """Where to read Tasks if the user names no folder: "glue" if all are there, else "miniglue", with a line that says so."""
    missing = [task for task in tasks if not (Path("glue") / task.folder).is_dir()]
    if not missing: return "glue"
    print(f"no glue/{missing[0].folder} here: using the sample rows of minipelt/miniglue "
          f"(python -m minipelt.glue {' '.join(task.name for task in missing)} fetches the real ones)")
    return "miniglue"


# ---- reading


def read(task, split, root=MINIGLUE):
    """The rows of `root`/<task folder>/<split>.tsv as Examples; `split` is train, dev, test, or a file's own name (dev_mismatched).

    Rows that the annotators left without a gold label (`-`) are skipped. Raises InputError with file and line for a bad row.
    """
    path = Path(root) / task.folder / f"{ {'dev': task.dev, 'test': task.test}.get(split, split) }.tsv"
    lines = read_lines(path)
    is_test = path.stem.startswith("test")
    if task.header and not is_test: lines.insert(0, task.header)
    header = lines[0].split("\t") if lines else []
    wanted = task.columns if is_test else (*task.columns, task.label_column)
    for column in wanted:
        if column not in header: raise InputError(f"{path}: line 1: no column {column!r} in the header")
    places = [header.index(column) for column in wanted]

    examples = []
    first = 1 if task.header and not is_test else 2  # number of the first row's line in the file
    for number, line in enumerate(lines[1:], start=first):
        cells = line.split("\t")
        if len(cells) != len(header): raise InputError(f"{path}: line {number}: {len(cells)} columns; expected {len(header)}")
        *texts, label = [cells[place] for place in places] + [None] * is_test
        if label == "-": continue
        examples.append(Example(*texts, *[None] * (2 - len(texts)), label=parse_label(task, label, path, number)))
    if not examples: raise InputError(f"{path}: no rows; expected at least one")
    return examples


def read_bytes(path):
    """A file's bytes. Raises InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or 'cannot be read').lower().replace('no such file or directory', 'no such file')}") from None


def read_lines(path):
    """The lines of a UTF-8 file, without a byte-order mark, line ends, or an empty last line."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line}: not UTF-8") from None
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def parse_label(task, label, path, number):
    """A label cell -> class number or score; None stays None (a test row)."""
    if label is None: return None
    if task.labels:
        if label in task.labels: return task.labels.index(label)
        raise InputError(f"{path}: line {number}: label {label!r}; expected one of {', '.join(task.labels)}")
    try:
        score = float(label)
    except ValueError:
        score = float("nan")
    if 0 <= score <= 5: return score
    raise InputError(f"{path}: line {number}: score {label!r}; expected a number from 0 to 5")


# ---- fetching


def fetch(task, root="glue", base_url=BASE_URL):
    """Download a task's official files and place them as `root`/<task folder> when all are whole. Returns that folder.

    A folder that is already there is left alone. Raises InputError if a download fails or is not the official file.
    """
    folder = Path(root) / task.folder
    if folder.exists(): return folder
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
    except OSError:
        raise InputError(f"{root}: not a folder, and cannot be made one") from None
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as scratch:
        scratch, part = Path(scratch), Path(scratch) / task.folder
        part.mkdir()
        if task.archive:
            archive = scratch / task.archive
            download(f"{base_url}glue/data/{task.archive}", archive, task.sha256)
            unpack(archive, part)
        else:
            for name, sha256 in MRPC_FILES.items():
                download(base_url + name, scratch / Path(name).name, sha256)
            build_mrpc(scratch, part)
        place(part, folder)
    return folder


def download(url, path, sha256):
    """Download `url` to `path` with a progress bar; InputError if it cannot be had, or is another file than expected."""
    from tqdm import tqdm  # imported here: reading needs no more than the standard library

    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as response, open(path, "wb") as file:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name) as bar:
                while chunk := response.read(1 << 16):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, OSError) as error:
        raise InputError(f"{url}: download failed ({error})") from None
    if digest.hexdigest() != sha256:
        raise InputError(f"{url}: sha256 is {digest.hexdigest()}; expected {sha256}. Nothing was kept; try again")


def unpack(archive, folder):
    """Take the train, dev and test TSVs out of an official zip file, which also holds originals and extras."""
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.namelist():
            inner = Path(member)
            if len(inner.parts) == 2 and inner.suffix == ".tsv" and inner.stem.split("_")[0] in ("train", "dev", "test"):
                with zipped.open(member) as source, open(folder / inner.name, "wb") as sink:
                    shutil.copyfileobj(source, sink)


def build_mrpc(source, folder):
    """Write GLUE's MRPC files: the pairs of mrpc_dev_ids.tsv are dev, the rest of the training text train."""
    dev_pairs = {tuple(line.split("\t")) for line in read_lines(source / "mrpc_dev_ids.tsv")}
    header, *rows = read_lines(source / "msr_paraphrase_train.txt")
    splits = {"dev": [header], "train": [header]}
    for row in rows:
        splits["dev" if tuple(row.split("\t")[1:3]) in dev_pairs else "train"].append(row)
    header, *rows = read_lines(source / "msr_paraphrase_test.txt")
    splits["test"] = ["\t".join(["index", *header.split("\t")[1:]])]
    splits["test"] += ["\t".join([str(index), *row.split("\t")[1:]]) for index, row in enumerate(rows)]
    for split, lines in splits.items():
        (folder / f"{split}.tsv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main(argv=None):
    """The command `python -m minipelt.glue`."""
    parser = argparse.ArgumentParser(prog="python -m minipelt.glue", description="Fetch official GLUE files.")
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=f"one or more of {', '.join(TASKS)}, or all")
    parser.add_argument("--into", default="glue", metavar="FOLDER", help="where the task folders go (default: %(default)s)")
    args = parser.parse_args(argv)

    def fetch_all():
        for task in TASKS.values() if args.tasks == ["all"] else [get_task(name) for name in args.tasks]:
            print(f"{task.name}: {fetch(task, args.into)}")

    return run_command(fetch_all, interrupted="interrupted: nothing half-fetched was kept")


if __name__ == "__main__":
    sys.exit(main())
