"""A run on disk: what training leaves behind, and what it takes to go on training.

    trained.safetensors   what trained, at its best epoch: kilobytes for a PELT method. It loads onto run.json's base,
                          and tells the settings that an answer depends on, which run.json must have
    run.json              every setting of the run and, once it has ended, its results
    metrics.jsonl         one line an epoch
    resume.safetensors    while the run lasts: the trained tensors of the last epoch with the optimiser's moments

The log grows by a line at a time; every other file is written beside its place and moved there when whole, so that a
run that is killed leaves the older file.
"""

import json
from contextlib import contextmanager

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from minipelt.errors import InputError
from minipelt.files import write_bytes
from minipelt.record import check_reports
from minipelt.unipelt import trained_parameters

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


# ---- what training leaves behind


def saved_otherwise(model):
    """{place: module} of the modules that are saved as something other than their parameters (prefix.py, diff.py)."""
    return {place: module for place, module in model.named_modules() if hasattr(module, "saved_state")}


def saved_as_is(model):
    """{name: parameter} of what is saved as it is: all that trains, and the head, which trains or not."""
    places = tuple(f"{place}." for place in saved_otherwise(model))
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if (parameter.requires_grad or name.startswith("classifier.")) and not name.startswith(places)
    }


def trained_tensors(model):
    """{name: tensor} of what a run keeps."""
    tensors = {name: parameter.detach() for name, parameter in saved_as_is(model).items()}
    for place, module in saved_otherwise(model).items():
        for name, tensor in module.saved_state().items():
            tensors[f"{place}.{name}"] = tensor
    return tensors


def load_trained(model, path):
    """Load a trained.safetensors into a model whose method is attached.

    Raises InputError, with the model unchanged, if the file's tensors are not exactly the ones that this method
    keeps, or if one of them holds a number that is not finite.
    """
    tensors, _ = load_tensors(path)
    wanted = trained_tensors(model)
    check_tensors(tensors, wanted, path)
    device = model.classifier.weight.device
    states = {}  # all are checked before the first is loaded
    for place, module in saved_otherwise(model).items():
        names = [name for name in wanted if name.startswith(f"{place}.")]
        states[place] = {name.removeprefix(f"{place}."): tensors[name].to(device) for name in names}
        if hasattr(module, "check_saved_state"):
            try:
                module.check_saved_state(states[place])
            except IndexError as error:
                raise InputError(f"{path}: {place}: {error}") from None
    for place, module in saved_otherwise(model).items():
        module.load_saved_state(states[place])
    with torch.no_grad():
        for name, parameter in saved_as_is(model).items():
            parameter.copy_(tensors[name])


def check_tensors(tensors, wanted, path):
    """Raise InputError unless {name: tensor} has the names, shapes and kinds of number of `wanted`, all finite.

    `wanted` may be on the device `meta`, without numbers.
    """
    for name in wanted:
        if name not in tensors:
            raise InputError(f"{path}: tensor {name} is missing")
    for name, tensor in tensors.items():
        if name not in wanted:
            raise InputError(f"{path}: unexpected tensor {name}; the method does not train it")
        if tensor.shape != wanted[name].shape:
            expected = tuple(wanted[name].shape)
            raise InputError(f"{path}: tensor {name} has shape {tuple(tensor.shape)}; expected {expected}")
        if tensor.dtype != wanted[name].dtype:
            raise InputError(f"{path}: tensor {name} holds {tensor.dtype}; expected {wanted[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name} holds numbers that are not finite; the training has failed")


# ---- what it takes to go on


def save_training(path, model, optimizer, reports, settings=None):
    """Write all that a resumed run needs: the trained tensors with AdamW's two moments, and the reports so far.

    settings: those of the run, so that it can be seen whether it goes on as it began.
    """
    tensors = {}
    for name, parameter in trained_parameters(model).items():
        tensors[name] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{name}:{moment}"] = optimizer.state[parameter][moment]
    save_tensors(tensors, path, {"reports": json.dumps(reports), "settings": json.dumps(settings)})


def load_training(path, model, optimizer, steps):
    """Put a saved training back: parameters, moments, step counts. Returns the epoch reports so far.

    steps: of an epoch. Raises InputError, with nothing changed, if the file is not of this model and optimizer.
    """
    tensors, metadata = load_tensors(path)
    parameters = trained_parameters(model)
    wanted = {}
    for name, parameter in parameters.items():
        wanted[name] = parameter
        for moment in MOMENTS:
            wanted[f"{name}:{moment}"] = parameter
    try:
        check_tensors(tensors, wanted, path)
    except InputError as error:
        raise InputError(f"{error}; expected the base and method that the run began with") from None
    reports = read_reports(metadata.get("reports"), path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
            state = {moment: tensors[f"{name}:{moment}"].to(parameter.device).clone() for moment in MOMENTS}
            state["step"] = torch.tensor(float(steps * len(reports)), device=parameter.device)
            optimizer.state[parameter] = state
    return reports


def load_settings(path):
    """The settings of the run that wrote a file of tensors, or None if it names none. Raises InputError."""
    try:
        settings = json.loads(load_metadata(path).get("settings", "null"))
        if not isinstance(settings, dict | None):
            raise ValueError("expected an object")
        return settings
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no settings that can be read ({error}); expected those of its run") from None


def read_reports(text, path):
    """The epoch reports in a resume file, checked. Raises InputError."""
    try:
        reports = json.loads(text)
        check_reports(reports)
        if not reports:
            raise ValueError("expected at least one epoch")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: no epoch reports that can be read ({error}); the run cannot go on from it") from None
    return reports


# ---- files of tensors


def save_tensors(tensors, path, metadata=None):
    """Write {name: tensor} and {name: string} as a safetensors file, whole or not at all."""
    write_bytes(path, save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, metadata))


def load_tensors(path):
    """A safetensors file -> ({name: tensor}, {name: string}). Raises InputError if it is absent or not whole."""
    with reading(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def load_metadata(path):
    """The {name: string} of a safetensors file alone. Raises InputError as `load_tensors` does."""
    with reading(path) as file:
        return file.metadata() or {}


@contextmanager
def reading(path):
    """A safetensors file, open. Raises InputError if it is absent or not whole."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None
