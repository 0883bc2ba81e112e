"""unipelt.py: counts, what trains, what stays, detaching, and independence of padding, for every method."""

import copy
import itertools
import sys
from types import ModuleType

import pytest
import torch
from helpers import disturb
from torch import nn
from torch.nn.utils import parametrize

from minipelt.batches import Rows
from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.errors import InputError
from minipelt.loop import make_optimizer, train
from minipelt.methods import unfreeze
from minipelt.settings import PARTS, Method, Part, Recipe
from minipelt.unipelt import (
    attach,
    count_parameters,
    detach,
    kept_parameters,
    owners,
    slots,
    trained_parameters,
)

COMBINATIONS = ["".join(letters) for n in range(2, 5) for letters in itertools.combinations("aplb", n)]
UNIONS = [*COMBINATIONS, "houlsby+p+l", "parallel+p", "ia3+a+b", "prompt+houlsby", "layernorm+side"]
FEW = [*PARTS, "apl", "aplb", "houlsby+p+l"]
METHODS = [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in UNIONS if name not in FEW)]


def build(bert, name, **settings):
    """A classifier with a small method in it, in evaluation mode."""
    method = Method(name, bottleneck=16, prefix_length=5, prefix_hidden=6, rank=2, **settings)
    return attach(BertClassifier(bert, 2), method).eval()


# ---- counts


@pytest.fixture(scope="module")
def bert_base():
    """A bert-base with a head, on the meta device: it has shapes and holds no numbers, so that it costs nothing."""
    with torch.device("meta"):
        return BertClassifier(BertModel(BertConfig()), 2)


GATE = 768 + 1
BASE_COUNTS = {
    "ft": {"ft": 109_482_240},
    "head": {},
    "bitfit": {"bitfit": 102_912},
    "prefix": {"prefix": 184_320},
    "lora": {"lora": 294_912},
    "adapter": {"adapter": 894_528},
    "ap": {"adapter": 894_528, "prefix": 184_320, "gates": 2 * 12 * GATE},
    "apl": {"adapter": 894_528, "prefix": 184_320, "lora": 294_912, "gates": 4 * 12 * GATE},
}


@pytest.mark.parametrize("name", BASE_COUNTS)
def test_counts_on_bert_base_are_the_papers(bert_base, name):
    counts = count_parameters(attach(detach(bert_base), Method(name)))
    assert kept_parameters(counts) == sum(BASE_COUNTS[name].values())
    assert counts.pop("head") == 2 * 768 + 2
    assert counts.pop("base") == 109_482_240
    assert counts.pop("prefix network", 9_857_024) == 10 * 768 + (768 * 512 + 512) + (512 * 18432 + 18432)
    assert counts == BASE_COUNTS[name]


OTHER_COUNTS = [
    ("houlsby", {"bottleneck": 64}, {"houlsby": 12 * 2 * (2 * 64 * 768 + 768 + 64), "layernorm": 25 * 2 * 768}),
    ("houlsby", {"bottleneck": 8}, {"houlsby": 12 * 2 * (2 * 8 * 768 + 768 + 8), "layernorm": 25 * 2 * 768}),
    ("parallel", {}, {"parallel": 894_528}),
    ("layernorm", {}, {"layernorm": 38_400}),
    ("ia3", {}, {"ia3": 12 * 6 * 768}),
    ("prompt", {}, {"prompt": 7_680}),
    ("top", {"top_layers": 0}, {}),
    ("top", {"top_layers": 2}, {"top": 2 * 7_087_872 + 590_592}),
    ("top", {"top_layers": 12}, {"top": 12 * 7_087_872 + 590_592}),
    ("diff", {"share": 0.005}, {"diff": 424_656, "diff network": 2 * 84_934_656}),
]


@pytest.mark.parametrize("name, settings, counts", OTHER_COUNTS)
def test_counts_of_the_other_methods_on_bert_base(bert_base, name, settings, counts):
    found = count_parameters(attach(detach(bert_base), Method(name, **settings)))
    assert kept_parameters(found) == sum(count for part, count in counts.items() if not part.endswith("network"))
    assert found.pop("head") == 2 * 768 + 2
    assert found.pop("base") == 109_482_240
    assert found == counts


def test_counts_add_up_to_what_trains(tiny):
    for name in FEW:
        model = build(copy.deepcopy(tiny), name)
        counts = count_parameters(model)
        trained = sum(p.numel() for p in trained_parameters(model).values())
        shown = sum(count for part, count in counts.items() if part != "base")
        for part in ("prefix", "diff"):
            if f"{part} network" in counts:
                shown -= counts[part]
        assert shown == trained, name


def test_the_base_counts_as_it_was(tiny):
    before = sum(p.numel() for p in tiny.parameters())
    for name in FEW:
        assert count_parameters(build(copy.deepcopy(tiny), name))["base"] == before, name


# ---- attach and detach


@pytest.mark.parametrize("name, num_gates", [
    ("adapter", 0),
    ("ab", 0),
    ("ap", 2),
    ("aplb", 4),
    ("houlsby", 0),
    ("houlsby+p+l", 5),
    ("parallel+p", 2),
    ("ia3+a+b", 0),
])
def test_gates_are_on_from_two_submodules(tiny, name, num_gates):
    assert count_parameters(build(tiny, name)).get("gates", 0) == 3 * num_gates * (32 + 1)
    assert "gates" not in count_parameters(build(detach(tiny), name, gate=False))


def test_every_slot_is_listed_and_empty_at_first(tiny):
    model = BertClassifier(tiny, 2)
    found = list(slots(model))
    assert ("", model, "side") in found
    assert ("bert", tiny, "prefix") in found
    assert ("bert.encoder.layer.2.attention.self", tiny.encoder.layer[2].attention.self, "lora_value") in found
    assert len(found) == 2 + 2 + 3 * (5 + 1 + 1 + 1 + 2)
    assert all(getattr(module, slot) is None for _, module, slot in found)


def test_the_places_of_an_encoder_s_slots_begin_at_the_encoder(tiny):
    assert ("encoder.layer.0", tiny.encoder.layer[0], "adapter") in list(slots(tiny))


@pytest.mark.parametrize("first", ["head", "bitfit", "adapter", "ft", "diff", "side", "dora"])
def test_a_second_method_is_refused_until_the_first_is_detached(tiny, first):
    model = build(tiny, first)
    with pytest.raises(InputError, match="detach"):
        attach(model, Method("lora"))
    assert model.method.name == first
    attach(detach(model), Method("lora"))
    assert model.method.name == "lora"
    assert {"classifier.weight", "classifier.bias"} <= set(trained_parameters(model)), "the head always trains"


@pytest.mark.parametrize("first", ["adapter", "prefix", "lora", "houlsby", "parallel", "ia3", "prompt", "diff", "dora"])
def test_an_encoder_that_has_a_method_is_refused_in_another_classifier_too(tiny, first):
    build(tiny, first)
    with pytest.raises(InputError, match="detach"):
        attach(BertClassifier(tiny, 2), Method("lora"))


def test_detach_empties_every_slot(tiny, batch):
    plain = tiny(*batch).pooled
    names = list(dict(tiny.named_modules()))
    for name in FEW:
        if not Method(name).trains_base:
            disturb(build(tiny, name))
            detach(tiny)
            assert torch.equal(tiny(*batch).pooled, plain), name
            assert list(dict(tiny.named_modules())) == names, name


@pytest.mark.parametrize("name", METHODS)
def test_detach_leaves_plain_bert_to_the_bit(tiny, batch, name):
    """Every method, disturbed on a copy of the base: what is left is the base but for what the method trained in it."""
    model = build(copy.deepcopy(tiny), name)
    changed = {place.removeprefix("bert.") for place in model.base_parts}
    disturb(model)
    assert detach(model) is model
    assert model.method is None
    assert model.base_parts == {}
    assert trained_parameters(model) == {}
    assert all(getattr(module, slot) is None for _, module, slot in slots(model))
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    state, expected = model.bert.state_dict(), tiny.state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor) == (key not in changed), key
    model.bert.load_state_dict(expected)
    assert torch.equal(model.bert(*batch).pooled, tiny(*batch).pooled)


def test_detach_keeps_the_base_that_diff_pruning_never_changed(tiny, batch):
    plain = tiny(*batch).pooled
    model = disturb(build(copy.deepcopy(tiny), "diff"))
    assert not torch.equal(model.bert(*batch).pooled, plain)
    assert torch.equal(detach(model).bert(*batch).pooled, plain)
    names = {name for name, _ in model.bert.named_parameters()}
    assert names == {name for name, _ in tiny.named_parameters()}


@pytest.mark.parametrize("first, name", [
    ("apl", "adapter"),
    ("lora", "apl"),
    ("parallel", "parallel+a"),
    ("side", "diff"),
    ("diff", "lora"),
    ("houlsby", "ia3+a+b"),
])
def test_after_detaching_a_method_starts_as_on_a_fresh_base(tiny, first, name):
    """The random numbers, and the order of what trains, do not depend on what was in the slots before."""
    used = detach(build(copy.deepcopy(tiny), first)).bert
    starts = []
    for bert in (tiny, used):
        torch.manual_seed(7)
        starts.append(trained_parameters(build(bert, name)))
    assert list(starts[0]) == list(starts[1])
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])


# ---- nothing is without an owner


def add_method(monkeypatch, **functions):
    """Put a method called `fake` into the table and beside the files of methods/."""
    module = ModuleType("minipelt.methods.fake")
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(PARTS, "fake", Part("fake", "nothing that is of use"))


class Owned(nn.Linear):
    """A module that says which part it is of."""

    part = "fake"


class Misspelt(nn.Linear):
    """A module of a part that is not in the table."""

    part = "fade"


def put_into_the_encoder(module):
    """An `attach` that fills a slot of the encoder."""

    def attach(model, method, gate):
        model.bert.prompt = module

    return attach


def put_beside_the_encoder(module):
    """An `attach` that fills a slot of the classifier."""

    def attach(model, method, gate):
        model.side = module

    return attach


def put_into_layers(module):
    """An `attach_layer` that fills a slot of every layer."""

    def attach_layer(layer, method, gate):
        layer.parallel = copy.deepcopy(module)

    return attach_layer


def test_a_new_method_is_a_file_and_a_row(tiny, monkeypatch):
    add_method(monkeypatch, attach_layer=put_into_layers(Owned(32, 32)))
    model = attach(BertClassifier(tiny, 2), Method("fake"))
    assert count_parameters(model)["fake"] == 3 * (32 * 32 + 32)
    assert owners(model)["bert.encoder.layer.2.parallel.weight"] == "fake"
    both = attach(detach(model), Method("fake+a"))
    assert {"fake", "adapter"} < set(count_parameters(both))


@pytest.mark.parametrize("name", ["top+diff", "top+dora"])
def test_a_matrix_that_one_part_trains_and_another_rewrites_is_refused(tiny, name):
    with pytest.raises(InputError, match=r"^one part trains bert\.encoder\.[\w.]+\.weight, and another rewrites it;"):
        attach(BertClassifier(tiny, 2), Method(name))


@pytest.mark.parametrize("put, other, slot", [
    (put_into_layers, "parallel", "bert.encoder.layer.0.parallel"),
    (put_into_the_encoder, "prompt", "bert.prompt"),
    (put_beside_the_encoder, "side", "side"),
])
def test_two_parts_in_one_slot_are_refused(tiny, monkeypatch, put, other, slot):
    name = "attach_layer" if put is put_into_layers else "attach"
    add_method(monkeypatch, **{name: put(Owned(32, 32))})
    model = BertClassifier(tiny, 2)
    with pytest.raises(InputError, match=f"^{other} and fake both fill the slot {slot}; expected one module in a slot"):
        attach(model, Method(f"fake+{other}"))
    attach(detach(model), Method(f"fake+{'prompt' if other == 'parallel' else 'parallel'}"))


@pytest.mark.parametrize("module", [nn.Linear(32, 32), Misspelt(32, 32), nn.Identity()])
@pytest.mark.parametrize("put", [put_into_the_encoder, put_beside_the_encoder, put_into_layers])
def test_a_module_that_no_part_owns_is_refused(tiny, monkeypatch, module, put):
    function = put(module)
    add_method(monkeypatch, **{function.__name__: function})
    with pytest.raises(InputError, match="part"):
        attach(BertClassifier(tiny, 2), Method("fake"))


def test_a_parameter_of_the_base_that_no_part_asked_for_is_refused(tiny, monkeypatch):
    def attach_layer(layer, method, gate):
        layer.intermediate.dense.bias.requires_grad_(True)

    add_method(monkeypatch, attach_layer=attach_layer)
    with pytest.raises(InputError, match=r"bert\.encoder\.layer\.0\.intermediate\.dense\.bias .*no part owns it"):
        attach(BertClassifier(tiny, 2), Method("fake"))


def test_a_parameter_of_the_base_in_the_name_of_an_unknown_part_is_refused(tiny, monkeypatch):
    def attach_to(model, method, gate):
        unfreeze(model, "fade", {"pooler.dense.bias": model.bert.pooler.dense.bias})

    add_method(monkeypatch, attach=attach_to)
    with pytest.raises(InputError, match=r"bert\.pooler\.dense\.bias .*no part owns it"):
        attach(BertClassifier(tiny, 2), Method("fake"))


def test_every_parameter_of_every_method_has_an_owner(tiny):
    for name in FEW:
        model = build(copy.deepcopy(tiny), name)
        found = owners(model)
        assert set(found) == {place for place, _ in model.named_parameters()}, name
        assert set(found.values()) <= {"base", "gates", "head", *Method(name).parts}, name


def test_the_first_part_that_lets_a_parameter_train_owns_it(tiny):
    model = build(tiny, "bitfit+layernorm")
    assert model.base_parts["bert.embeddings.LayerNorm.bias"] == "bitfit"
    assert model.base_parts["bert.embeddings.LayerNorm.weight"] == "layernorm"


# ---- what trains


def is_intended(name, parts):
    """Whether a method with these parts trains the parameter of that name."""
    if "ft" in parts or name.startswith("classifier.") or ".gate." in name:
        return True
    signs = {
        "head": False,
        "adapter": ".adapter." in name and ".output.adapter." not in name,
        "houlsby": ".output.adapter." in name or (".LayerNorm." in name and name.startswith("bert.")),
        "layernorm": ".LayerNorm." in name and name.startswith("bert."),
        "lora": ".lora_" in name,
        "prefix": name.startswith("bert.prefix."),
        "bitfit": name.endswith(".bias") and not name.startswith("side."),
        "parallel": ".parallel." in name,
        "ia3": ".ia3" in name,
        "top": name.startswith(("bert.encoder.layer.2.", "bert.pooler.")),
        "prompt": name.startswith("bert.prompt."),
        "diff": name.endswith((".delta", ".a")),
        "side": name.startswith("side."),
        "dora": name.endswith((".weight.0.A", ".weight.0.B", ".weight.0.m")),
    }
    return any(signs[part] for part in parts)


@pytest.mark.parametrize("name", METHODS)
def test_exactly_the_intended_parameters_get_gradients(tiny, batch, name):
    model = disturb(build(tiny, name))
    extra_loss = 0
    if name == "diff":
        model.train()  # out of training the difference is a constant
        extra_loss = model.extra_loss(1, Recipe(1e-3))
    loss = model(*batch).square().sum() + extra_loss
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        intended = is_intended(parameter_name, Method(name).parts)
        assert (parameter.grad is not None) == intended, parameter_name
        if intended and not parameter_name.endswith("key.bias"):  # softmax ignores what is added to all scores alike
            assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ft"])
def test_training_leaves_the_base_as_it_was_to_the_bit(tiny, batch, name):
    before = copy.deepcopy(tiny.state_dict())
    rows = Rows(batch[0].tolist(), batch[2].tolist(), torch.tensor([0, 1, 0]))
    model, recipe = build(tiny, name), Recipe(0.1, epochs=2)
    trained = {place.removeprefix("bert.") for place in model.base_parts}
    assert len(list(train(model, rows, recipe, lambda model: 0.0, make_optimizer(model, recipe)))) == 2
    original = ".parametrizations.weight.original"
    after = {key.replace(original, ".weight"): value for key, value in tiny.state_dict().items()}
    parts = Method(name).parts
    for key, value in before.items():
        if key in trained:
            assert is_intended(f"bert.{key}", parts), key
        else:
            assert torch.equal(after[key], value), key


def test_a_pooler_that_no_checkpoint_had_trains_with_the_head(tiny):
    tiny.pooler_is_new = True
    model = build(tiny, "lora")
    assert model.bert.pooler.dense.weight.requires_grad
    assert count_parameters(model)["head"] == (32 * 32 + 32) + (32 * 2 + 2)


# ---- what the model computes


@pytest.mark.parametrize("name", [*METHODS, "apl-nogate"])
def test_padding_does_not_change_the_prediction(tiny, name):
    model = build(tiny, name.removesuffix("-nogate"), gate=not name.endswith("nogate"))
    disturb(model)
    sentence, other = torch.randint(5, 60, (1, 6)), torch.randint(5, 60, (1, 13))
    padded = torch.zeros(2, 13, dtype=torch.long)
    padded[0, :6] = sentence
    padded[1] = other
    mask = (torch.arange(13) < torch.tensor([[6], [13]])).long()
    with torch.no_grad():
        assert torch.allclose(model(sentence)[0], model(padded, mask)[0], atol=1e-5)
        assert torch.allclose(model(other)[0], model(padded, mask)[1], atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_at_the_start_the_model_is_plain_bert_where_the_method_allows(tiny, batch, name):
    plain = tiny(*batch).pooled
    started = build(tiny, name).bert(*batch).pooled
    parts = set(Method(name).parts)
    if parts & {"prefix", "prompt"}:  # vectors to attend to appear
        assert not torch.allclose(started, plain, atol=1e-4)
    elif "houlsby" in parts:  # nearly
        assert torch.allclose(started, plain, atol=2e-2)
        assert not torch.equal(started, plain)
    else:
        assert torch.equal(started, plain)


def test_dropping_the_prefix_network_keeps_the_output(tiny, batch):
    model = disturb(build(tiny, "apl"))
    before = model(*batch)
    tiny.prefix.drop_network()
    assert torch.allclose(model(*batch), before, atol=1e-6)
    assert "prefix network" not in count_parameters(model)


def test_nogate_joins_the_submodules_plainly(tiny, batch):
    """Without gates the adapter and prefix are as alone, and LoRA has its alpha / r back."""
    gated = build(copy.deepcopy(tiny), "apl")
    plain = disturb(build(tiny, "apl", gate=False))
    gated.load_state_dict(plain.state_dict(), strict=False)
    for name, module in gated.named_modules():
        if name.endswith(".gate"):
            nn.init.zeros_(module.linear.weight)
            nn.init.constant_(module.linear.bias, 50.0)  # sigmoid(50) = 1 in float32
        if "lora_" in name and name.endswith(".B"):
            module.weight.data.mul_(16 / 2)  # alpha / r
    assert torch.allclose(gated(*batch), plain(*batch), atol=1e-5)
