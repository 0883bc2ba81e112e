"""UniPELT (Mao et al. 2022): put submodules, and the gates that unite them, into a BERT classifier.

Whatever letters of this table a user joins is a method: `a`, `pl`, `apl`, `aplb`. Two more methods train no submodule: `ft`
(fine-tuning: everything trains) and `head` (only the classifier trains).

    letter  submodule       gate reads            acts on
    a       adapter.py      x = LayerNorm(f + a)  feed-forward output of every layer
    p       prefix.py       h, the layer's input  keys and values of every layer
    l       lora.py         h (q and v apart)     queries and values of every layer
    b       bitfit.py       has no gate           every bias of the encoder

Gates are on as soon as two of a, p, l meet. The base stays frozen but for its biases (b) or all of it (ft); the head always trains.
"""

from dataclasses import dataclass, replace
from math import prod

from minipelt import InputError
from minipelt.adapter import Adapter
from minipelt.bitfit import biases
from minipelt.gate import Gate
from minipelt.lora import LoRA
from minipelt.prefix import Prefix, PrefixTable

HYPERPARAMETERS = ("bottleneck", "prefix_length", "rank", "alpha")  # of a Method, as the command line offers them
LETTERS = {"a": "adapter", "p": "prefix", "l": "lora", "b": "bitfit"}


@dataclass(frozen=True)
class Method:
    """A method with its hyperparameters; the defaults are UniPELT's."""

    name: str  # ft, head, adapter, prefix, lora, bitfit, or letters in the order of the table: ap, plb, apl ...
    gate: bool = True  # False: UniPELT's NoGate ablation. Without effect while fewer than two of a, p, l meet
    bottleneck: int = 48  # M of the adapter
    prefix_length: int = 10  # P
    prefix_hidden: int = 512  # width of the prefix's reparameterisation
    rank: int = 8  # R of LoRA
    alpha: float = 16.0  # LoRA's scale is alpha / R where it is not gated

    def __post_init__(self):
        object.__setattr__(self, "name", canonical_name(self.name))
        for field in ("bottleneck", "prefix_length", "prefix_hidden", "rank", "alpha"):
            if not getattr(self, field) > 0:
                raise InputError(f"{field} is {getattr(self, field)}; expected a number above 0")

    @property
    def letters(self):
        """The submodules as letters: "" for ft and head."""
        if self.name in ("ft", "head"): return ""
        return next((letter for letter, alias in LETTERS.items() if alias == self.name), self.name)

    @property
    def canonical(self):
        """This method with every setting that has no effect on it back at its default: equal methods then compare equal."""
        used = {"gate": len(self.letters.replace("b", "")) >= 2, "bottleneck": "a" in self.letters, "rank": "l" in self.letters,
                "alpha": "l" in self.letters and not self.gated, "prefix_length": "p" in self.letters, "prefix_hidden": "p" in self.letters}
        return replace(self, **{field: getattr(Method, field) for field, matters in used.items() if not matters})

    @property
    def trains_base(self):
        """Whether parameters of the pretrained encoder train."""
        return self.name == "ft" or "b" in self.letters

    @property
    def gated(self):
        """Whether the submodules have gates."""
        return self.gate and len(self.letters.replace("b", "")) >= 2


def canonical_name(name):
    """`lp` -> `pl`, `a` -> `adapter`, `ft` -> `ft`. Raises InputError for what is no method."""
    if name in ("ft", "head", *LETTERS.values()): return name
    if not name or len(set(name)) < len(name) or set(name) - set(LETTERS):
        raise InputError(
            f"unknown method {name!r}: expected ft, head, adapter, prefix, lora, bitfit, "
            "or letters of a (adapter), p (prefix), l (lora), b (bitfit), each at most once, such as apl"
        )
    letters = "".join(letter for letter in LETTERS if letter in name)
    return LETTERS.get(letters, letters)


def attach(model, method):
    """Put `method` into a BertClassifier, in place, and mark which of its parameters train. Returns the model.

    The new modules are made on the model's device, initialised as their files say.
    """
    bert, letters = model.bert, method.letters
    D, N = bert.config.hidden_size, bert.config.num_hidden_layers
    bert.requires_grad_(method.name == "ft")
    if bert.pooler_is_new: bert.pooler.requires_grad_(True)
    if "b" in letters:
        for bias in biases(bert).values(): bias.requires_grad_(True)

    def gate():
        return Gate(D) if method.gated else None

    with bert.pooler.dense.weight.device:
        if "p" in letters: bert.prefix = PrefixTable(N, D, method.prefix_length, method.prefix_hidden)
        for layer in bert.encoder.layer:
            attention = layer.attention.self
            if "a" in letters: layer.adapter = Adapter(D, method.bottleneck, gate())
            if "p" in letters: attention.prefix = Prefix(gate())
            if "l" in letters: attention.lora_query = LoRA(D, method.rank, method.alpha, gate())
            if "l" in letters: attention.lora_value = LoRA(D, method.rank, method.alpha, gate())
    return model


def detach(bert):
    """Empty an encoder's slots and freeze it: plain BERT again. Returns it."""
    slots = [(bert, "prefix")]
    for layer in bert.encoder.layer:
        slots += [(layer.attention.self, name) for name in ("prefix", "lora_query", "lora_value")] + [(layer, "adapter")]
    for module, name in slots:
        delattr(module, name)  # forgotten as a submodule, so that the next method's modules come in their own order
        setattr(module, name, None)
    return bert.requires_grad_(False)


def trained_parameters(model):
    """{name: parameter} of all that trains: what an optimiser gets, and what a run saves."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count_parameters(model):
    """Parameters by part: {part: count}; parts that the method lacks are left out. Every part trains, but for `base`.

    `prefix` is what remains of prefix-tuning after training; the network that makes it meanwhile is counted apart. `base` is the
    size of the encoder as it was, whether frozen, trained in part (bitfit) or as a whole (ft).
    """
    counts = dict.fromkeys(("adapter", "prefix", "prefix network", "lora", "gates", "bitfit", "ft", "head", "base"), 0)
    fine_tuned = model.bert.embeddings.word_embeddings.weight.requires_grad
    for name, parameter in model.named_parameters():
        part = "base"
        if name.startswith("classifier."): part = "head"
        elif ".gate." in name: part = "gates"
        elif ".adapter." in name: part = "adapter"
        elif ".lora_" in name: part = "lora"
        elif name.startswith("bert.prefix.network."): part = "prefix network"
        elif name == "bert.prefix.table": part = "prefix"
        counts[part] += parameter.numel()
        if part == "base" and parameter.requires_grad:
            new_pooler = name.startswith("bert.pooler.") and model.bert.pooler_is_new
            counts["ft" if fine_tuned else "head" if new_pooler else "bitfit"] += parameter.numel()
    if counts["prefix network"]: counts["prefix"] = prod(model.bert.prefix.shape)
    return {part: count for part, count in counts.items() if count}
