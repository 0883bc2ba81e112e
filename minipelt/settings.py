"""Every setting of a run, and the one table of methods.

No torch here: command lines and tables read this file at once.

    run = Run("sst2", Method("apl", bottleneck=64), Recipe(learning_rate=1e-3), k=500)

`Method` says what trains, `Recipe` how, `Run` on what. A row of `PARTS` is all that the package knows of a method
beside its file in methods/: unions, --help, sweeps, reports and the README's table read it.
"""

import difflib
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from minipelt.errors import InputError, check_utf8, short
from minipelt.files import load_json
from minipelt.glue import MINIGLUE, TASKS, Task, get_task

DEFAULT_MODEL = "all-MiniLM-L6-v2"


# ---- the table of methods


@dataclass(frozen=True)
class Part:
    """A row of the table: a method alone, or a part of a union such as `apl`."""

    name: str  # also the name of its file in methods/
    trains: str  # in a few words
    where: str = ""
    letter: str = ""  # for unions by letters
    uses: tuple[str, ...] = ()  # the hyperparameters that it has a use for ...
    uses_ungated: tuple[str, ...] = ()  # ... and those that it has a use for where no gate scales it
    learning_rate: float = 1e-3  # the README tells how the rates were found
    gateable: bool = False  # in a union of two or more such parts, each gets a gate
    trains_base: bool = False  # changes the pretrained encoder itself, and not only what is added to it
    alone: bool = False  # cannot be part of a union
    passes: int = 2  # of a training step through the encoder: forward, back to the activations, back to the weights


PARTS = {
    part.name: part
    for part in (
        Part("ft", "everything: fine-tuning", learning_rate=1e-4, trains_base=True, alone=True, passes=3),
        Part("head", "the classifier on the frozen encoder", learning_rate=3e-2, alone=True, passes=1),
        Part("adapter", "a bottleneck a layer", "feed-forward output", "a", ("bottleneck",), gateable=True),
        Part("prefix", "key and value vectors a layer", "before the keys and values", "p",
             ("prefix_length", "prefix_hidden"), learning_rate=5e-4, gateable=True),
        Part("lora", "low-rank updates", "queries and values", "l", ("rank",), ("alpha",), gateable=True),
        Part("bitfit", "the encoder's biases", "every Linear and LayerNorm", "b", learning_rate=3e-3, trains_base=True),
        Part("houlsby", "two bottlenecks a layer, LayerNorms", "attention and feed-forward output",
             uses=("bottleneck",), gateable=True, trains_base=True),
        Part("parallel", "a bottleneck a layer", "beside the feed-forward block", uses=("bottleneck",), gateable=True),
        Part("ia3", "three scaling vectors a layer", "keys, values, feed-forward features", learning_rate=3e-2),
        Part("layernorm", "LayerNorm weights and biases", "every LayerNorm", learning_rate=3e-3, trains_base=True),
        Part("top", "the top layers and the pooler", uses=("top_layers",), learning_rate=3e-4, trains_base=True,
             passes=3),
        Part("prompt", "vectors in the input", "behind [CLS]", uses=("prefix_length",), learning_rate=1e-1),
        Part("diff", "a sparse difference", "every matrix of every layer", uses=("share",), learning_rate=3e-4,
             trains_base=True, passes=3),
        Part("side", "a small network", "beside the encoder, blended at its end", uses=("bottleneck",), passes=1),
        Part("dora", "low-rank updates of the direction, and every row's length", "queries and values",
             uses=("rank", "alpha"), trains_base=True),
    )
}
LETTERS = {part.letter: part.name for part in PARTS.values() if part.letter}
UNION_LEARNING_RATE = 1e-3


def split_name(name: str) -> tuple[str, ...]:
    """`apl` -> ("adapter", "prefix", "lora"), `l+houlsby` -> ("lora", "houlsby"), `head` -> ("head",); in the table's
    order.

    Raises InputError for what is no method.
    """
    found = []
    for word in name.lower().split("+"):
        if word in PARTS:
            found.append(word)
        else:
            found.extend(LETTERS.get(letter, "") for letter in word or "?")
    repeated = len(set(found)) < len(found)
    lonely = len(found) > 1 and any(part in PARTS and PARTS[part].alone for part in found)
    if "" in found or repeated or lonely:
        raise InputError(unknown_method(name))
    return tuple(part for part in PARTS if part in found)


def unknown_method(name: str) -> str:
    """The sentence for a name that is no method, with the nearest one if there is one."""
    near = difflib.get_close_matches(name.lower(), PARTS, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    letters = ", ".join(f"{letter} ({part})" for letter, part in LETTERS.items())
    return (
        f"unknown method {name!r}{guess}: expected {', '.join(PARTS)}, letters of {letters}, "
        "such as apl, or some of these with + between, each at most once"
    )


def canonical_name(name: str) -> str:
    """`lp` -> `pl`, `a` -> `adapter`, `l+houlsby` -> `lora+houlsby`. Raises InputError for what is no method."""
    parts = split_name(name)
    letters = [PARTS[part].letter for part in parts]
    if len(parts) > 1 and all(letters):
        return "".join(letters)
    return "+".join(parts)


# ---- the settings


def setting(default, help="", symbol="", least=None, most=None, choices=None):
    """A field of a settings class that a command line may offer: its default, help, letter, and range or choices."""
    about = {"help": help, "symbol": symbol, "least": least, "most": most, "choices": choices}
    return field(default=default, metadata=about)


WIDEST = 65_536  # no width of a module is larger: it would only fill the memory before it fails


@dataclass(frozen=True)
class Method:
    """A method with its hyperparameters; the defaults are UniPELT's."""

    name: str  # a name of the table, letters (ap, plb, apl ...), or names and letters with a plus
    gate: bool = True  # False: UniPELT's NoGate ablation. Without effect while fewer than two parts with gates meet
    bottleneck: int = setting(48, "width of adapters and side network", "M", 1, WIDEST)
    prefix_length: int = setting(10, "vectors in a prefix or prompt", "P", 1, WIDEST)
    prefix_hidden: int = setting(512, "", "", 1, WIDEST)  # width of the prefix's reparameterisation
    rank: int = setting(8, "rank of LoRA", "R", 1, WIDEST)
    alpha: float = setting(16.0, "LoRA's scale is alpha / rank if not gated", "A", 0.0)
    top_layers: int = setting(1, "layers that top trains; 0: the head alone", "N", 0, WIDEST)
    share: float = setting(0.005, "of the entries of each matrix that diff keeps", "S", 0.0, 1.0)

    def __post_init__(self):
        check_settings(self)
        object.__setattr__(self, "name", canonical_name(self.name))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts by name, in the table's order: ("adapter", "lora")."""
        return split_name(self.name)

    @property
    def gated(self) -> bool:
        """Whether the parts have gates."""
        gateable = [part for part in self.parts if PARTS[part].gateable]
        return self.gate and len(gateable) >= 2

    @property
    def trains_base(self) -> bool:
        """Whether parameters of the pretrained encoder train."""
        return any(PARTS[part].trains_base for part in self.parts)

    @property
    def uses(self) -> set[str]:
        """The hyperparameters that have an effect on this method."""
        used = set()
        for part in self.parts:
            used.update(PARTS[part].uses)
            if not self.gated:
                used.update(PARTS[part].uses_ungated)
        return used

    @property
    def canonical(self) -> "Method":
        """This method with every setting that has no effect on it at its default: equal methods then compare equal."""
        can_have_gates = replace(self, gate=True).gated
        idle = {}
        for each in fields(self):
            if each.name == "gate" and not can_have_gates:
                idle["gate"] = True
            elif each.metadata and each.name not in self.uses:
                idle[each.name] = each.default
        return replace(self, **idle)


# The hyperparameters as command lines offer them.
HYPERPARAMETERS = tuple(each.name for each in fields(Method) if each.metadata.get("help"))


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's, where it states them."""

    learning_rate: float = field(metadata={"least": 0.0})  # at its peak
    batch_size: int = setting(16, "rows a step", "N", 1)
    epochs: int = setting(50, "at most", "N", 1)
    patience: int = setting(10, "stop after N epochs without a better score", "N", 1)
    warmup: float = 0.06  # share of all steps in which the learning rate rises from 0
    weight_decay: float = 0.01  # on matrices; biases and LayerNorm weights do not decay
    clip: float = 1.0  # largest norm of the gradient of all trained parameters together
    seed: int = setting(1, "fixes the rows, the start and the order", "N", 0, 999_999_999)
    accumulate: int = setting(1, "take the rows of a step in N parts, one after the other, to save memory", "N", 1)

    def __post_init__(self):
        check_settings(self)


@dataclass(frozen=True)
class Data:
    """The user's own files, and which of their columns to read; tools/owndata.py reads them."""

    train: str
    dev: str
    test: str | None = None  # without it, the test score is that of dev
    text: str = "text"  # columns: names, or numbers from 1
    text_b: str | None = None
    label: str = "label"
    regression: bool = False
    skip_bad_rows: bool = False
    labels: tuple[str, ...] = ()  # the classes by number, as the files write them
    header: str | None = None  # columns by number: the first line is a header where it has this for a label

    def __post_init__(self):
        if isinstance(self.labels, list):  # as JSON has it
            object.__setattr__(self, "labels", tuple(self.labels))
        check_settings(self)
        if "" in self.labels or len(set(self.labels)) < len(self.labels):
            raise InputError(f"labels {short(self.labels)}: expected each once, and none that is empty")
        if self.labels and self.regression:
            raise InputError(f"labels {short(self.labels)} and regression: expected one of them")
        by_number = [column.isascii() and column.isdigit() for column in self.columns]
        if any(by_number) and not all(by_number) or "0" in self.columns:
            raise InputError(f"columns {', '.join(self.columns)}: expected names or numbers from 1, not both")
        if len(set(self.columns)) < len(self.columns):
            raise InputError(f"columns {', '.join(self.columns)}: expected another column for each text and the label")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read: the texts, then the label."""
        texts = (self.text,) if self.text_b is None else (self.text, self.text_b)
        return (*texts, self.label)

    def spec(self, name: str) -> Task:
        """The Task that this data is."""
        metrics = ("accuracy", "macro_f1") if self.labels else ("spearman", "pearson")
        return Task(name, "", self.columns[:-1], self.label, self.labels, self.labels, metrics)


@dataclass(frozen=True)
class Run:
    """All settings of one run; a run with the same settings on the same machine gives the same numbers."""

    task: str
    method: Method
    recipe: Recipe
    model: str = DEFAULT_MODEL  # name or folder of the base
    glue: str = "miniglue"  # folder of the GLUE TSVs; "miniglue" is the hand-written sample
    k: int | None = setting(None, "training rows (default: all)", "K", 1)
    valid_rows: int = setting(1000, "with --k: rows to pick the best epoch", "N", 1)
    max_length: int = setting(128, "tokens kept of a row", "N", 8)
    device: str = "auto"
    data: Data | None = None  # files of the user's own in place of GLUE's; `task` is then only a name
    # Departures from this package's protocol. The authors' public code trains some methods on a frozen, random head.
    frozen_head: bool = setting(False, "leave the head as it was drawn; of it, bitfit still trains the bias")
    zero_start: bool = setting(False, "a regression starts at 0, not at the mean score of its training rows")
    # Less time or memory for the same run (economy.py).
    precision: str = setting("float32", "of matrix products: float32, or bf16", choices=("float32", "bf16"))
    compile: bool = setting(False, "let torch.compile fuse the training step's operations")
    gradient_checkpointing: bool = setting(False, "compute every layer twice, to save memory")

    def __post_init__(self):
        check_settings(self)
        if self.data is None:
            get_task(self.task)

    @classmethod
    def load(cls, folder: str | Path, **changes) -> "Run":
        """The settings in a run folder's run.json, with `changes`. Raises InputError if it holds none."""
        record = load_run_json(folder)
        values = record.get("run") if isinstance(record, dict) else None
        return cls.from_dict(values, Path(folder) / "run.json", **changes)

    @classmethod
    def from_dict(cls, values: dict, place: str | Path, **changes) -> "Run":
        """The settings as `dataclasses.asdict` gave them, with `changes`.

        Raises InputError, naming the place, if they are none.
        """
        try:
            values = as_settings(cls, values) | changes
            values["method"] = Method(**as_settings(Method, values["method"]))
            values["recipe"] = Recipe(**as_settings(Recipe, values["recipe"]))
            if values.get("data") is not None:
                values["data"] = Data(**as_settings(Data, values["data"]))
            return cls(**values)
        except (InputError, KeyError, TypeError) as error:
            reason = error if isinstance(error, InputError) else repr(error)
            raise InputError(f"{place}: not the settings of a run: {reason}") from None

    @property
    def name(self) -> str:
        """The run in one word: sst2-apl-k500-seed1; settings of the method that are not the default are in it."""
        words = [self.subject, method_label(self.method, self.recipe.learning_rate)]
        words.extend(self.variants)
        if self.precision != "float32":
            words.append(self.precision)
        if self.k is not None:
            words.append(f"k{self.k}")
        words.append(f"seed{self.recipe.seed}")
        return "-".join(words).replace("_", "")

    @property
    def subject(self) -> str:
        """What the run is on, in one word: sst2, sst2-sample (the sample rows), sst2-bert-base-uncased (another base).

        Scores of different subjects do not compare. Own files have a name of their own; one of GLUE's gets `-own`.
        """
        words = [self.task]
        if self.sample_rows:
            words.append("sample")
        if self.data and self.task in TASKS:
            words.append("own")
        base = Path(self.model).name
        if base != DEFAULT_MODEL:
            words.append(base)
        return "-".join(words)

    @property
    def sample_rows(self) -> bool:
        """Whether its rows are minipelt's hand-written ones, which say nothing about GLUE."""
        return self.data is None and self.glue == "miniglue"

    @property
    def variants(self) -> list[str]:
        """The departures from this package's own protocol, for names and tables: ["frozenhead"]."""
        switches = {"frozenhead": self.frozen_head, "zerostart": self.zero_start}
        return [name for name, is_on in switches.items() if is_on]

    @property
    def spec(self) -> Task:
        """The Task: columns, labels, metrics."""
        return self.data.spec(self.task) if self.data else get_task(self.task)

    @property
    def test_split(self) -> str:
        """Which split the test score is of: "test" where the user's own data has such a file, else "dev"."""
        return "test" if self.data and self.data.test else "dev"


# ---- reading and naming settings


def check_settings(settings) -> None:
    """Raise InputError, naming the field, where a value has another type than its field, or lies out of its range."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        kind = int | float if each.type is float else each.type
        kind = tuple if each.type == tuple[str, ...] else kind
        wrong_type = not isinstance(value, kind) or (isinstance(value, bool) and each.type is not bool)
        if wrong_type or (kind is tuple and not all(isinstance(item, str) for item in value)):
            expected = getattr(each.type, "__name__", str(each.type))
            raise InputError(f"{each.name} is {short(value)}; expected {expected}")
        if isinstance(value, str):
            check_utf8(each.name, value)
        choices = each.metadata.get("choices")
        if choices and value not in choices:
            raise InputError(f"{each.name} is {short(value)}; expected {' or '.join(choices)}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            check_range(each, value)


def check_range(each, value: int | float) -> None:
    """Raise InputError if a number lies out of its field's range, or is no number at all."""
    least, most = each.metadata.get("least"), each.metadata.get("most")
    if not abs(value) <= sys.float_info.max:  # not a number, infinite, or a whole number with too many digits
        raise InputError(f"{each.name} is {short(value)}; expected a number")
    if least is None:
        return
    if each.type is float and value <= least:
        raise InputError(f"{each.name} is {value}; expected a number above {least:g}")
    if value < least:
        expected = "a number above 0" if least == 1 else f"at least {least}"
        raise InputError(f"{each.name} is {value}; expected {expected}")
    if most is not None and value > most:
        raise InputError(f"{each.name} is {value}; expected at most {most:,}")


def load_run_json(folder: str | Path):
    """What a run folder's run.json holds. Raises InputError if there is none, or if it is no JSON."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise InputError(f"{folder}: no run.json in it; expected a run folder, such as train.py leaves in runs/")
    return load_json(path)


def as_settings(cls, values) -> dict:
    """A JSON object -> keyword arguments of a settings class.

    Raises InputError if it has a field that the class lacks.
    """
    if not isinstance(values, dict):
        raise InputError(f"{cls.__name__.lower()} is {short(values)}; expected an object")
    known = {each.name for each in fields(cls)}
    for name in values:
        if name not in known:
            raise InputError(f"unknown field {short(name)}; expected some of {', '.join(sorted(known))}")
    return dict(values)


def full_path(name: str) -> str:
    """A folder as a full path, so that the run can be scored from anywhere; any other name as it is.

    The folder of the sample rows is `miniglue`, however it is written.
    """
    if name == "miniglue" or not Path(name).is_dir():
        return name
    folder = Path(name).resolve()
    return "miniglue" if folder == MINIGLUE.resolve() else str(folder)


def default_learning_rate(method: Method) -> float:
    """The learning rate for a Method if the user names none."""
    if method.name == "top" and method.top_layers == 0:
        return PARTS["head"].learning_rate
    if method.name in PARTS:
        return PARTS[method.name].learning_rate
    return UNION_LEARNING_RATE


def method_label(method: Method, learning_rate: float, without: str | None = None) -> str:
    """A Method in one word: apl, apl-nogate, lora-alpha4.

    What is not the default is in it, but for the setting `without`.
    """
    words = [method.name]
    if not method.gate:
        words.append("nogate")
    for name in HYPERPARAMETERS:
        value = getattr(method, name)
        if name != without and value != getattr(Method, name):
            words.append(f"{name.replace('_', '')}{value:g}")
    if without != "learning_rate" and learning_rate != default_learning_rate(method):
        words.append(f"lr{learning_rate:g}")
    return "-".join(words)
