"""UniPELT (Mao et al. 2022): put methods, and the gates that unite them, into a BERT classifier. This file alone knows them all.

    name       letter  file          gate reads             acts on
    adapter    a       adapter.py    x = LayerNorm(f + a)   feed-forward output of every layer
    prefix     p       prefix.py     h, the layer's input   keys and values of every layer
    lora       l       lora.py       h (q and v apart)      queries and values of every layer
    bitfit     b       bitfit.py     --                     every bias of the encoder
    houlsby            adapter.py    o, and f               attention and feed-forward output of every layer; LayerNorms
    parallel           adapter.py    a                      feed-forward output of every layer
    ia3                ia3.py        --                     keys, values, feed-forward of every layer
    layernorm          bitfit.py     --                     every LayerNorm of the encoder
    top                              --                     the whole of the top n layers, and the pooler
    prompt             prompt.py     --                     the input
    diff               diff.py       --                     every matrix of every layer
    side               side.py       --                     the pooled output

Join letters (`apl`), or names and letters with a plus (`houlsby+p+l`). Gates are on as soon as two parts that can have one
meet. Two more methods stand alone: `ft` (fine-tuning: everything trains) and `head` (only the classifier trains). The base stays
frozen but for what the table says; the head always trains.
"""

from dataclasses import dataclass, fields, replace

from minipelt import InputError
from minipelt.adapter import Adapter, HoulsbyAdapter, ParallelAdapter
from minipelt.bitfit import biases, layer_norms
from minipelt.diff import Penalty, differentiate
from minipelt.gate import Gate
from minipelt.ia3 import IA3
from minipelt.lora import LoRA
from minipelt.prefix import Prefix, PrefixTable
from minipelt.prompt import Prompt
from minipelt.side import SideNetwork

LETTERS = {"a": "adapter", "p": "prefix", "l": "lora", "b": "bitfit"}
PARTS = (*LETTERS.values(), "houlsby", "parallel", "ia3", "layernorm", "top", "prompt", "diff", "side")
GATEABLE = {"adapter", "prefix", "lora", "houlsby", "parallel"}
TRAIN_BASE = {"ft", "bitfit", "houlsby", "layernorm", "top", "diff"}  # parts that change the pretrained encoder itself
USERS = {  # hyperparameter: the parts that have a use for it
    "bottleneck": {"adapter", "houlsby", "parallel", "side"}, "prefix_length": {"prefix", "prompt"}, "prefix_hidden": {"prefix"},
    "rank": {"lora"}, "alpha": {"lora"}, "top_layers": {"top"}, "share": {"diff"},
}
HYPERPARAMETERS = ("bottleneck", "prefix_length", "rank", "alpha", "top_layers", "share")  # as the command line offers them


@dataclass(frozen=True)
class Method:
    """A method with its hyperparameters; the defaults are UniPELT's."""

    name: str  # ft, head, a name of the table, letters (ap, plb, apl ...), or names and letters with a plus
    gate: bool = True  # False: UniPELT's NoGate ablation. Without effect while fewer than two parts with gates meet
    bottleneck: int = 48  # M of adapters and of the side network
    prefix_length: int = 10  # P
    prefix_hidden: int = 512  # width of the prefix's reparameterisation
    rank: int = 8  # R of LoRA
    alpha: float = 16.0  # LoRA's scale is alpha / R where it is not gated
    top_layers: int = 1  # how many layers `top` trains
    share: float = 0.005  # of each matrix's entries that diff pruning keeps

    def __post_init__(self):
        object.__setattr__(self, "name", canonical_name(self.name))
        for field in HYPERPARAMETERS + ("prefix_hidden",):
            if not getattr(self, field) > 0 and not (field == "top_layers" and self.top_layers == 0):
                raise InputError(f"{field} is {getattr(self, field)}; expected a number above 0")
        if self.share > 1: raise InputError(f"share is {self.share}; expected a share of the entries, at most 1")

    @property
    def parts(self):
        """The parts by name, in the table's order: ("adapter", "lora"); ("ft",); () for head."""
        return () if self.name == "head" else ("ft",) if self.name == "ft" else split_name(self.name)

    @property
    def gated(self):
        """Whether the parts have gates."""
        return self.gate and len(GATEABLE.intersection(self.parts)) >= 2

    @property
    def trains_base(self):
        """Whether parameters of the pretrained encoder train."""
        return not TRAIN_BASE.isdisjoint(self.parts)

    @property
    def canonical(self):
        """This method with every setting that has no effect on it back at its default: equal methods then compare equal."""
        idle = [name for name, users in USERS.items() if users.isdisjoint(self.parts) or (name == "alpha" and self.gated)]
        if len(GATEABLE.intersection(self.parts)) < 2: idle.append("gate")
        return replace(self, **{field.name: field.default for field in fields(self) if field.name in idle})


def split_name(name):
    """`apl` -> ("adapter", "prefix", "lora"), `l+houlsby` -> ("lora", "houlsby"). Raises InputError for what is no union of parts."""
    found = []
    for word in name.split("+"): found += [word] if word in PARTS else [LETTERS.get(letter) for letter in word or "?"]
    if None in found or len(set(found)) < len(found):
        raise InputError(
            f"unknown method {name!r}: expected ft, head, {', '.join(PARTS)}, letters of a (adapter), p (prefix), l (lora), b (bitfit), "
            "such as apl, or some of these with + between, each at most once"
        )
    return tuple(part for part in PARTS if part in found)


def canonical_name(name):
    """`lp` -> `pl`, `a` -> `adapter`, `l+houlsby` -> `lora+houlsby`, `ft` -> `ft`. Raises InputError for what is no method."""
    if name in ("ft", "head"): return name
    parts = split_name(name)
    if len(parts) > 1 and set(parts) <= set(LETTERS.values()): return "".join(letter for letter, part in LETTERS.items() if part in parts)
    return "+".join(parts)


def attach(model, method):
    """Put `method` into a BertClassifier, in place, and mark which of its parameters train. Returns the model.

    The new modules are made on the model's device, initialised as their files say. Raises InputError if the encoder has
    fewer layers than `top` is to train.
    """
    bert, parts = model.bert, method.parts
    D, N, F = bert.config.hidden_size, bert.config.num_hidden_layers, bert.config.intermediate_size
    model.method = method
    bert.requires_grad_("ft" in parts)
    if bert.pooler_is_new: bert.pooler.requires_grad_(True)
    if "bitfit" in parts:
        for bias in biases(bert).values(): bias.requires_grad_(True)
    if "layernorm" in parts or "houlsby" in parts:
        for parameter in layer_norms(bert).values(): parameter.requires_grad_(True)
    if "top" in parts:
        if method.top_layers > N: raise InputError(f"top_layers is {method.top_layers}; this encoder has {N} layers")
        for module in [*bert.encoder.layer[N - method.top_layers :], *[bert.pooler] * (method.top_layers > 0)]: module.requires_grad_(True)

    def gate():
        return Gate(D) if method.gated else None

    with bert.pooler.dense.weight.device:
        if "diff" in parts: model.penalty = Penalty(differentiate(bert, method.share))
        if "prompt" in parts: bert.prompt = Prompt(bert.embeddings, method.prefix_length)
        if "side" in parts: model.side = SideNetwork(bert.config, method.bottleneck)
        if "prefix" in parts: bert.prefix = PrefixTable(N, D, method.prefix_length, method.prefix_hidden)
        for layer in bert.encoder.layer:
            attention = layer.attention.self
            if "adapter" in parts: layer.adapter = Adapter(D, method.bottleneck, gate())
            if "prefix" in parts: attention.prefix = Prefix(gate())
            if "lora" in parts: attention.lora_query = LoRA(D, method.rank, method.alpha, gate())
            if "lora" in parts: attention.lora_value = LoRA(D, method.rank, method.alpha, gate())
            if "houlsby" in parts: layer.attention.output.adapter = HoulsbyAdapter(D, method.bottleneck, gate())
            if "houlsby" in parts: layer.output.adapter = HoulsbyAdapter(D, method.bottleneck, gate())
            if "parallel" in parts: layer.parallel = ParallelAdapter(D, method.bottleneck, gate())
            if "ia3" in parts: attention.ia3_key, attention.ia3_value, layer.intermediate.ia3 = IA3(D), IA3(D), IA3(F)
    return model


def slots(bert):
    """Every slot of an encoder, as (module, attribute)."""
    yield from ((bert, "prompt"), (bert, "prefix"))
    for layer in bert.encoder.layer:
        for name in ("lora_query", "lora_value", "ia3_key", "ia3_value", "prefix"): yield layer.attention.self, name
        yield from ((layer.attention.output, "adapter"), (layer.intermediate, "ia3"), (layer.output, "adapter"), (layer, "parallel"), (layer, "adapter"))


def detach(bert):
    """Empty an encoder's slots and freeze it: plain BERT again. Returns it."""
    for module, name in slots(bert):
        delattr(module, name)  # forgotten as a submodule, so that the next method's modules come in their own order
        setattr(module, name, None)
    return bert.requires_grad_(False)


def trained_parameters(model):
    """{name: parameter} of all that trains: what an optimiser gets, and what a run saves."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count_parameters(model):
    """Parameters by part: {part: count}; parts that the method lacks are left out. Every part is kept after training, but for
    `prefix network` and `diff network`, which only training needs, and `base`, the size of the encoder as it was.
    """
    counts = dict.fromkeys((*PARTS[:2], "prefix network", "lora", "gates", *PARTS[3:10], "diff", "diff network", "side", "ft", "head", "base"), 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        counts[part] += parameter.numel()
        if part == "base" and parameter.requires_grad:
            new_pooler = name.startswith("bert.pooler.") and model.bert.pooler_is_new
            counts["head" if new_pooler and "ft" not in model.method.parts else base_part(name, model.method)] += parameter.numel()
    if model.bert.prefix: counts["prefix"] = model.bert.prefix.remains()["table"].numel()
    if model.penalty: counts["diff"] = sum(diff.kept for diff in model.penalty.diffs)
    return {part: count for part, count in counts.items() if count}


def kept_parameters(counts):
    """How many trained parameters a run keeps, the head's left out, as the paper counts them. counts: as from `count_parameters`."""
    return sum(count for part, count in counts.items() if part not in ("base", "head", "prefix network", "diff network"))


def part_of(name):
    """Which part of `count_parameters` a parameter belongs to, by its name."""
    if name.startswith("classifier."): return "head"
    if name.startswith("side."): return "side"
    if name.startswith("bert.prompt."): return "prompt"
    if name.startswith("bert.prefix."): return "prefix network" if ".network." in name else "prefix"
    for mark, part in ((".gate.", "gates"), (".output.adapter.", "houlsby"), (".adapter.", "adapter"), (".parallel.", "parallel"), (".lora_", "lora"),
                       (".ia3", "ia3"), (".weight.0.", "diff network")):
        if mark in name: return part
    return "base"


def base_part(name, method):
    """Which part of a method makes a parameter of the pretrained encoder train."""
    if "ft" in method.parts: return "ft"
    if "LayerNorm" in name and {"layernorm", "houlsby"}.intersection(method.parts): return "layernorm"
    return "bitfit" if name.endswith(".bias") and "bitfit" in method.parts else "top"
