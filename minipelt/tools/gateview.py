"""What a trained run does with a text, in numbers: its answer, how far every gate opens, and what every part adds.

    seen = look(model, tokenizer, run, ["a warm , clever film ."])
    seen["answer"]                          {"label": "positive", "probabilities": {"negative": 0.07, "positive": 0.93}}
    seen["gates"]["adapter"]                [0.71, 0.67, 0.64, 0.49, 0.54, 0.73], layer by layer
    look(model, tokenizer, run, ["a warm , clever film ."], forced={"prefix": 0.0})["answer"]

`look` is one function from texts to what JSON can hold; the live page shows it. With gates forced (gate.force_gates) or
parts taken out it tells what the model would do then, and what it does as trained.

How much a part adds is a ratio of norms over all tokens of the text, |g * delta| / |what it is added to|: a gate near
1 before a small delta still adds little. For a prefix it is how much the attention's output changes against the
prefix taken out; beside it stands the share of the attention that goes to the prefix.
"""

import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.nn.utils import parametrize

from minipelt import loop
from minipelt.batches import collate, encode
from minipelt.economy import arithmetic_of
from minipelt.errors import InputError
from minipelt.gate import force_gates, mean_gates, record_gates, submodule_of
from minipelt.glue import make_example
from minipelt.tools.describe import formula_of
from minipelt.tools.predict import answer_of
from minipelt.unipelt import slots

LAYERS = "bert.encoder.layer."
LONGEST_TEXT = 10_000  # characters; a BERT reads 512 tokens at most
NO_LIMIT = 1_000_000  # tokens


class Place(NamedTuple):
    """Where in a layer something sits."""

    label: str
    into: str  # what it changes: q, k, v; o, what leaves the attention block; f, what leaves the feed-forward block
    beside: str | None = None  # the module whose output it is added to; None: it is added to what it reads
    scales: bool = False  # it gives all that goes on, and not something to add


PLACES = {  # in the order in which a layer computes
    "attention.self.query": Place("query", "Q"),
    "attention.self.key": Place("key", "K"),
    "attention.self.value": Place("value", "V"),
    "attention.self.prefix": Place("prefix", "K V"),
    "attention.self.lora_query": Place("LoRA query", "Q", "attention.self.query"),
    "attention.self.lora_value": Place("LoRA value", "V", "attention.self.value"),
    "attention.self.ia3_key": Place("(IA)³ key", "K", scales=True),
    "attention.self.ia3_value": Place("(IA)³ value", "V", scales=True),
    "attention.output.dense": Place("output", "o"),
    "attention.output.adapter": Place("adapter", "o"),
    "attention.output.LayerNorm": Place("LayerNorm", "a"),
    "intermediate.dense": Place("wide half", "x"),
    "intermediate.ia3": Place("(IA)³ wide", "x", scales=True),
    "parallel": Place("parallel", "f", "output"),
    "output.dense": Place("narrow half", "f"),
    "output.adapter": Place("adapter", "f"),
    "adapter": Place("adapter", "f", "output"),
    "output.LayerNorm": Place("LayerNorm", "h"),
}


# ---- what there is to see


def outline(model):
    """The parts that a BertClassifier's method has in its layers, in order, whatever the text: a list of dicts.

    name (of the module), layer, place (in the layer), part (as settings.PARTS calls it), label, into, formula;
    kind: "gated", "added" (no gate), or "changed" (a module of the pretrained encoder itself, with other weights);
    submodule: what `force_gates` and `take_out` call it, in all layers together.
    """
    found = {name: module for name, module, _ in filled_slots(model) if name.startswith(LAYERS)}
    changed = changed_modules(model)
    entries = []
    for name in [*found, *changed]:
        number, _, place = name.removeprefix(LAYERS).partition(".")
        where = PLACES.get(place, Place(place.rpartition(".")[2], ""))
        entry = {"name": name, "layer": int(number), "place": place, "label": where.label, "into": where.into}
        entry["submodule"] = submodule_of(name)
        if name in changed:
            entries.append(entry | {"part": changed[name], "kind": "changed", "formula": ""})
            continue
        kind = "gated" if getattr(found[name], "gate", None) else "added"
        entries.append(entry | {"part": found[name].part, "kind": kind, "formula": formula_of(found[name])})
    order = list(PLACES)
    return sorted(entries, key=lambda e: (e["layer"], order.index(e["place"]) if e["place"] in PLACES else len(order)))


def filled_slots(model):
    """(full name, module in the slot, (owner, slot)) for every slot of a model that is not empty."""
    for place, owner, slot in slots(model):
        module = getattr(owner, slot)
        if module is not None:
            yield f"{place}.{slot}".removeprefix("."), module, (owner, slot)


def changed_modules(model):
    """{name: part} of the pretrained encoder's own modules in the layers whose weights the method changes."""
    changed = {name.rpartition(".")[0]: part for name, part in model.base_parts.items()}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            changed[name] = module.parametrizations.weight[0].part
    return {name: part for name, part in changed.items() if name.startswith(LAYERS)}


# ---- one text


@torch.inference_mode()
def look(model, tokenizer, run, texts, forced=None, removed=(), attention=None, base=None):
    """What the model of a trained run does with one text, or one pair. Returns a dict that JSON can hold:

    tokens      the T tokens; a prompt's vectors stand behind [CLS] as p1, p2 ...
    segments    for each of them 0 (first text) or 1 (second)
    cut         how many more tokens the text has than the run reads
    answer      {"label", "probabilities": {label: p}} or, for a regression, {"score"}
    gates       {submodule: [gate of each layer]}; None where it was taken out
    parts       {module name: what it does here}, for the entries of `outline`: "adds", the ratio of norms above; of a
                gate "gate", the value in use, and "tokens", sigmoid(w . x_t + b) of each token, whose mean is what the
                gate itself would say; of a prefix "share" (of all attention) and "shares" (head by head)
    layers      for each layer "drift", |h - h_0| / |h_0|: how far its output is from plain BERT's h_0, and with a
                prompt "prompt_share", of the attention
    distance    the same for the vector that the head reads
    attention   if asked for, the weights of one head (T rows, prefix + T columns), and how many columns are prefix
    trained     if something was forced or taken out: answer, gates and distance without that

    texts: one string, or two for a pair. forced: as for `gate.force_gates`. removed: parts to take out, by module name
    or by submodule in all layers. attention: (layer, head), None as the head for the mean of all; or "all", for every
    layer's heads and then their mean, in whole percent. base: the encoder as it was, needed where the method trains it.
    Raises InputError for a wrong text or name.
    """
    forced = forced or {}
    example = as_example(texts, run)
    rows = encode([example], tokenizer, run.max_length)
    device = model.classifier.weight.device
    inputs, _ = collate(rows, [0], device)
    cut = 0
    if rows.length(0) == run.max_length:
        cut = encode([example], tokenizer, NO_LIMIT).length(0) - run.max_length
    model.eval()
    check_attention(model, attention)
    with parametrize.cached(), arithmetic_of(run, device):  # plain BERT's, too: else the rounding would count as drift
        plain = plain_bert(model, base, inputs)
        view = view_of(model, run, inputs, plain, forced, removed, attention, base)
        if forced or removed:
            view["trained"] = as_trained(model, run, inputs, plain)
    names = [tokenizer.id_to_token(number) for number in rows.input_ids[0]]
    added = [f"p{number}" for number in range(1, view.pop("prompt") + 1)]
    tokens = {"tokens": [names[0], *added, *names[1:]], "segments": [0] * len(added) + rows.token_type_ids[0]}
    return tokens | {"cut": cut} | view


def as_example(texts, run):
    """One or two strings -> Example. Raises InputError if they are empty, too long, or not as many as the run reads."""
    columns = run.spec.columns
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError("texts: expected a list of one string, or of two for a pair")
    if len(texts) != len(columns):
        few = "one text" if len(columns) == 1 else "two texts"
        raise InputError(f"{len(texts)} given; {run.spec.name} takes {few}: {', '.join(columns)}")
    for column, text in zip(columns, texts, strict=True):
        if not text.strip():
            raise InputError(f"{column} is empty; expected some words")
        if len(text) > LONGEST_TEXT:
            raise InputError(f"{column} has {len(text):,} characters; expected at most {LONGEST_TEXT:,}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"{column} holds half of a character; expected whole ones") from None
    return make_example(texts, None)


def check_attention(model, attention):
    """Raise InputError unless (layer, head) is there; None as the head stands for all."""
    if attention is None or attention == "all":
        return
    config = model.bert.config
    limits = (config.num_hidden_layers, config.num_attention_heads)
    if not isinstance(attention, list | tuple) or len(attention) != 2 or attention[0] is None:
        raise InputError("attention: expected a layer and a head")
    for what, number, limit in zip(("layer", "head"), attention, limits, strict=True):
        is_number = isinstance(number, int) and not isinstance(number, bool)
        if number is not None and not (is_number and 0 <= number < limit):
            raise InputError(f"attention: {what} is {number!r}; expected 0 to {limit - 1}")


def view_of(model, run, inputs, plain, forced, removed, attention, base):
    """What `look` tells of one pass, tokens apart. plain: the Encoded of plain BERT."""
    parts = outline(model)
    N = model.bert.config.num_hidden_layers
    with force_gates(model, forced), take_out(model, removed):
        here = {name for name, _, _ in filled_slots(model)}
        here.update(part["name"] for part in parts if part["kind"] == "changed")
        prompt = len(model.bert.prompt.vectors) if model.bert.prompt is not None else 0
        with watch(model) as seen:
            logits = model(*inputs)[0]  # (C)
        found = {part["name"]: part_view(model, part, seen, base) for part in parts if part["name"] in here}
    layers = []
    for number in range(N):
        h = seen.outputs[f"{LAYERS}{number}"]  # (1, T, D)
        own = torch.cat([h[:, :1], h[:, 1 + prompt :]], dim=1)  # without the prompt
        h_0 = plain.hidden_states[number + 1]
        layers.append({"drift": ratio(own - h_0, h_0)})
        if prompt:
            prefix = seen.weights[f"{LAYERS}{number}.attention.self"].shape[-1] - h.shape[1]
            layers[-1]["prompt_share"] = share(seen, number, prefix + 1, prefix + 1 + prompt)[0]
    gates = {}
    for part in parts:
        if part["kind"] == "gated":
            gates.setdefault(part["submodule"], []).append(found.get(part["name"], {}).get("gate"))
    pooled = seen.inputs["classifier"]
    view = {"answer": answer_of(run.spec, logits), "gates": gates, "parts": found, "layers": layers}
    view["distance"] = ratio(pooled - plain.pooled, plain.pooled)
    view["prompt"] = prompt
    if attention == "all":
        view["attention"] = all_attention(seen, N)
    elif attention is not None:
        view["attention"] = attention_view(seen, *attention)
    return view


def as_trained(model, run, inputs, plain):
    """{"answer", "gates", "distance"} of a pass with nothing forced."""
    with record_gates(model) as recorded, watch(model) as seen:
        logits = model(*inputs)[0]  # (C)
    gates = {submodule: [rounded(value) for value in values] for submodule, values in mean_gates(recorded).items()}
    distance = ratio(seen.inputs["classifier"] - plain.pooled, plain.pooled)
    return {"answer": answer_of(run.spec, logits), "gates": gates, "distance": distance}


# ---- what a pass through the model shows


class Seen(NamedTuple):
    """What went through the modules of a model, by name."""

    inputs: dict  # the first input
    outputs: dict
    weights: dict  # of each self-attention: (1, H, T, P + T)


@contextmanager
def watch(model):
    """While open, keep what the next pass sends through every module: Seen. Attention is the explicit one meanwhile."""
    seen = Seen({}, {}, {})
    hooks = []

    def keep(name):
        def hook(module, inputs, output):
            seen.inputs[name] = inputs[0] if inputs else None
            seen.outputs[name] = output

        return hook

    def ask_for_weights(name):
        def hook(module, inputs):
            h, mask, prefix = inputs[:3]
            return h, mask, prefix, Last(seen.weights, name)

        return hook

    for name, module in model.named_modules():
        hooks.append(module.register_forward_hook(keep(name)))
        if name.startswith(LAYERS) and name.endswith(".attention.self"):
            hooks.append(module.register_forward_pre_hook(ask_for_weights(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Last(list):
    """A list as bert.py appends attention weights to, which puts them under a name."""

    def __init__(self, found, name):
        super().__init__()
        self.found, self.name = found, name

    def append(self, weights):
        """Keep the weights, (B, H, T, P + T)."""
        self.found[self.name] = weights.float()


@contextmanager
def take_out(model, names):
    """While open, the slots of some parts are empty.

    names: module names, such as bert.encoder.layer.1.adapter, or submodules, for all layers: prefix, adapter,
    lora_query, lora_value ... Raises InputError for a name that the model has not.
    """
    found = [(name, module, place) for name, module, place in filled_slots(model) if place[1] != "extra_loss"]
    known = {name for name, _, _ in found} | {submodule_of(name) for name, _, _ in found}
    for name in names:
        if name not in known or not name:
            expected = ", ".join(sorted(known - {""})[:12]) or "none: it has no parts of its own"
            raise InputError(f"no part {name!r} to take out of the model; expected one of {expected}")
    with emptied(place for name, _, place in found if name in names or submodule_of(name) in names):
        yield


@contextmanager
def emptied(places):
    """While open, some slots are empty. places: pairs of a module and the name of its slot."""
    taken = [(owner, slot, getattr(owner, slot)) for owner, slot in places]
    try:
        for owner, slot, _ in taken:
            setattr(owner, slot, None)
        yield
    finally:
        for owner, slot, module in taken:
            setattr(owner, slot, module)


def plain_bert(model, base, inputs):
    """The Encoded of plain BERT: of `base`, or of the model's own encoder with empty slots.

    Its attention is the explicit one, as in `watch`: the fused one rounds otherwise.
    """
    if base is not None:
        return base(*inputs, attentions=[])
    with emptied([place for name, _, place in filled_slots(model) if name.startswith("bert.")]):
        return model.bert(*inputs, attentions=[])


def part_view(model, part, seen, base):
    """What one part of `outline` did in a pass that was watched, with gates and slots still as they were."""
    name, place = part["name"], PLACES.get(part["place"], Place("", ""))
    layer = f"{LAYERS}{part['layer']}."
    if part["kind"] == "changed":
        return {"adds": changed_ratio(model, name, seen, base)}
    view = {}
    if part["place"] == "attention.self.prefix":
        view = prefix_view(model, part, seen)
    elif place.beside is None:
        x, out = seen.inputs[name], seen.outputs[name]
        view["adds"] = ratio(out - x if place.scales else out, x)
    else:
        beside = seen.outputs[layer + place.beside]
        if part["place"] == "adapter" and f"{layer}parallel" in seen.outputs:
            beside = beside + seen.outputs[f"{layer}parallel"]
        view["adds"] = ratio(seen.outputs[name], beside)
    if part["kind"] == "gated":
        gate = model.get_submodule(f"{name}.gate")
        x = seen.inputs[f"{name}.gate"]  # (1, T, D)
        view["gate"] = rounded(seen.outputs[f"{name}.gate"].item())
        view["tokens"] = [rounded(value) for value in torch.sigmoid(gate.linear(x)).flatten().tolist()]
    return view


def prefix_view(model, part, seen):
    """What a layer's prefix does: its share of the attention, and the change of the output against no prefix at all."""
    place = part["name"].removesuffix(".prefix")
    attention = model.get_submodule(place)
    h, context = seen.inputs[place], seen.outputs[place]  # (1, T, D) each
    with emptied([(attention, "prefix")]):
        without = attention(h, h.new_ones(h.shape[:2], dtype=torch.bool), attentions=[])
    P = seen.weights[place].shape[-1] - h.shape[1]
    mean, by_head = share(seen, part["layer"], 0, P)
    return {"adds": ratio(context - without, without), "share": mean, "shares": by_head}


def share(seen, layer, start, end):
    """How much of a layer's attention goes to the positions from start to end: (in all, [of each head])."""
    weights = seen.weights[f"{LAYERS}{layer}.attention.self"]  # (1, H, T, S)
    by_head = weights[0, :, :, start:end].sum(dim=-1).mean(dim=-1)  # (H)
    return rounded(by_head.mean().item()), [rounded(value) for value in by_head.tolist()]


def changed_ratio(model, name, seen, base):
    """|y - y_0| / |y_0|: what a module of the encoder gives, beside what it gave before training, for one input."""
    if base is None:
        return None
    x = seen.inputs[name]
    y_0 = base.get_submodule(name.removeprefix("bert."))(x)
    return ratio(seen.outputs[name] - y_0, y_0)


def attention_view(seen, layer, head):
    """The attention weights of a head, None for the mean of all: {"layer", "head", "prefix", "weights"}."""
    weights = seen.weights[f"{LAYERS}{layer}.attention.self"][0]  # (H, T, S)
    chosen = weights.mean(dim=0) if head is None else weights[head]  # (T, S)
    T, S = chosen.shape
    rows = [[round(value, 4) for value in row] for row in chosen.tolist()]
    return {"layer": layer, "head": head, "prefix": S - T, "weights": rows}


def all_attention(seen, N):
    """Every head of every layer, and the mean of the layer's heads behind them: {"prefix", "percent"}."""
    layers = []
    for number in range(N):
        weights = seen.weights[f"{LAYERS}{number}.attention.self"][0]  # (H, T, S)
        with_mean = torch.cat([weights, weights.mean(dim=0, keepdim=True)])  # (H + 1, T, S)
        layers.append((100 * with_mean).round().int().tolist())
    T, S = weights.shape[1:]
    return {"prefix": S - T, "percent": layers}


def ratio(change, of):
    """|change| / |of|, or None where that is no number."""
    size = of.float().norm().item()
    value = change.float().norm().item() / size if size else math.inf
    return rounded(value) if math.isfinite(value) else None


def rounded(value):
    """A number as the page needs it."""
    return round(value, 5)


# ---- a shut prefix is not a prefix taken out


def prefix_states(model, tokenizer, run, texts, base=None):
    """What becomes of a text when the prefix is muted, and when it is taken out: a list of dicts, or [] without prefix.

    Each has state, answer, distance (from plain BERT, see `look`) and shares: of each layer's attention on the prefix.
    The states are "trained", "muted", "removed" and, where the method has other parts, "others shut" (the prefix is
    muted, and what else the method adds is silent) and "others shut, removed".

    Muted means that its keys and values are zero, as its gate makes them at 0. A zero key still has the score 0, and
    exp(0) = 1 is a share of the softmax: the rest of the attention is turned down.
    """
    parts = outline(model)
    prefixes = [part for part in parts if part["submodule"] == "prefix"]
    if not prefixes:
        return []
    gated = prefixes[0]["kind"] == "gated"
    shut = {"prefix": 0.0} if gated else {}
    all_shut = {"all": 0.0} if gated else {}
    others = {part["submodule"] for part in parts if part["kind"] == "added"} - {"prefix"}
    states = [("trained", {}, ()), ("muted", shut, ()), ("removed", {}, ("prefix",))]
    if others or len(parts) > len(prefixes):
        states.append(("others shut", all_shut, tuple(others)))
        states.append(("others shut, removed", all_shut, ("prefix", *others)))
    found = []
    for state, forced, removed in states:
        with muted(model, not gated and state in ("muted", "others shut")):
            view = look(model, tokenizer, run, texts, forced, removed, base=base)
        shares = [view["parts"].get(part["name"], {}).get("share", 0.0) for part in prefixes]
        found.append({"state": state, "answer": view["answer"], "distance": view["distance"], "shares": shares})
    return found


@contextmanager
def muted(model, is_muted):
    """While open, and if wanted, the prefixes of all layers are zero."""
    if not is_muted:
        yield
        return
    hook = model.bert.prefix.register_forward_hook(lambda module, inputs, table: torch.zeros_like(table))
    try:
        yield
    finally:
        hook.remove()


# ---- many texts


def survey(model, rows):
    """(logits (n, C), {gate's module name: its value for every row, (n)}) of tokenised rows, as trained.

    The values of a gate come in another order than the rows.
    """
    with record_gates(model) as recorded:
        logits = loop.predict(model, rows)
    return logits, {name: torch.cat(values) for name, values in recorded.items()}
