"""A run on disk: the trained tensors alone, and what it takes to go on training.

    trained.safetensors   what trained, at its best epoch: kilobytes for a PELT method. It loads onto the base that run.json names
    run.json              every setting of the run and, once it has ended, its results
    metrics.jsonl         one line an epoch
    resume.safetensors    while the run lasts: the trained tensors of the last epoch with the optimiser's moments

The log grows by a line at a time; every other file is written beside its place and moved there when whole, so that a run that is
killed leaves the older file.
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from minipelt import InputError
from minipelt.unipelt import trained_parameters


def shrinking(model):
    """{name: module} of the modules that are saved as something smaller than their parameters (prefix.py, diff.py)."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "remains")}


def trained_tensors(model):
    """{name: tensor} of what training leaves behind: what trained, or what remains of it."""
    tensors = {name: p.detach() for name, p in plainly_trained(model).items()}
    for place, module in shrinking(model).items():
        tensors |= {f"{place}.{name}": tensor for name, tensor in module.remains().items()}
    return tensors


def plainly_trained(model):
    """{name: parameter} of what trains and is saved as it is."""
    places = tuple(f"{place}." for place in shrinking(model))
    return {name: p for name, p in trained_parameters(model).items() if not name.startswith(places)}


def load_trained(model, path):
    """Load a trained.safetensors into a model whose method is attached.

    Raises InputError, with the model unchanged, if the file's tensors are not exactly the ones that this method trains.
    """
    tensors, _ = load_tensors(path)
    wanted = {name: tensor.shape for name, tensor in trained_tensors(model).items()}
    for name in wanted.keys() | tensors.keys():
        if name not in tensors: raise InputError(f"{path}: tensor {name} is missing")
        if name not in wanted: raise InputError(f"{path}: unexpected tensor {name}; the method does not train it")
        if tensors[name].shape != wanted[name]:
            raise InputError(f"{path}: tensor {name} has shape {tuple(tensors[name].shape)}; expected {tuple(wanted[name])}")
    device = model.classifier.weight.device
    with torch.no_grad():
        for name, parameter in plainly_trained(model).items(): parameter.copy_(tensors[name])
    for place, module in shrinking(model).items():
        module.become({name: tensors[f"{place}.{name}"].to(device) for name in module.remains()})


def save_tensors(tensors, path, metadata=None):
    """Write {name: tensor} and {name: string} as a safetensors file, whole or not at all."""
    part = Path(f"{path}.part")
    part.write_bytes(save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, metadata))
    os.replace(part, path)


def load_tensors(path):
    """A safetensors file -> ({name: tensor}, {name: string}). Raises InputError if it is absent or not whole."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


def save_json(value, path):
    """Write JSON, whole or not at all."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def load_json(path):
    """Read JSON. Raises InputError if the file is absent or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; expected a run folder, such as train.py leaves in runs/") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
