"""Is it the same run? Its record, and what must not differ when it is loaded or goes on: base, rows, settings.

    record = describe_run(prepared)                  run.json, as far as it is known before the training
    check_same(record, folder)                       a run that goes on began with these settings, base and rows
    check_base(model.bert.fingerprint, record, folder)
"""

import functools
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch
from torch import distributed

import minipelt
from minipelt import fingerprint
from minipelt.checkpoint import load_settings
from minipelt.errors import InputError
from minipelt.record import load_record
from minipelt.settings import Run
from minipelt.unipelt import count_parameters


def describe_run(prepared):
    """A run's record as far as it is known before it trains: settings, rows, parameters, and where it ran."""
    run, model, rows = prepared
    return {
        "run": asdict(run),
        "rows": {name: len(split) for name, split in rows.items()},
        "parameters": count_parameters(model),
        "fingerprints": {
            "base": model.bert.fingerprint,
            **{name: fingerprint.of_rows(split) for name, split in rows.items()},
        },
        "device": model.classifier.weight.device.type,
        "threads": torch.get_num_threads(),
        "processes": distributed.get_world_size() if distributed.is_initialized() else 1,  # that share this run
        "versions": {
            "minipelt": minipelt.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": git_commit(),
    }


@functools.cache  # it is of the code that was imported, and a sweep has many runs
def git_commit():
    """The commit that this package runs from, with + behind it if files were changed since; None without a checkout."""
    root = Path(minipelt.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def check_base(found, record, folder):
    """Raise InputError if a base's fingerprint is not the one on record (older records have none)."""
    prints = record.get("fingerprints")
    recorded = prints.get("base") if isinstance(prints, dict) else None
    if recorded and found and found != recorded:
        raise InputError(
            f"{folder}: was trained on another base or vocabulary than {record['run'].get('model', 'its base')} is now "
            f"(fingerprint {recorded}, found {found}); expected the same files"
        )


def told_with_tensors(settings):
    """The settings that an answer depends on and no tensor tells: LoRA's alpha, which columns hold the texts.

    settings: those of a run as JSON has them. Where its files lie is left out: they may move.
    """
    told = {name: settings.get(name) for name in ("task", "method", "max_length", "precision", "data")}
    if isinstance(told["data"], dict):
        files = ("train", "dev", "test", "skip_bad_rows")
        told["data"] = {name: value for name, value in told["data"].items() if name not in files}
    return told


def check_as_trained(settings, folder):
    """Raise InputError if run.json has other settings than the trained tensors tell. Older ones tell nothing."""
    now = told_with_tensors(settings)
    for name, before in (load_settings(folder / "trained.safetensors") or {}).items():
        if now.get(name) != before:
            raise InputError(
                f"{folder}: {name} is {now.get(name)}; the run was trained with {before}: expected its own run.json"
            )


def check_same(record, folder):
    """Raise InputError if a run that is to go on has other settings, or another base or rows, than it began with."""
    recorded = load_record(folder)
    check_base(record["fingerprints"]["base"], recorded, folder)
    prints = recorded.get("fingerprints", {})  # older records lack some
    for split, words in (("train", "training"), ("validation", "validation"), ("test", "test")):
        if prints.get(split, record["fingerprints"][split]) != record["fingerprints"][split]:
            raise InputError(
                f"{folder}: the {words} rows are not those that the run began with; expected the same files"
            )
    began = load_settings(folder / "resume.safetensors") or record["run"]
    began = asdict(Run.from_dict(began, folder / "resume.safetensors"))  # with what is newer than the file
    for name in ("task", "method", "recipe", "k", "valid_rows", "max_length", "frozen_head", "zero_start", "precision"):
        if began[name] != record["run"][name]:
            raise InputError(
                f"{folder}: {name} is {record['run'][name]}; the run began with {began[name]} and cannot go on so"
            )
