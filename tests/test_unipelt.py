"""unipelt.py: names, counts, what trains, what stays, and independence of padding, for every method."""

import copy
import itertools

import pytest
import torch

from minipelt import InputError
from minipelt.batches import Rows
from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.loop import Recipe, train
from minipelt.unipelt import Method, attach, canonical_name, count_parameters, detach, trained_parameters

COMBINATIONS = ["".join(letters) for n in range(1, 5) for letters in itertools.combinations("aplb", n)]
OTHERS = ["houlsby", "parallel", "ia3", "layernorm", "top", "prompt", "diff", "side", "houlsby+p+l", "parallel+p", "ia3+a+b", "prompt+houlsby", "layernorm+side"]
METHODS = ["ft", "head", *COMBINATIONS, *OTHERS]


def build(bert, name, **settings):
    return attach(BertClassifier(bert, 2), Method(name, bottleneck=16, prefix_length=5, prefix_hidden=6, rank=2, **settings)).eval()


def disturb(model):
    """Move every trained parameter away from its start."""
    with torch.no_grad():
        for parameter in trained_parameters(model).values(): parameter.add_(0.1 * torch.randn_like(parameter))


# ---- names


@pytest.mark.parametrize("name, canonical", [("apl", "apl"), ("lpa", "apl"), ("bp", "pb"), ("a", "adapter"), ("lora", "lora"), ("ft", "ft"), ("head", "head"),
                                             ("houlsby", "houlsby"), ("l+houlsby", "lora+houlsby"), ("houlsby+pl", "prefix+lora+houlsby"), ("a+l", "al"), ("adapter+prefix", "ap")])
def test_canonical_names(name, canonical):
    assert canonical_name(name) == canonical


@pytest.mark.parametrize("name", ["", "x", "apx", "aa", "full", "adapters", "ft+a", "a+", "+", "houlsby+houlsby", "apl+l", "head+ft"])
def test_unknown_methods_are_refused(name):
    with pytest.raises(InputError, match="unknown method"): Method(name)


@pytest.mark.parametrize("settings", [{"bottleneck": 0}, {"rank": -1}, {"alpha": 0.0}, {"prefix_length": 0}, {"top_layers": -1}, {"share": 0.0}])
def test_hyperparameters_are_positive(settings):
    with pytest.raises(InputError, match="above 0"): Method("apl", **settings)


def test_gates_are_on_from_two_submodules():
    gated = {name for name in METHODS if Method(name).gated}
    assert gated == {"ap", "al", "pl", "apl", "apb", "alb", "plb", "aplb", "houlsby+p+l", "parallel+p"}
    assert not Method("apl", gate=False).gated


# ---- counts on bert-base (the meta device holds no numbers, so this costs nothing)

GATE = 768 + 1
BASE_COUNTS = {
    "ft": {"ft": 109_482_240}, "head": {}, "bitfit": {"bitfit": 102_912}, "prefix": {"prefix": 184_320}, "lora": {"lora": 294_912},
    "adapter": {"adapter": 894_528}, "ap": {"adapter": 894_528, "prefix": 184_320, "gates": 2 * 12 * GATE},
    "apl": {"adapter": 894_528, "prefix": 184_320, "lora": 294_912, "gates": 4 * 12 * GATE},
}


@pytest.mark.parametrize("name", BASE_COUNTS)
def test_counts_on_bert_base_are_the_papers(name):
    with torch.device("meta"): model = attach(BertClassifier(BertModel(BertConfig()), 2), Method(name))
    counts = count_parameters(model)
    assert counts.pop("head") == 2 * 768 + 2
    assert counts.pop("base") == 109_482_240
    assert counts.pop("prefix network", 9_857_024) == 10 * 768 + (768 * 512 + 512) + (512 * 18432 + 18432)
    assert counts == BASE_COUNTS[name]


@pytest.mark.parametrize("name, settings, counts", [
    ("houlsby", {"bottleneck": 64}, {"houlsby": 12 * 2 * (2 * 64 * 768 + 768 + 64), "layernorm": 25 * 2 * 768}),  # 2 m d + d + m each
    ("houlsby", {"bottleneck": 8}, {"houlsby": 12 * 2 * (2 * 8 * 768 + 768 + 8), "layernorm": 25 * 2 * 768}),
    ("parallel", {}, {"parallel": 894_528}), ("layernorm", {}, {"layernorm": 38_400}), ("ia3", {}, {"ia3": 12 * 6 * 768}), ("prompt", {}, {"prompt": 7_680}),
    ("top", {"top_layers": 0}, {}), ("top", {"top_layers": 2}, {"top": 2 * 7_087_872 + 590_592}), ("top", {"top_layers": 12}, {"top": 12 * 7_087_872 + 590_592}),
    ("diff", {"share": 0.005}, {"diff": 424_656, "diff network": 2 * 84_934_656}),
])
def test_counts_of_the_other_methods_on_bert_base(name, settings, counts):
    with torch.device("meta"): model = attach(BertClassifier(BertModel(BertConfig()), 2), Method(name, **settings))
    found = count_parameters(model)
    assert (found.pop("head"), found.pop("base")) == (2 * 768 + 2, 109_482_240) and found == counts


def test_top_layers_has_a_bound(tiny):
    with pytest.raises(InputError, match="top_layers is 4; this encoder has 3 layers"): build(tiny, "top", top_layers=4)


def test_no_top_layer_is_the_head_alone(tiny):
    assert set(trained_parameters(build(tiny, "top", top_layers=0))) == set(trained_parameters(build(tiny, "head")))


def test_detach_empties_every_slot(tiny, batch):
    plain, names = tiny(*batch).pooled, list(dict(tiny.named_modules()))
    for name in METHODS:
        if Method(name).trains_base: continue
        disturb(build(tiny, name))
        detach(tiny)
        assert torch.equal(tiny(*batch).pooled, plain) and list(dict(tiny.named_modules())) == names, name


def test_counts_add_up_to_what_trains(tiny):
    for name in METHODS:
        counts = count_parameters(model := build(copy.deepcopy(tiny), name))
        trained = sum(p.numel() for p in trained_parameters(model).values())
        shown = sum(count for part, count in counts.items() if part != "base")
        if "prefix network" in counts: shown -= counts["prefix"]
        if "diff network" in counts: shown -= counts["diff"]
        assert shown == trained, name


# ---- what trains


@pytest.mark.parametrize("name", METHODS)
def test_exactly_the_intended_parameters_get_gradients(tiny, batch, name):
    model = build(tiny, name)
    disturb(model)
    if name == "diff": model.train()  # out of training the difference is a constant
    loss = model(*batch).square().sum() + (model.penalty() if model.penalty else 0)
    loss.backward()
    parts = Method(name).parts
    for parameter_name, parameter in model.named_parameters():
        intended = (
            name == "ft" or parameter_name.startswith("classifier.") or ".gate." in parameter_name
            or ("adapter" in parts and ".adapter." in parameter_name) or ("lora" in parts and ".lora_" in parameter_name)
            or ("prefix" in parts and parameter_name.startswith("bert.prefix."))
            or ("bitfit" in parts and parameter_name.endswith(".bias") and not parameter_name.startswith("side."))
            or ("houlsby" in parts and ".output.adapter." in parameter_name) or ("parallel" in parts and ".parallel." in parameter_name)
            or ({"houlsby", "layernorm"} & set(parts) and ".LayerNorm." in parameter_name) or ("ia3" in parts and ".ia3" in parameter_name)
            or ("top" in parts and parameter_name.startswith(("bert.encoder.layer.2.", "bert.pooler."))) or ("prompt" in parts and "bert.prompt." in parameter_name)
            or ("diff" in parts and parameter_name.endswith((".delta", ".a"))) or ("side" in parts and parameter_name.startswith("side."))
        )
        assert (parameter.grad is not None) == intended, parameter_name
        if intended and not parameter_name.endswith("key.bias"):  # softmax ignores what is added to every key's score alike
            assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ft"])
def test_training_leaves_the_base_as_it_was_to_the_bit(tiny, batch, name):
    before, parts = copy.deepcopy(tiny.state_dict()), Method(name).parts
    rows = Rows(batch[0].tolist(), batch[2].tolist(), torch.tensor([0, 1, 0]))
    train(build(tiny, name), rows, Recipe(0.1, epochs=3), lambda model: 0.0)
    after = {key.replace(".parametrizations.weight.original", ".weight"): value for key, value in tiny.state_dict().items()}
    for key, value in before.items():
        if "bitfit" in parts and key.endswith(".bias"): continue
        if {"houlsby", "layernorm"} & set(parts) and ".LayerNorm." in key: continue
        if "top" in parts and key.startswith(("encoder.layer.2.", "pooler.")): continue
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
    padded[0, :6], padded[1] = sentence, other
    mask = (torch.arange(13) < torch.tensor([[6], [13]])).long()
    with torch.no_grad():
        assert torch.allclose(model(sentence)[0], model(padded, mask)[0], atol=1e-5)
        assert torch.allclose(model(other)[0], model(padded, mask)[1], atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_at_the_start_the_model_is_plain_bert_where_the_method_allows(tiny, batch, name):
    plain = tiny(*batch).pooled
    started = build(tiny, name).bert(*batch).pooled
    parts = Method(name).parts
    if "houlsby" in parts and not {"prefix", "prompt"} & set(parts): assert torch.allclose(started, plain, atol=2e-2) and not torch.equal(started, plain)
    elif {"prefix", "prompt"} & set(parts): assert not torch.allclose(started, plain, atol=1e-4)  # vectors to attend to appear
    else: assert torch.equal(started, plain)


def test_dropping_the_prefix_network_keeps_the_output(tiny, batch):
    model = build(tiny, "apl")
    disturb(model)
    before = model(*batch)
    tiny.prefix.drop_network()
    assert torch.allclose(model(*batch), before, atol=1e-6)
    assert "prefix network" not in count_parameters(model)


def test_nogate_joins_the_submodules_plainly(tiny, batch):
    """Without gates the adapter and prefix are as alone, and LoRA has its alpha / r back."""
    gated, plain = build(copy.deepcopy(tiny), "apl"), build(tiny, "apl", gate=False)
    disturb(plain)
    gated.load_state_dict(plain.state_dict(), strict=False)
    for name, module in gated.named_modules():
        if name.endswith(".gate"):
            torch.nn.init.zeros_(module.linear.weight)
            torch.nn.init.constant_(module.linear.bias, 50.0)  # sigmoid(50) = 1 in float32
        if "lora_" in name and name.endswith(".B"): module.weight.data.mul_(16 / 2)  # alpha / r
    assert torch.allclose(gated(*batch), plain(*batch), atol=1e-5)
