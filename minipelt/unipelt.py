"""UniPELT (Mao et al. 2022): put methods, and the gates that unite them, into a BERT classifier.

    model = attach(BertClassifier(bert, num_outputs=2), Method("apl"))

The base stays frozen but for what a method lets train; the head always trains. As soon as two parts meet that can
have a gate, each gets one. This file knows no method by name: a method is a file of methods/ and a row of
settings.PARTS.
"""

from collections import Counter
from importlib import import_module

from torch.nn.utils import parametrize

from minipelt.errors import InputError
from minipelt.gate import Gate
from minipelt.settings import PARTS


def attach(model, method):
    """Put a `settings.Method` into a BertClassifier, in place, and mark which of its parameters train.

    Returns the model.

    The new modules are made on the model's device, initialised as their files say. Raises InputError if the model has
    a method already, if the encoder is too small for it, if two parts want one slot, or if a parameter would train
    that no part owns, or that another part rewrites.
    """
    filled = any(getattr(module, slot) for _, module, slot in slots(model))
    rewritten = any(parametrize.is_parametrized(module) for module in model.modules())
    if model.method is not None or filled or rewritten:
        raise InputError("the model has a method already; expected one with empty slots, such as `detach` leaves")
    bert = model.bert
    bert.requires_grad_(False)
    model.classifier.requires_grad_(True)
    if bert.pooler_is_new:
        for name, parameter in bert.pooler.named_parameters():
            parameter.requires_grad_(True)
            model.base_parts[f"bert.pooler.{name}"] = "head"
    files = [import_module(f"minipelt.methods.{part}") for part in method.parts]

    def gate():
        return Gate(bert.config.hidden_size) if method.gated else None

    taken = {}
    with bert.pooler.dense.weight.device:
        for file in files:
            if hasattr(file, "attach"):
                file.attach(model, method, gate)
                check_taken(model, taken)
        for layer in bert.encoder.layer:  # layer by layer, as the paper draws it
            for file in files:
                if hasattr(file, "attach_layer"):
                    file.attach_layer(layer, method, gate)
                    check_taken(model, taken)
    model.method = method
    check_owned(model)
    return model


def check_taken(model, taken):
    """Raise InputError if a part has put its module where another part's stood.

    taken: {slot: its module} as it was when the last part had been attached; brought up to date.
    """
    for place, module, slot in slots(model):
        filled, name = getattr(module, slot), f"{place}.{slot}".lstrip(".")
        if filled is None:
            continue
        first = taken.setdefault(name, filled)
        if first is not filled:
            one, other = (getattr(each, "part", "a module without a part") for each in (first, filled))
            raise InputError(f"{one} and {other} both fill the slot {name}; expected one module in a slot")


def check_owned(model):
    """Raise InputError if a parameter trains, or a module sits in a slot, that no part of the table owns.

    `extra_loss` may hold a module without a part: it adds nothing to what the model computes.
    """
    for place, module, slot in slots(model):
        filled = getattr(module, slot)
        if filled and slot != "extra_loss" and getattr(filled, "part", None) not in PARTS:
            name = f"{place}.{slot}".lstrip(".")
            raise InputError(f"no part owns the module in {name}; expected `part`, a name of the table, in its class")
    part_of = owners(model)
    for name in trained_parameters(model):
        if name.endswith(".original"):  # torch's name of a matrix that a parametrization rewrites
            name = name.replace("parametrizations.weight.original", "weight")
            raise InputError(f"one part trains {name}, and another rewrites it; expected one of the two alone")
        if model.base_parts.get(name, part_of.get(name)) not in (*PARTS, "gates"):
            raise InputError(f"{name} trains and no part owns it; expected `part` in its module's class, or `unfreeze`")


def slots(model):
    """Every slot of a BertClassifier or BertModel: ("bert.encoder.layer.0", BertLayer, "adapter") and so on."""
    for place, module in list(model.named_modules()):
        for slot in getattr(module, "slots", ()):
            yield place, module, slot


def detach(model):
    """Take the method out again: slots empty, matrices as they were, everything frozen. Returns the model: plain BERT.

    model: a BertClassifier or a BertModel. What trained inside the pretrained encoder itself keeps its new values.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    for _, module, slot in list(slots(model)):
        delattr(module, slot)  # forgotten as a submodule, so that the next method's modules come in their own order
        setattr(module, slot, None)
    if hasattr(model, "method"):
        model.method = None
        model.base_parts.clear()
    return model.requires_grad_(False)


def trained_parameters(model):
    """{name: parameter} of all that trains: what an optimiser gets."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def owners(model):
    """{parameter name: part} of every parameter.

    A module owns what is inside it, but for modules in there with a part of their own.
    """
    found = {}
    for place, module in model.named_modules():  # from the outside in: the innermost has the last word
        part = getattr(module, "part", None)
        if part:
            for name, _ in module.named_parameters(prefix=place):
                found[name] = part
    return found


def count_parameters(model):
    """Parameters by part: {part: count}; parts that the method lacks are left out.

    Every part is kept after training, but for those called `... network` (of prefix and diff), which only training
    needs, and for `base`, the size of the encoder as it was. A parameter of the base that trains counts twice: in
    `base` and in the part that lets it train.
    """
    part_of = owners(model)
    in_networks = set()
    counts = Counter()
    for module in model.modules():
        parameters = list(module.parameters())
        if hasattr(module, "saved_state") and sum(p.numel() for p in parameters) != module.num_saved:
            in_networks.update(id(parameter) for parameter in parameters)
            counts[module.part] += module.num_saved
    for name, parameter in model.named_parameters():
        part = part_of[name]
        if id(parameter) in in_networks:
            part += " network"
        counts[part] += parameter.numel()
        if name in model.base_parts:
            counts[model.base_parts[name]] += parameter.numel()
    ends = ("ft", "head", "base")
    names = [*(part for part in PARTS if part not in ends), "gates", *ends]
    ordered = [name for part in names for name in (part, f"{part} network")]
    return {name: counts[name] for name in ordered if counts[name]}


def kept_parameters(counts):
    """How many trained parameters a run keeps, the head's left out, as the paper counts them.

    counts: as from `count_parameters`.
    """
    not_kept = [part for part in counts if part in ("base", "head") or part.endswith(" network")]
    return sum(count for part, count in counts.items() if part not in not_kept)
