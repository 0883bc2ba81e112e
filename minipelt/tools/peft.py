"""The folder format of Hugging Face's PEFT, for LoRA and prefix-tuning: from a run to such a folder, and back.

    adapter_config.json          method, sizes, and the name of the base
    adapter_model.safetensors    what trained
    minipelt.json                ours, which PEFT passes over: what the head is for (task, classes, columns)

LoRA's formula is the same in both packages, so it is a matter of names; a prefix is a matter of axes as well.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from minipelt.checkpoint import check_tensors, load_tensors
from minipelt.config import read_config
from minipelt.errors import InputError, short
from minipelt.files import load_json
from minipelt.settings import (
    DEFAULT_MODEL,
    Data,
    Method,
    Recipe,
    Run,
    as_settings,
    default_learning_rate,
    full_path,
)
from minipelt.weights import find

HUB_DEFAULT = f"sentence-transformers/{DEFAULT_MODEL}"  # what the default weights are called on the Hub
LORA = "base_model.model.bert.encoder.layer.{layer}.attention.self.{which}.lora_{matrix}.weight"
HEADS = {"lora": "base_model.model.", "prefix": "base_model."}  # what PEFT writes before classifier.weight, by method
COLUMNS = ("text", "text_b", "label", "regression", "labels")  # of settings.Data, as minipelt.json has them

# Settings of PEFT that change what is computed, with the values that stand for what is computed here.
SUPPORTED = {
    "task_type": ("SEQ_CLS", None),
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "init_lora_weights": (True, False, "gaussian", None),
    "prefix_projection": (False, None),
    "num_transformer_submodules": (1, None),
}


# ---- to PEFT


def tensor_names(kind, num_layers):
    """{PEFT's name: ours} of the tensors of a `lora` or `prefix` run."""
    names = {HEADS[kind] + name: name for name in ("classifier.weight", "classifier.bias")}
    if kind == "prefix":
        names["prompt_embeddings"] = "bert.prefix.table"
        return names
    for layer in range(num_layers):
        for which in ("query", "value"):
            for matrix in "AB":
                theirs = LORA.format(layer=layer, which=which, matrix=matrix)
                names[theirs] = f"bert.encoder.layer.{layer}.attention.self.lora_{which}.{matrix}.weight"
    return names


def to_peft(run, tensors, config):
    """A run, its trained tensors and its base's BertConfig -> adapter_config.json, adapter_model.safetensors.

    Raises InputError for a run that PEFT has no form for.
    """
    method, N, D = run.method, config.num_hidden_layers, config.hidden_size
    if method.name not in HEADS:
        raise InputError(f"this run is of method {method.name}; PEFT's format is written for {' and '.join(HEADS)}")
    if any(".pooler." in name for name in tensors):
        raise InputError("this run trained a new pooler; PEFT's format is written for a base that has one of its own")
    base, _, revision = (HUB_DEFAULT if run.model == DEFAULT_MODEL else run.model).partition("@")
    settings = {
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "revision": revision or None,
        "inference_mode": True,
        "modules_to_save": ["classifier", "score"],
    }
    theirs = {name: tensors[ours] for name, ours in tensor_names(method.name, N).items()}
    if method.name == "lora":
        settings |= {
            "peft_type": "LORA",
            "r": method.rank,
            "lora_alpha": method.alpha,
            "lora_dropout": 0.0,
            "target_modules": ["query", "value"],
            "bias": "none",
        }
        return settings, theirs

    P = method.prefix_length
    table = theirs["prompt_embeddings"].permute(2, 0, 1, 3)  # (N, 2, P, D) -> (P, N, 2, D)
    theirs["prompt_embeddings"] = table.reshape(P, N * 2 * D).contiguous()
    settings |= {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": P,
        "token_dim": D,
        "num_layers": N,
        "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": D,
        "prefix_projection": False,
    }
    return settings, theirs


def describe_head(run):
    """What minipelt.json holds: the task, and for own data its columns and classes."""
    data = asdict(run.data) if run.data else None
    return {
        "task": run.task,
        "max_length": run.max_length,
        "data": data and {name: data[name] for name in COLUMNS},
    }


# ---- from PEFT


def from_peft(folder, task=None, data=None, model=None, glue="glue"):
    """A PEFT folder -> (Run, trained tensors by our names).

    task: a GLUE task or, with `data` (a settings.Data with columns and labels), a name; without either, minipelt.json
    tells what the head is for. model: the base (default: the one that the folder names); glue: the folder of GLUE's
    TSVs. Raises InputError for a folder that is damaged, or asks for what is not computed here.
    """
    folder = Path(folder)
    place = folder / "adapter_config.json"
    settings = load_json(place)
    if not isinstance(settings, dict):
        raise InputError(f"{place}: expected a JSON object, such as PEFT writes")
    check_supported(settings, place)
    method = read_method(settings, place)
    base = full_path(model or read_base(settings, place))
    config = read_config(find(base) / "config.json")
    max_length = min(128, config.max_position_embeddings)
    if task is None and data is None:
        task, data, max_length = read_head(folder)
    recipe = Recipe(default_learning_rate(method))
    glue = "" if data else full_path(glue)
    run = Run(task or folder.resolve().name, method, recipe, base, glue, max_length=max_length, data=data)
    return run, read_tensors(folder / "adapter_model.safetensors", run, config)


def check_supported(settings, place):
    """Raise InputError if a setting changes the formula into one that is not computed here."""
    for name, values in SUPPORTED.items():
        if name not in settings:
            continue
        found = settings[name]
        if not any(found == value and type(found) is type(value) for value in values):  # in Python, 1 is True
            raise InputError(f"{place}: {name} is {short(found)}; expected {values[0]!r}")


def read_method(settings, place):
    """The Method that adapter_config.json describes. Raises InputError for another one, and for sizes that are none."""
    peft_type = settings.get("peft_type")
    if peft_type == "LORA":
        targets = settings.get("target_modules")
        names = sorted(map(str, targets)) if isinstance(targets, list) else []
        if names != ["query", "value"]:
            raise InputError(f"{place}: target_modules is {short(targets)}; expected query and value")
        sizes = {"rank": "r", "alpha": "lora_alpha"}
    elif peft_type == "PREFIX_TUNING":
        sizes = {"prefix_length": "num_virtual_tokens"}
    else:
        raise InputError(f"{place}: peft_type is {short(peft_type)}; expected LORA or PREFIX_TUNING")
    for theirs in sizes.values():
        if theirs not in settings:
            raise InputError(f"{place}: no {theirs}; expected what PEFT writes for {peft_type}")
    name = {"LORA": "lora", "PREFIX_TUNING": "prefix"}[peft_type]
    try:
        return Method(name, **{ours: settings[theirs] for ours, theirs in sizes.items()})
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def read_base(settings, place):
    """The name of the base, as `weights.find` takes it."""
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if base in (None, ""):
        raise InputError(f"{place}: it names no base; expected --model")
    for name, value in (("base_model_name_or_path", base), ("revision", revision)):
        if not isinstance(value, str | None) or "\0" in (value or ""):
            raise InputError(f"{place}: {name} is {short(value)}; expected a name")
    if base == HUB_DEFAULT:
        return DEFAULT_MODEL
    return f"{base}@{revision}" if revision else base


def read_head(folder):
    """(task, Data or None, max_length) from a folder's minipelt.json. Raises InputError if it is missing or odd."""
    place = folder / "minipelt.json"
    if not place.is_file():
        raise InputError(f"{folder}: it does not tell what its head is for; expected --task or --labels")
    values = load_json(place)
    try:
        task, max_length, data = values["task"], values["max_length"], values["data"]
        if data is not None:
            absent = [name for name in COLUMNS if name not in data]
            if absent:
                raise KeyError(absent[0])
            data = Data(**as_settings(Data, data) | {"train": str(folder), "dev": str(folder)})
            if not data.labels and not data.regression:
                raise InputError("no labels")
        Run(task, Method("lora"), Recipe(1e-3), max_length=max_length, data=data)
    except (InputError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{place}: not what minipelt writes beside a PEFT folder: {reason}") from None
    return task, data, max_length


def read_tensors(path, run, config):
    """The tensors of an adapter_model.safetensors by our names, in float32. Raises InputError where they do not fit."""
    found, _ = load_tensors(path)
    found = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
    head = found.get(HEADS[run.method.name] + "classifier.bias")
    if head is not None and len(head.shape) == 1 and len(head) != run.spec.num_outputs:
        wanted = f"{run.spec.num_outputs}, as task {run.task} has it"
        raise InputError(f"{path}: the head has {len(head)} outputs; expected {wanted}")
    try:
        check_tensors(found, expected_tensors(run, config), path)
    except InputError as error:
        raise InputError(f"{error} (for the base {run.model})") from None
    names = tensor_names(run.method.name, config.num_hidden_layers)
    tensors = {ours: found[theirs] for theirs, ours in names.items()}
    if run.method.name == "prefix":
        N, D, P = config.num_hidden_layers, config.hidden_size, run.method.prefix_length
        table = tensors["bert.prefix.table"].view(P, N, 2, D).permute(1, 2, 0, 3)  # (P, 2 N D) -> (N, 2, P, D)
        tensors["bert.prefix.table"] = table.contiguous()
    return tensors


def expected_tensors(run, config):
    """{PEFT's name: tensor without numbers} of a `lora` or `prefix` run on a base with this BertConfig."""
    method, N, D, C = run.method, config.num_hidden_layers, config.hidden_size, run.spec.num_outputs
    by_end = {
        "classifier.weight": (C, D),
        "classifier.bias": (C,),
        "prompt_embeddings": (method.prefix_length, 2 * N * D),
        "lora_A.weight": (method.rank, D),
        "lora_B.weight": (D, method.rank),
    }
    tensors = {}
    for name in tensor_names(method.name, N):
        for end, shape in by_end.items():
            if name.endswith(end):
                tensors[name] = torch.empty(shape, device="meta")
    return tensors
