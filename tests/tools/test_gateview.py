"""tools/gateview.py: what it tells of a text is what the model's own modules compute."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import disturb, randomise, tiny_run

from minipelt import loop
from minipelt.batches import collate, encode
from minipelt.bert import BertClassifier
from minipelt.economy import use_bfloat16
from minipelt.errors import InputError
from minipelt.gate import Gate, force_gates, mean_gates, record_gates
from minipelt.glue import Example
from minipelt.settings import PARTS
from minipelt.tools.gateview import as_example, look, outline, prefix_states, survey, take_out
from minipelt.unipelt import attach, slots
from minipelt.weights import load

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

TEXT = "a fine film, all in all"
METHODS = [*PARTS, "apl", "apl+prompt", "lora+houlsby+parallel", "pl+side", "ap+bitfit", "al+ia3"]


class Opened:
    """A run on the tiny encoder whose every added number is far from its start."""

    def __init__(self, folder, method, task="sst2", gate=True, precision="float32"):
        self.run = tiny_run(folder, task, method, precision=precision)
        self.run = replace(self.run, method=replace(self.run.method, gate=gate, rank=2, share=0.1))
        self.base, self.tokenizer = load(str(folder))
        bert, _ = load(str(folder))
        self.model = disturb(attach(BertClassifier(bert, self.run.spec.num_outputs), self.run.method)).eval()
        for module in self.model.modules():
            if isinstance(module, Gate):
                randomise(module.linear)
        if precision == "bf16":
            use_bfloat16(self.model)

    def look(self, texts=(TEXT,), forced=None, removed=(), attention=None):
        """gateview.look at the model."""
        return look(self.model, self.tokenizer, self.run, list(texts), forced, removed, attention, self.base)

    def inputs(self, text=TEXT, text_b=None):
        """The model's inputs for a text."""
        rows = encode([Example(text, text_b)], self.tokenizer, self.run.max_length)
        return collate(rows, [0])[0]

    def logits(self, text=TEXT):
        """The model's logits for a text, (C)."""
        with torch.no_grad():
            return self.model(*self.inputs(text))[0]


@pytest.fixture
def open_run(tiny_folder):
    """open_run("apl") -> Opened."""

    def make(method, **changes):
        return Opened(tiny_folder, method, **changes)

    return make


def ratio(change, of):
    return (change.norm() / of.norm()).item()


def test_answer_and_gates_are_the_models_own(open_run):
    opened = open_run("apl")
    seen = opened.look()
    probabilities = opened.logits().softmax(dim=-1).tolist()
    assert list(seen["answer"]["probabilities"]) == ["negative", "positive"]
    assert list(seen["answer"]["probabilities"].values()) == pytest.approx(probabilities, abs=1e-4)
    assert seen["answer"]["label"] == ("negative", "positive")[probabilities.index(max(probabilities))]
    with torch.no_grad(), record_gates(opened.model) as recorded:
        opened.model(*opened.inputs())
    for submodule, values in mean_gates(recorded).items():
        assert seen["gates"][submodule] == pytest.approx(values, abs=1e-4)
    for name, values in recorded.items():
        part = seen["parts"][name.removesuffix(".gate")]
        assert part["gate"] == pytest.approx(values[0].item(), abs=1e-4)
        assert sum(part["tokens"]) / len(part["tokens"]) == pytest.approx(part["gate"], abs=1e-4)
        assert len(part["tokens"]) == len(seen["tokens"])
    assert max(part["gate"] for part in seen["parts"].values()) > 0.6  # the test's gates do differ
    assert seen["tokens"][0] == "[CLS]" and seen["tokens"][-1] == "[SEP]" and "trained" not in seen


def test_token_values_by_hand(open_run):
    opened = open_run("apl")
    inputs = opened.inputs()
    with torch.no_grad():
        h = opened.model.bert.embeddings(inputs[0], inputs[2])  # what layer 0 reads
        linear = opened.model.bert.encoder.layer[0].attention.self.lora_query.gate.linear
        expected = torch.sigmoid(h[0] @ linear.weight[0] + linear.bias)  # (T)
    tokens = opened.look()["parts"]["bert.encoder.layer.0.attention.self.lora_query"]["tokens"]
    assert tokens == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("method, gate", [
    ("apl", True), ("apl", False), ("lora+houlsby+parallel", True), ("al+ia3", True),
])
def test_how_much_each_part_adds_layer_by_layer(open_run, method, gate):
    opened = open_run(method, gate=gate)
    model, (input_ids, mask, types) = opened.model, opened.inputs()
    parts = opened.look()["parts"]
    found = {}
    with torch.no_grad():
        mask = mask.bool()
        h = model.bert.embeddings(input_ids, types)
        prefixes = model.bert.prefix() if model.bert.prefix else [None] * 3
        for number, (layer, prefix) in enumerate(zip(model.bert.encoder.layer, prefixes, strict=True)):
            by_hand = adds_by_hand(layer, h, mask, prefix)
            found |= {f"bert.encoder.layer.{number}.{place}": value for place, value in by_hand.items()}
            h = layer(h, mask, prefix)
    assert set(found) == {name for name in parts if not name.endswith(".LayerNorm")}  # houlsby trains those, too
    for name, value in found.items():
        assert parts[name]["adds"] == pytest.approx(value, abs=2e-4), name
    assert all(value > 0 for value in found.values())


def adds_by_hand(layer, h, mask, prefix):
    """{place: what the part there adds, beside what it is added to} of one layer."""
    found = {}
    attention = layer.attention.self
    q, v, k = attention.query(h), attention.value(h), attention.key(h)
    for name, lora, beside in (("lora_query", attention.lora_query, q), ("lora_value", attention.lora_value, v)):
        if lora:
            found[f"attention.self.{name}"] = ratio(lora(h, mask), beside)
    if attention.lora_value:
        v = v + attention.lora_value(h, mask)
    for name, ia3, x in (("ia3_key", attention.ia3_key, k), ("ia3_value", attention.ia3_value, v)):
        if ia3:
            found[f"attention.self.{name}"] = ratio(ia3.scale * x - x, x)
    context = attention(h, mask, prefix)
    if attention.prefix:
        kept, attention.prefix = attention.prefix, None
        without = attention(h, mask)
        attention.prefix = kept
        found["attention.self.prefix"] = ratio(context - without, without)
    o = layer.attention.output.dense(context)
    if layer.attention.output.adapter:
        found["attention.output.adapter"] = ratio(layer.attention.output.adapter(o, mask), o)
    a = layer.attention(h, mask, prefix)
    wide = layer.intermediate.activation(layer.intermediate.dense(a))
    if layer.intermediate.ia3:
        found["intermediate.ia3"] = ratio(layer.intermediate.ia3(wide) - wide, wide)
    f = layer.output.dense(layer.intermediate(a))
    if layer.output.adapter:
        found["output.adapter"] = ratio(layer.output.adapter(f, mask), f)
        f = f + layer.output.adapter(f, mask)
    if layer.parallel:
        found["parallel"] = ratio(layer.parallel(a, mask), f)
        f = f + layer.parallel(a, mask)
    if layer.adapter:
        found["adapter"] = ratio(layer.adapter(layer.output.LayerNorm(f + a), mask), f)
    return found


def test_an_adapter_beside_a_parallel_one_is_added_to_the_sum(open_run):
    opened = open_run("adapter+parallel")
    layer, (input_ids, mask, types) = opened.model.bert.encoder.layer[0], opened.inputs()
    with torch.no_grad():
        found = adds_by_hand(layer, opened.model.bert.embeddings(input_ids, types), mask.bool(), None)
    assert opened.look()["parts"]["bert.encoder.layer.0.adapter"]["adds"] == pytest.approx(found["adapter"], abs=2e-4)


def test_attention_and_the_prefixs_share(open_run):
    opened = open_run("apl")
    weights = []
    with torch.no_grad():
        opened.model.bert(*opened.inputs(), attentions=weights)
    seen = opened.look(attention=(1, 2))
    attention = seen["attention"]
    assert attention["prefix"] == 3 and attention["layer"] == 1 and attention["head"] == 2
    assert torch.allclose(torch.tensor(attention["weights"]), weights[1][0, 2], atol=1e-4)
    mean = opened.look(attention=[1, None])["attention"]["weights"]
    assert torch.allclose(torch.tensor(mean), weights[1][0].mean(dim=0), atol=1e-4)
    prefix = seen["parts"]["bert.encoder.layer.1.attention.self.prefix"]
    by_head = weights[1][0, :, :, :3].sum(dim=-1).mean(dim=-1)
    assert prefix["shares"] == pytest.approx(by_head.tolist(), abs=1e-4)
    assert prefix["share"] == pytest.approx(by_head.mean().item(), abs=1e-4)
    every = opened.look(attention="all")["attention"]["percent"]  # every layer: 4 heads, then their mean
    assert [len(layer) for layer in every] == [5, 5, 5]
    assert torch.allclose(torch.tensor(every[1][2]) / 100, weights[1][0, 2], atol=0.006)
    assert torch.allclose(torch.tensor(every[1][4]) / 100, weights[1][0].mean(dim=0), atol=0.006)


def test_forced_gates(open_run):
    opened = open_run("apl")
    forced = {"prefix": 0.0, "bert.encoder.layer.1.adapter.gate": 1.0}
    before, seen = opened.look(), opened.look(forced=forced)
    with force_gates(opened.model, forced):
        expected = opened.logits().softmax(dim=-1)[1].item()
    assert seen["answer"]["probabilities"]["positive"] == pytest.approx(expected, abs=1e-4)
    assert abs(expected - before["answer"]["probabilities"]["positive"]) > 1e-3
    assert seen["gates"]["prefix"] == [0.0, 0.0, 0.0] and seen["gates"]["adapter"][1] == 1.0
    assert seen["trained"]["answer"] == before["answer"] and seen["trained"]["distance"] == before["distance"]
    for submodule, values in seen["trained"]["gates"].items():
        assert values == pytest.approx(before["gates"][submodule], abs=1e-4)
    tokens = seen["parts"]["bert.encoder.layer.0.attention.self.prefix"]["tokens"]
    assert tokens == before["parts"]["bert.encoder.layer.0.attention.self.prefix"]["tokens"]  # what it would say itself


def test_a_part_taken_out_is_an_empty_slot(open_run):
    opened = open_run("apl")
    before = opened.logits()
    seen = opened.look(removed=["prefix", "bert.encoder.layer.2.adapter"])
    assert seen["gates"]["prefix"] == [None, None, None] and seen["gates"]["adapter"][2] is None
    assert not any(name.endswith("prefix") or name == "bert.encoder.layer.2.adapter" for name in seen["parts"])
    assert torch.equal(opened.logits(), before)
    for layer in opened.model.bert.encoder.layer:
        layer.attention.self.prefix = None
    opened.model.bert.encoder.layer[2].adapter = None
    expected = opened.logits().softmax(dim=-1)[1].item()
    assert seen["answer"]["probabilities"]["positive"] == pytest.approx(expected, abs=1e-4)


def test_taking_out_puts_back_after_an_error(open_run):
    opened = open_run("apl+prompt")
    before = [(place, slot, getattr(module, slot)) for place, module, slot in slots(opened.model)]
    with pytest.raises(ZeroDivisionError), take_out(opened.model, ["bert.prompt", "prefix", "adapter"]):
        assert opened.model.bert.prompt is None and opened.model.bert.encoder.layer[0].adapter is None
        raise ZeroDivisionError
    assert before == [(place, slot, getattr(module, slot)) for place, module, slot in slots(opened.model)]
    with pytest.raises(InputError, match="no part 'parallel' to take out of the model; expected one of adapter"):
        with take_out(opened.model, ["parallel"]):
            pass


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_looked_at_and_stays_as_it_is(open_run, method):
    opened = open_run(method)
    before = opened.logits()
    seen = opened.look(attention=(0, 0))
    json.dumps(seen, allow_nan=False)
    assert seen["answer"]["probabilities"]["positive"] == pytest.approx(before.softmax(dim=-1)[1].item(), abs=1e-4)
    assert torch.equal(opened.logits(), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in opened.model.modules())
    parts = outline(opened.model)
    json.dumps(parts)
    assert {part["name"] for part in parts} == set(seen["parts"])
    owned = {part["part"] for part in parts}
    assert owned <= set(opened.run.method.parts) | {"layernorm"}
    if method not in ("head", "prompt", "side"):
        assert parts and all(part["adds"] is not None for part in seen["parts"].values())
        assert seen["layers"][2]["drift"] > 0
    for part in parts:
        if part["kind"] != "changed":
            json.dumps(opened.look(removed=[part["submodule"]]), allow_nan=False)
            break


def test_what_bitfit_changes(open_run):
    opened = open_run("bitfit")
    inputs = opened.inputs()
    with torch.no_grad():
        h = opened.model.bert.embeddings(inputs[0], inputs[2])
        now = opened.model.bert.encoder.layer[0].attention.self.query(h)
        before = opened.base.encoder.layer[0].attention.self.query(h)
    seen = opened.look()["parts"]["bert.encoder.layer.0.attention.self.query"]
    assert seen == {"adds": pytest.approx(ratio(now - before, before), abs=1e-4)}


def test_distance_from_plain_bert(open_run):
    opened = open_run("al")
    with torch.no_grad():
        plain = opened.base(*opened.inputs())
        here = opened.model.bert(*opened.inputs())
    seen, shut = opened.look(), opened.look(forced={"all": 0})
    assert seen["distance"] == pytest.approx(ratio(here.pooled - plain.pooled, plain.pooled), abs=1e-4)
    for number, layer in enumerate(seen["layers"], start=1):
        change = here.hidden_states[number] - plain.hidden_states[number]
        assert layer["drift"] == pytest.approx(ratio(change, plain.hidden_states[number]), abs=1e-4)
    assert shut["distance"] == 0 and all(layer["drift"] == 0 for layer in shut["layers"])


@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("method, forced, removed", [
    ("head", {}, ()), ("al", {"all": 0.0}, ()), ("apl", {}, ("prefix", "adapter", "lora_query", "lora_value")),
])
def test_plain_bert_is_as_exact_as_the_run(open_run, method, forced, removed, with_base):
    """In bfloat16, too, what changes nothing in the encoder is plain BERT, to the bit."""
    opened = open_run(method, precision="bf16")
    if not with_base:
        opened.base = None
    seen = opened.look(forced=forced, removed=removed)
    assert [layer["drift"] for layer in seen["layers"]] == [0, 0, 0] and seen["distance"] == 0


def test_a_run_in_bfloat16(open_run):
    """Its answer is as the model gives it, and what a part adds is near what it adds in float32."""
    opened = open_run("apl", precision="bf16")
    before, seen = opened.look(), opened.look(forced={"adapter": 0.5})
    probabilities = opened.logits().float().softmax(dim=-1).tolist()
    assert list(before["answer"]["probabilities"].values()) == pytest.approx(probabilities, abs=0.01)
    assert sum(before["answer"]["probabilities"].values()) == pytest.approx(1, abs=2e-6)
    assert seen["trained"] == {key: before[key] for key in ("answer", "gates", "distance")}
    del opened.model.forward  # which use_bfloat16 has put there
    opened.run = replace(opened.run, precision="float32")
    for name, part in opened.look()["parts"].items():
        assert before["parts"][name]["adds"] == pytest.approx(part["adds"], rel=0.1), name


@pytest.mark.parametrize("method, gate, states", [
    ("apl", True, ["trained", "muted", "removed", "others shut", "others shut, removed"]),
    ("apl", False, ["trained", "muted", "removed", "others shut", "others shut, removed"]),
    ("prefix", True, ["trained", "muted", "removed"]),
])
def test_a_muted_prefix_is_not_plain_bert(open_run, method, gate, states):
    opened = open_run(method, gate=gate)
    found = {state["state"]: state for state in look_at_prefix(opened)}
    assert list(found) == states
    assert found["removed"]["shares"] == [0, 0, 0]
    assert min(found["muted"]["shares"]) > 0.01
    muted, removed = ("others shut", "others shut, removed") if method == "apl" else ("muted", "removed")
    assert found[removed]["distance"] < 1e-5
    assert found[muted]["distance"] > 1e-3
    # layer 0 of the muted prefix by hand: 3 keys of zeros score 0 beside the sentence's own
    with torch.no_grad():
        weights = []
        opened.base(*opened.inputs(), attentions=weights)
        attention = opened.base.encoder.layer[0].attention.self
        h = opened.base.embeddings(opened.inputs()[0], opened.inputs()[2])
        q, k = (attention.split_heads(x) for x in (attention.query(h), attention.key(h)))
        scores = (q @ k.transpose(-2, -1) / 8**0.5).exp().sum(dim=-1)  # (1, H, T)
        share = (3 / (3 + scores)).mean().item()
    assert found[muted]["shares"][0] == pytest.approx(share, abs=1e-4)


def look_at_prefix(opened):
    return prefix_states(opened.model, opened.tokenizer, opened.run, [TEXT], opened.base)


def test_no_prefix_no_states(open_run):
    assert look_at_prefix(open_run("al")) == []


def test_a_prompt_stands_behind_cls(open_run):
    seen = open_run("prompt").look(attention=(0, None))
    assert seen["tokens"][:5] == ["[CLS]", "p1", "p2", "p3", "a"]
    assert len(seen["attention"]["weights"]) == len(seen["tokens"]) == len(seen["segments"])
    columns = torch.tensor(seen["attention"]["weights"])[:, 1:4]
    assert seen["layers"][0]["prompt_share"] == pytest.approx(columns.sum(dim=1).mean().item(), abs=1e-3)
    together = open_run("apl+prompt").look(attention=(0, None))
    assert together["attention"]["prefix"] == 3
    columns = torch.tensor(together["attention"]["weights"])[:, 4:7]
    assert together["layers"][0]["prompt_share"] == pytest.approx(columns.sum(dim=1).mean().item(), abs=1e-3)


def test_pairs_and_scores(open_run):
    seen = open_run("apl", task="stsb").look(["it rains", "it pours"])
    assert set(seen["answer"]) == {"score"}
    first = seen["tokens"].index("[SEP]")
    assert seen["segments"] == [0] * (first + 1) + [1] * (len(seen["tokens"]) - first - 1)


def test_a_long_text_is_cut_and_says_so(open_run):
    opened = open_run("apl")
    assert opened.look(["a " * 22])["cut"] == 0
    seen = opened.look(["a " * 30])
    assert len(seen["tokens"]) == 24 and seen["cut"] == 8
    short = encode([Example("a b")], opened.tokenizer, 24)
    assert short.length(0) == 4  # the tokenizer is as it was


@pytest.mark.parametrize("texts, message", [
    ([""], "sentence is empty"), (["  \n"], "sentence is empty"), (["a" * 10_001], "10,001 characters"),
    (["a", "b"], "2 given; sst2 takes one text: sentence"), ([], "0 given"), ("a fine film", "expected a list"),
    ([1], "expected a list"), (None, "expected a list"), (["\ud800"], "half of a character"),
])
def test_wrong_texts(open_run, texts, message):
    with pytest.raises(InputError, match=message):
        as_example(texts, open_run("head").run)


@pytest.mark.parametrize("attention, message", [
    ((3, 0), "layer is 3; expected 0 to 2"), ((0, 4), "head is 4; expected 0 to 3"), ((-1, 0), "layer is -1"),
    ((None, 0), "expected a layer and a head"), ((0,), "expected a layer and a head"), ("first", "a layer and a head"),
    ((True, 0), "layer is True"), ((0, 1.0), "head is 1.0"),
])
def test_wrong_attention(open_run, attention, message):
    with pytest.raises(InputError, match=message):
        open_run("apl").look(attention=attention)


def test_an_answer_that_is_no_number(open_run):
    opened = open_run("lora")
    with torch.no_grad():
        opened.model.classifier.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not a number"):
        opened.look()


def test_survey_of_many_texts(open_run):
    opened = open_run("apl")
    examples = [Example(text) for text in (TEXT, "no", "a much longer text than those", "b")]
    rows = encode(examples, opened.tokenizer, 24)
    logits, gates = survey(opened.model, rows)
    assert torch.equal(logits, loop.predict(opened.model, rows))
    name = "bert.encoder.layer.2.adapter.gate"
    alone = [opened.look([example.text])["parts"][name.removesuffix(".gate")]["gate"] for example in examples]
    assert sorted(gates[name].tolist()) == pytest.approx(sorted(alone), abs=1e-4)
