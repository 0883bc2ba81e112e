"""The runs behind the live page: loaded once, asked one at a time, and what each does on its dev set.

Runs on one base share it where they can (tools/switchboard.py); the others are loaded one by one.
"""

import random
import statistics
import threading
from contextlib import contextmanager
from pathlib import Path

from minipelt.batches import encode
from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.experiment import choose_device, load_base, load_run
from minipelt.record import load_record
from minipelt.settings import PARTS, Run
from minipelt.tools import gateview
from minipelt.tools.owndata import reader
from minipelt.tools.predict import answer_of
from minipelt.tools.switchboard import Switchboard
from minipelt.unipelt import slots

MOST_ROWS = 500  # of a dev set
CHUNK = 16  # rows of a dev set between which somebody else may ask


class OpenRun:
    """One run of the page: its settings, its model, and what is known of its dev set so far."""

    def __init__(self, name, folder, run, model, tokenizer, board=None, number=None):
        self.name, self.run, self.model, self.tokenizer = name, run, model, tokenizer
        self.board, self.number = board, number  # the Switchboard whose base it shares, if it does
        self.base = None  # the encoder as it was, where the method changes it
        self.results = load_record(folder).get("results", {})
        self.dev = {"state": "waiting", "reason": "", "done": 0, "of": 0, "gates": {}, "examples": []}
        self.read_examples()
        with self.seated():
            self.parts = gateview.outline(model)
            prefix, prompt = model.bert.prefix, model.bert.prompt
            self.prefix_length = 0 if prefix is None else prefix.shape[2]
            self.prompt_length = 0 if prompt is None else len(prompt.vectors)
            self.changes_base = bool(gateview.changed_modules(model))

    def read_examples(self):
        """Read (up to 500 rows of) the dev set. Where it cannot be read, the page goes without, and says why."""
        self.examples = []
        try:
            found = reader(self.run)(self.run, "dev")
        except (InputError, OSError) as error:
            self.dev |= {"state": "failed", "reason": str(error)}
            return
        chosen = range(len(found))
        if len(found) > MOST_ROWS:
            chosen = sorted(random.Random(0).sample(chosen, MOST_ROWS))
        self.examples = [found[i] for i in chosen]
        self.dev["of"] = len(self.examples)

    @contextmanager
    def seated(self):
        """While open, the model holds the modules of this run, and those of the others on its board are away."""
        if self.board is None:
            yield
            return
        filled = [(module, slot, getattr(module, slot)) for _, module, slot in slots(self.board.bert)]
        switches = [(module, slot, switch) for module, slot, switch in filled if switch is not None]
        for module, slot, switch in switches:
            own = switch.modules_of_runs[str(self.number)] if self.number in switch.filled else None
            setattr(module, slot, own)
        try:
            yield
        finally:
            for module, slot, switch in switches:
                setattr(module, slot, switch)

    def about(self):
        """What the page needs to draw the run, whatever the text."""
        run, config = self.run, self.model.bert.config
        return {
            "name": self.name,
            "method": run.method.name,
            "trains": {part: PARTS[part].trains for part in run.method.parts},
            "gated": run.method.gated,
            "task": run.task,
            "columns": list(run.spec.columns),
            "labels": list(run.spec.label_names),
            "base": Path(run.model).name,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "prefix": self.prefix_length,
            "prompt": self.prompt_length,
            "max_length": run.max_length,
            "scores": self.results.get("test", {}),
            "parts": self.parts,
            "start": self.start(),
        }

    def start(self):
        """The text that the page shows first: the first row of the dev set."""
        if not self.examples:
            return {"texts": [""] * len(self.run.spec.columns), "label": None}
        example = self.examples[0]
        return {"texts": texts_of(example), "label": label_of(self.run.spec, example)}


class LiveRuns:
    """All runs of a page. Raises InputError for a folder that holds no trained run, or for one named twice."""

    def __init__(self, folders, device="auto"):
        self.lock = threading.RLock()  # around the models: gates are forced and slots emptied in place
        self.stopped = threading.Event()
        self.device = choose_device(device)
        self.runs = {}  # {name: OpenRun}, in the order given
        names = names_of(folders)
        opened = self.on_shared_bases(folders, names)
        for folder, name in zip(folders, names, strict=True):
            if name not in opened:
                run, _, model, tokenizer = load_run(folder, device=str(self.device))
                opened[name] = OpenRun(name, folder, run, model, tokenizer)
            self.runs[name] = opened[name]
        bases = {}
        for each in self.runs.values():
            if each.changes_base:
                each.base = self.base_of(each, bases)

    def on_shared_bases(self, folders, names):
        """{name: OpenRun} of the runs that can share their base with another one."""
        groups = {}
        for folder, name in zip(folders, names, strict=True):
            run = Run.load(folder)
            if not run.method.trains_base and run.precision == "float32":
                groups.setdefault(run.model, []).append((folder, name))
        opened = {}
        for group in groups.values():
            if len(group) == 1:
                continue
            try:
                board = Switchboard([folder for folder, _ in group], str(self.device))
            except InputError:
                continue  # they are loaded one by one, and what is wrong is said there
            for number, (folder, name) in enumerate(group):
                model = model_on(board, number)
                opened[name] = OpenRun(name, folder, board.runs[number], model, board.tokenizer, board, number)
        return opened

    def base_of(self, opened, bases):
        """The encoder as it was before a run changed it. bases: those that are loaded already, by name."""
        name = opened.run.model
        if name not in bases:
            bases[name] = load_base(name, self.device)[0]
        base = bases[name]
        if base.pooler_is_new:  # then plain BERT has none, and the run's own stands for it
            base = load_base(name, self.device)[0]
            base.pooler = opened.model.bert.pooler
        return base

    def find(self, name):
        """The OpenRun of a name. Raises InputError for an unknown one."""
        if not isinstance(name, str) or name not in self.runs:
            raise InputError(f"unknown run {str(name)[:100]!r}; expected one of {', '.join(self.runs)}")
        return self.runs[name]

    @contextmanager
    def use(self, name):
        """The OpenRun of a name, while nobody else uses a model."""
        opened = self.find(name)
        with self.lock, opened.seated():
            yield opened

    def look(self, name, texts, forced=None, removed=(), attention=None):
        """`gateview.look` at one run."""
        with self.use(name) as opened:
            return gateview.look(
                opened.model, opened.tokenizer, opened.run, texts, forced, removed, attention, opened.base
            )

    def prefix_states(self, name, texts):
        """`gateview.prefix_states` of one run."""
        with self.use(name) as opened:
            return gateview.prefix_states(opened.model, opened.tokenizer, opened.run, texts, opened.base)

    # ---- the dev sets

    def survey(self):
        """Fill in `dev` of every run, little by little, so that the page can ask meanwhile. `stop` ends it."""
        for name, opened in self.runs.items():
            try:
                self.survey_run(name)
            except Exception as error:  # a dev set that makes trouble is no reason to have no page
                opened.dev |= {"state": "failed", "reason": str(error) or type(error).__name__}

    def stop(self):
        """End `survey` soon."""
        self.stopped.set()

    def survey_run(self, name):
        """Gates and answers of one run on (up to 500 rows of) its dev set."""
        opened = self.runs[name]
        examples = opened.examples
        if opened.dev["state"] in ("done", "failed"):
            return
        opened.dev["state"] = "running"
        logits, gates = [], {}
        for start in range(0, len(examples), CHUNK):
            if self.stopped.is_set():
                return
            with self.use(name):
                rows = encode(examples[start : start + CHUNK], opened.tokenizer, opened.run.max_length)
                chunk, values = gateview.survey(opened.model, rows)
            logits.extend(chunk)
            for gate, found in values.items():
                gates.setdefault(gate, []).extend(found.tolist())
            opened.dev["done"] = len(logits)
        shown = answered(opened.run.spec, examples, logits)
        spread = {gate: spread_of(values) for gate, values in gates.items()}
        opened.dev |= {"state": "done", "gates": spread, "examples": shown}

    # ---- a page to keep

    def keep(self, names, examples):
        """What a saved page needs: the runs, and for every example and state what it would have asked for.

        names: of the runs. examples: [{"texts": [...], "label": of the dev set, or None}]. Raises InputError for an
        unknown run, or for none, before any work is done.
        """
        if not names:
            raise InputError("no run to keep; expected at least one")
        kept = []
        for opened in [self.find(name) for name in names]:
            self.survey_run(opened.name)
            states = states_to_keep(opened.parts)
            looks = []
            for example in examples:
                views = []
                for forced, removed, with_attention in states:
                    attention = "all" if with_attention else None
                    view = self.look(opened.name, example["texts"], forced, removed, attention)
                    view.pop("trained", None)  # it stands among the states anyway
                    views.append({"forced": forced, "removed": removed, "view": view})
                looks.append({"views": views, "prefix": self.prefix_states(opened.name, example["texts"])})
            kept.append({"about": opened.about(), "dev": opened.dev, "looks": looks})
        return {"runs": kept, "examples": examples}


def names_of(folders):
    """What runs are called: their folders' names or, if two are alike, their paths.

    Raises InputError for the same path twice.
    """
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is named twice; expected different runs")
    return names


def model_on(board, number):
    """A BertClassifier around a Switchboard's base, with the head of one of its runs."""
    run = board.runs[number]
    model = BertClassifier(board.bert, run.spec.num_outputs)
    model.classifier = board.heads[number]
    if "side" in run.method.parts:
        model.side = board.sides[number]
    model.method = run.method
    return model.eval()


def spread_of(values):
    """Numbers -> their mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 5), "deviation": round(deviation, 5)}


def texts_of(example):
    """The one or two texts of an Example."""
    return [text for text in (example.text, example.text_b) if text is not None]


def label_of(task, example):
    """The label of an Example as people say it: a class's name, or a score."""
    return task.label_names[example.label] if task.labels else example.label


def answered(task, examples, logits):
    """Examples and their logits -> what the page lists: texts, label, answer, and whether that is right.

    A score counts as right if it is among the half that comes nearest to its label.
    """
    shown = []
    for example, row in zip(examples, logits, strict=True):
        answer = answer_of(task, row)
        entry = {"texts": texts_of(example), "answer": answer.get("label", answer.get("score"))}
        entry["label"] = label_of(task, example)
        entry["right"] = entry["label"] == entry["answer"]
        shown.append(entry)
    if not task.labels:
        errors = [abs(entry["answer"] - entry["label"]) for entry in shown]
        middle = statistics.median(errors)
        for entry, error in zip(shown, errors, strict=True):
            entry["right"] = error <= middle
    return shown


def states_to_keep(parts):
    """What a saved page can turn: a list of (forced gates by name, parts taken out, whether with all attention).

    As trained; every gate shut, and open; every submodule, every layer and all gates shut, half open, and open; every
    part and every submodule taken out; all gates shut with the prefix taken out.
    """
    gates = [part for part in parts if part["kind"] == "gated"]
    removable = [part for part in parts if part["kind"] != "changed"]
    groups = [[part] for part in gates]
    for key in ("layer", "submodule"):
        for value in dict.fromkeys(part[key] for part in gates):
            groups.append([part for part in gates if part[key] == value])
    groups.append(gates)
    states = [({}, [], True)]
    for group in groups:
        for value in (0, 1) if len(group) == 1 else (0, 0.5, 1):
            forced = {f"{part['name']}.gate": value for part in group}
            is_muted_prefix = value == 0 and {part["place"] for part in group} == {"attention.self.prefix"}
            if forced:
                states.append((forced, [], is_muted_prefix))
    taken = [[part["name"]] for part in removable]
    for submodule in dict.fromkeys(part["submodule"] for part in removable):
        taken.append([part["name"] for part in removable if part["submodule"] == submodule])
    for names in taken:
        states.append(({}, names, "prefix" in names[0] and len(names) > 1))
    prefixes = [part["name"] for part in gates if part["submodule"] == "prefix"]
    if prefixes:
        others = {f"{part['name']}.gate": 0 for part in gates if part["submodule"] != "prefix"}
        states.append((others, prefixes, False))
    unique = {}
    for forced, removed, with_attention in states:
        key = (tuple(sorted(forced.items())), tuple(sorted(removed)))
        unique.setdefault(key, (forced, removed, with_attention))
    return list(unique.values())
