"""What a method adds to a BERT, where, with shapes, parameters and equations (`python -m minipelt describe`).

It walks the modules of a model with the method in it, and reads from their classes which part they are
and what they compute.
"""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import torch

from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.commands import given
from minipelt.config import read_config
from minipelt.errors import InputError
from minipelt.experiment import parameter_table
from minipelt.settings import HYPERPARAMETERS, PARTS, Method
from minipelt.tools.train import check_effect
from minipelt.unipelt import attach, count_parameters, trained_parameters

WIDTH = 100  # of a line
CONFIGS = {  # models whose shape is known without their files
    "all-MiniLM-L6-v2": BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "bert-base-uncased": BertConfig(),
    "bert-large-uncased": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}


class Row(NamedTuple):
    """A tensor that trains, or that a run keeps of what trained."""

    name: str
    shape: tuple[int, ...]
    size: int
    part: str  # as `count_parameters` calls it


class Entry(NamedTuple):
    """A module, or what one part trains of the pretrained encoder, with its tensors."""

    place: str
    formula: str
    rows: tuple[Row, ...]


def describe_command(args):
    """Print the summary that the command line asks for. Raises InputError for a setting without effect."""
    method = Method(args.method, not args.no_gate, **given(args, HYPERPARAMETERS))
    check_effect(args, method)
    print(describe(method, args.model))


def describe(method, model_name="bert-base-uncased", num_outputs=2):
    """The summary of a Method on a model, as text. Raises InputError for a model that is not known."""
    config = config_of(model_name)
    with torch.device("meta"):  # shapes without numbers
        model = attach(BertClassifier(BertModel(config), num_outputs), method)
    sizes = f"N = {config.num_hidden_layers} layers, D = {config.hidden_size}, H = {config.num_attention_heads} heads"
    lines = [f"{method.name} on {model_name}: {sizes}", ""]
    for title, entries in by_layer(all_entries(model)):
        indent = "  " if title else ""
        if title:
            lines.append(title)
        for entry in entries:
            lines.extend(indent + line for line in entry_lines(entry, WIDTH - len(indent)))
    return "\n".join([*lines, "", parameter_table(count_parameters(model))])


def config_of(model):
    """The BertConfig of a known name, or of a folder with a config.json."""
    if model in CONFIGS:
        return CONFIGS[model]
    if (Path(model) / "config.json").is_file():
        return read_config(Path(model) / "config.json")
    raise InputError(f"unknown model {model!r}: expected a folder with config.json, or one of {', '.join(CONFIGS)}")


# ---- what trains


def all_entries(model):
    """The Entries of a model with a method in it, in the order of its modules."""
    places = [place for place, module in model.named_modules() if hasattr(module, "part")]
    trained = {place: {} for place in places}  # {place: {name: parameter}}
    for name, parameter in trained_parameters(model).items():
        home = max((place for place in places if name.startswith(f"{place}.")), key=len)  # the innermost
        trained[home][name.removeprefix(f"{home}.")] = parameter
    entries = []
    for place in places:
        module = model.get_submodule(place)
        if module is model.bert:
            entries.extend(base_entries(model, trained[place]))
            continue
        rows = module_rows(module, trained[place])
        formula = formula_of(module)
        if rows or formula:
            entries.append(Entry(place, formula, rows))
    return entries


def base_entries(model, trained):
    """What trains of the pretrained encoder: an Entry for every part in the encoder itself and in each layer."""
    found = {}
    for name, parameter in trained.items():
        part = model.base_parts[f"bert.{name}"]
        layer = re.match(r"encoder\.layer\.\d+", name)
        place = f"bert.{layer[0]}" if layer else "bert"
        row = Row(name.removeprefix(place.removeprefix("bert.") + "."), tuple(parameter.shape), parameter.numel(), part)
        found.setdefault((place, part), []).append(row)
    return [Entry(place, PARTS[part].trains, tuple(rows)) for (place, part), rows in found.items()]


def module_rows(module, trained):
    """The Rows of a module: what trains and, where a run keeps something else, that too."""
    saves_otherwise = hasattr(module, "saved_state")
    part = f"{module.part} network" if saves_otherwise else module.part
    rows = [Row(name, tuple(p.shape), p.numel(), part) for name, p in trained.items()]
    if saves_otherwise:
        for name, tensor in module.saved_state().items():
            if tensor.is_floating_point():  # other tensors say where the numbers belong
                rows.append(Row(f"kept: {name}", tuple(tensor.shape), tensor.numel(), module.part))
    return tuple(rows)


def formula_of(module):
    """A module's equation, with its gate where it has one."""
    gate = "g * " if getattr(module, "gate", None) else ""
    return getattr(module, "equation", "").replace("{g}", gate)


# ---- how it is shown


def by_layer(entries):
    """Entries -> [(title, Entries)]: layers that are alike go together, under a title; the rest has none."""
    layers = {}  # {number: its Entries, with their places inside the layer}
    groups = []
    for entry in entries:
        found = re.match(r"bert\.encoder\.layer\.(\d+)\.?(.*)", entry.place)
        if found is None:
            groups.append(("", [entry]))
            continue
        if not layers:
            groups.append(("layers", layers))
        layers.setdefault(int(found[1]), []).append(entry._replace(place=found[2]))
    shown = []
    for title, group in groups:
        if title == "layers":
            shown.extend(alike(layers))
        else:
            shown.append((title, group))
    return shown


def alike(layers):
    """{layer: Entries} -> [(title, Entries)], neighbours with the same Entries in one."""
    runs = []  # [first layer, last layer, Entries]
    for number, entries in sorted(layers.items()):
        if runs and runs[-1][2] == entries:
            runs[-1][1] = number
        else:
            runs.append([number, number, entries])
    titles = []
    for first, last, entries in runs:
        which = f"{first}, with" if first == last else f"{first} ... {last}, each with"
        titles.append((f"bert.encoder.layer.{which}", entries))
    return titles


def entry_lines(entry, width):
    """The lines of an Entry: its place and its formula, in one line if it fits, and a line for each tensor."""
    title = f"{entry.place:<33} {entry.formula}" if entry.place else entry.formula
    lines = [title.rstrip()]
    if len(title) > width:
        lines = [entry.place]
        for clause in entry.formula.split("; "):
            lines.extend(textwrap.wrap(clause, width - 6, initial_indent="    ", subsequent_indent="      "))
    for row in entry.rows:
        shape = f"({', '.join(map(str, row.shape))})"
        lines.append(f"    {row.name:<40} {shape:<16} {row.size:>13,}  {row.part}")
    return lines
