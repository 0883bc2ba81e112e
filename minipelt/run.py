"""A run before it runs: every setting, the name that tells them, and which rows it takes.

The protocol is UniPELT's (section 4.1). With K: the training set is shuffled by the seed; its first K rows train, the next 1,000
pick the best epoch, and the official dev set is the test set. Without K: all of train trains, and the best score on dev counts.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from minipelt import InputError
from minipelt.checkpoint import load_json
from minipelt.glue import MINIGLUE, get_task, read
from minipelt.loop import Recipe
from minipelt.owndata import Data
from minipelt.unipelt import HYPERPARAMETERS, Method
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


def full_path(name):
    """A folder as a full path, so that the run can be scored from anywhere; any other name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() and name != "miniglue" else name


def default_learning_rate(method):
    """The learning rate for a Method if the user names none."""
    head_alone = method.name == "top" and method.top_layers == 0
    return LEARNING_RATES.get("head" if head_alone else method.name, 1e-3)


def method_label(method, learning_rate, without=None):
    """A Method in one word: apl, apl-nogate, lora-alpha4; what is not the default is in it, but for the setting `without`."""
    changed = [f"{name.replace('_', '')}{value:g}" for name in HYPERPARAMETERS if name != without and (value := getattr(method, name)) != getattr(Method, name)]
    if without != "learning_rate" and learning_rate != default_learning_rate(method): changed.append(f"lr{learning_rate:g}")
    return "-".join([method.name, *["nogate"] * (not method.gate), *changed])


def count_rows(run, size):
    """How many of the `size` rows of a training file are for ("train", "validation"); None: the dev set is for validation."""
    if run.data and run.k and run.k > size: raise InputError(f"{run.data.train}: {size} rows; expected at least the {run.k} of --k")
    if run.k is None or run.data: return run.k or size, None
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
