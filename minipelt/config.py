"""config.json -> BertConfig: read, and refused in one sentence where it describes no BERT that bert.py can compute."""

from dataclasses import fields
from pathlib import Path

from minipelt.bert import BertConfig
from minipelt.errors import InputError
from minipelt.files import load_json

SUPPORTED = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
LARGEST = {"vocab_size": 10_000_000, "num_hidden_layers": 1_000, "hidden_size": 65_536, "intermediate_size": 262_144}


def read_config(path: str | Path) -> BertConfig:
    """Read a config.json. What it leaves out has BertConfig's default. Raises InputError."""
    raw = load_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a JSON object, such as every BERT's config.json")
    for name, supported in SUPPORTED.items():
        if raw.get(name, supported) != supported:
            raise InputError(f"{path}: {name} is {raw[name]!r}; only {supported!r} is supported")
    values = {}
    try:
        for each in fields(BertConfig):
            if each.name in raw:
                check_value(each.name, raw[each.name], each.type)
                values[each.name] = raw[each.name]
        return BertConfig(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check_value(name: str, value, kind: type) -> None:
    """Raise InputError unless a value of a BertConfig has its type and a size that a BERT can have."""
    if kind is str and isinstance(value, str):
        return
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is int and not (is_whole and 1 <= value <= LARGEST.get(name, 1_000_000)):
        limit = f" up to {LARGEST.get(name, 1_000_000):,}" if is_whole and value > 0 else ""
        raise InputError(f"{name} is {value!r}; expected a whole number above 0{limit}")
    if kind is float and not ((is_whole or isinstance(value, float)) and 0 <= value < 1):
        raise InputError(f"{name} is {value!r}; expected a number from 0 to 1, but not 1")
    if kind is str:
        raise InputError(f"{name} is {value!r}; expected a name")
