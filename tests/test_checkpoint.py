"""checkpoint.py: what is saved, and that broken or foreign files are refused with the model unchanged."""

import copy
import json

import pytest
import torch
from helpers import disturb
from safetensors.torch import load_file

from minipelt.batches import Rows
from minipelt.bert import BertClassifier
from minipelt.checkpoint import (
    load_settings,
    load_tensors,
    load_trained,
    load_training,
    save_tensors,
    save_training,
    trained_tensors,
)
from minipelt.errors import InputError
from minipelt.loop import make_optimizer, train
from minipelt.settings import PARTS, Method, Recipe
from minipelt.unipelt import attach, count_parameters, detach, kept_parameters, trained_parameters

A = "bert.encoder.layer.0.attention.self.lora_query.A.weight"  # (2, 32)
RECIPE = Recipe(1e-3, epochs=4, batch_size=4)
ROWS = Rows([[2, n, 3] for n in range(10, 20)], [[0] * 3] * 10, torch.arange(10) % 2)  # three steps an epoch


def methods(*fast):
    """These methods, and all others of the table for a slow test."""
    return [*fast, *(pytest.param(name, marks=pytest.mark.slow) for name in PARTS if name not in fast)]


def build(bert, name):
    """A classifier with a small method in it, in evaluation mode."""
    method = Method(name, bottleneck=4, prefix_length=5, prefix_hidden=6, rank=2)
    return attach(BertClassifier(bert, 2), method).eval()


def unchanged(model, before):
    """Whether a model has the tensors that it had."""
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def state_of(model):
    """A copy of all of a model's tensors."""
    return copy.deepcopy(model.state_dict())


# ---- what a run keeps


@pytest.mark.parametrize("name", methods("ft", "head", "bitfit", "adapter", "prefix", "lora", "apl", "aplb", "diff"))
def test_what_trained_loads_onto_the_same_base(tiny, batch, tmp_path, name):
    path = tmp_path / "trained.safetensors"
    base = copy.deepcopy(tiny)
    model = disturb(build(tiny, name))
    save_tensors(trained_tensors(model), path)
    fresh = build(base, name)
    assert not torch.allclose(fresh(*batch), model(*batch), atol=1e-4)
    load_trained(fresh, path)
    assert torch.allclose(fresh(*batch), model(*batch), atol=1e-6)
    stored = load_file(path)
    assert not any("network" in key for key in stored)
    numbers = sum(tensor.numel() for tensor in stored.values() if tensor.is_floating_point())
    assert numbers == kept_parameters(count_parameters(model)) + 2 * 32 + 2  # nothing of the base


def test_the_head_is_kept_where_nothing_trains_any_more(tiny):
    model = build(tiny, "lora")
    model.requires_grad_(False)
    assert set(trained_tensors(model)) == {"classifier.weight", "classifier.bias"}


def replaced(tensors, **changes):
    """The tensors with some of them changed: each change takes the tensor, and gives another, or None to drop it."""
    changed = dict(tensors)
    for name, change in changes.items():
        key = {"A": A, "head": "classifier.weight", "moment": f"{A}:exp_avg"}[name]
        changed[key] = change(changed[key])
        if changed[key] is None:
            del changed[key]
    return changed


WRONG_TENSORS = [
    ({"A": lambda x: None}, "lora_query.A.weight is missing"),
    ({"A": lambda x: torch.zeros(3, 32)}, r"lora_query.A.weight has shape \(3, 32\); expected \(2, 32\)"),
    ({"A": lambda x: x.T}, r"lora_query.A.weight has shape \(32, 2\); expected \(2, 32\)"),
    ({"A": lambda x: x[None]}, r"lora_query.A.weight has shape \(1, 2, 32\)"),
    ({"A": lambda x: x.half()}, "lora_query.A.weight holds torch.float16; expected torch.float32"),
    ({"A": lambda x: x.double()}, "lora_query.A.weight holds torch.float64; expected torch.float32"),
    ({"A": lambda x: x.long()}, "lora_query.A.weight holds torch.int64; expected torch.float32"),
    ({"A": lambda x: x > 0}, "lora_query.A.weight holds torch.bool; expected torch.float32"),
    ({"A": lambda x: torch.full_like(x, float("nan"))}, "lora_query.A.weight holds numbers that are not finite"),
    ({"head": lambda x: x / 0}, "classifier.weight holds numbers that are not finite"),
    ({"head": lambda x: torch.zeros(3, 32)}, r"classifier.weight has shape \(3, 32\)"),
]


@pytest.mark.parametrize("changes, message", WRONG_TENSORS, ids=[message for _, message in WRONG_TENSORS])
def test_wrong_tensors_are_refused_and_the_model_stays(tiny, tmp_path, changes, message):
    model = build(tiny, "lora")
    path, before = tmp_path / "trained.safetensors", state_of(model)
    shifted = {name: tensor + 1 for name, tensor in trained_tensors(model).items()}
    save_tensors(replaced(shifted, **changes), path)
    with pytest.raises(InputError, match=f"trained.safetensors: tensor .*{message}") as caught:
        load_trained(model, path)
    assert "\n" not in str(caught.value)
    assert unchanged(model, before)


def test_tensors_of_another_method_are_refused_and_the_model_stays(tiny, tmp_path):
    other = build(copy.deepcopy(tiny), "head")
    model = build(tiny, "lora")
    path, before = tmp_path / "trained.safetensors", state_of(model)
    save_tensors(trained_tensors(model) | {"extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="unexpected tensor extra; the method does not train it"):
        load_trained(model, path)
    save_tensors(trained_tensors(other), path)
    with pytest.raises(InputError, match="tensor bert.encoder.layer.0.* is missing"):
        load_trained(model, path)
    assert unchanged(model, before)


WRONG_PLACES = [
    lambda places: places - places.max() - 1,
    lambda places: places + 10**6,
    lambda places: torch.full_like(places, 2**31 - 1),
]


@pytest.mark.parametrize("change", WRONG_PLACES, ids=["before", "behind", "far behind"])
def test_places_outside_of_the_matrix_are_refused(tiny, tmp_path, change):
    model, path = build(tiny, "diff"), tmp_path / "trained.safetensors"
    tensors = trained_tensors(model)
    name = next(name for name in tensors if name.endswith(".places"))
    save_tensors(tensors | {name: change(tensors[name])}, path)
    with pytest.raises(InputError, match=r"trained.safetensors: bert\.encoder\.layer\.0\..*a place outside"):
        load_trained(model, path)


def test_a_wrong_place_in_the_last_matrix_leaves_the_first_one_alone(tiny, tmp_path):
    model, path = build(tiny, "diff"), tmp_path / "trained.safetensors"
    tensors, before = trained_tensors(model), state_of(model)
    *_, last = (name for name in tensors if name.endswith(".places"))
    twice = tensors[last].clone()
    twice[1] = twice[0]
    for places, message in ((tensors[last] + 10**6, "a place outside"), (twice, "places that do not rise")):
        save_tensors(tensors | {last: places}, path)
        with pytest.raises(InputError, match=f"trained.safetensors: {last.removesuffix('.places')}: {message}"):
            load_trained(model, path)
        assert unchanged(model, before)


def test_places_and_values_have_their_kind_of_number(tiny, tmp_path):
    model, path = build(tiny, "diff"), tmp_path / "trained.safetensors"
    tensors, before = trained_tensors(model), state_of(model)
    places = next(name for name in tensors if name.endswith(".places"))
    values = places.replace(".places", ".values")
    wrong = [(places, tensors[places].float()), (places, tensors[places].long()), (values, tensors[values].int())]
    for name, tensor in wrong:
        save_tensors(tensors | {name: tensor}, path)
        with pytest.raises(InputError, match=f"tensor {name} holds"):
            load_trained(model, path)
    save_tensors(tensors | {values: tensors[values] / 0}, path)
    with pytest.raises(InputError, match="not finite"):
        load_trained(model, path)
    assert unchanged(model, before)


# ---- what it takes to go on


def start(bert, name):
    """(model, optimizer) before the first step."""
    model = build(bert, name)
    return model, make_optimizer(model, RECIPE)


def epochs(model, optimizer, number, reports=()):
    """The reports of so many epochs more."""
    generator = train(model, ROWS, RECIPE, lambda model: 0.5, optimizer, reports)
    return [next(generator) for _ in range(number)]


@pytest.mark.parametrize("name", methods("ft", "apl", "diff"))
def test_a_training_goes_on_from_its_file_to_the_bit(tiny, tmp_path, name):
    """Also diff, which settles in epoch 3."""
    base, path = copy.deepcopy(tiny), tmp_path / "resume.safetensors"
    model, optimizer = start(tiny, name)
    reports = epochs(model, optimizer, 3)
    save_training(path, model, optimizer, reports)
    rest = epochs(model, optimizer, 1, reports)

    other, other_optimizer = start(base, name)
    loaded = load_training(path, other, other_optimizer, steps=3)
    assert loaded == reports
    assert epochs(other, other_optimizer, 1, loaded) == rest
    found = trained_parameters(other)
    for key, parameter in trained_parameters(model).items():
        assert torch.equal(parameter, found[key]), key
        state, expected = other_optimizer.state[found[key]], optimizer.state[parameter]
        assert all(torch.equal(state[part], expected[part]) for part in ("exp_avg", "exp_avg_sq", "step")), key


REPORT = {"epoch": 1, "loss": 0.5, "score": 0.5, "best_score": 0.5, "best_epoch": 1}


def save_some_training(path, bert, name):
    """Write a resume file as a run with that method leaves it after an epoch, though nothing has trained here."""
    model, optimizer = start(copy.deepcopy(bert), name)
    disturb(model)
    for parameter in trained_parameters(model).values():
        optimizer.state[parameter] = {"exp_avg": torch.rand_like(parameter), "exp_avg_sq": torch.rand_like(parameter)}
    save_training(path, model, optimizer, [REPORT])


@pytest.fixture
def training(tiny, tmp_path):
    """(path of a resume file, a fresh model that it is of, a fresh optimizer)."""
    path = tmp_path / "resume.safetensors"
    save_some_training(path, tiny, "lora")
    return path, *start(tiny, "lora")


def test_the_file_that_the_following_tests_break_is_whole(training):
    path, model, optimizer = training
    assert load_training(path, model, optimizer, steps=3) == [REPORT]
    assert torch.equal(model.get_parameter(A), load_file(path)[A])
    assert torch.equal(optimizer.state[model.get_parameter(A)]["exp_avg_sq"], load_file(path)[f"{A}:exp_avg_sq"])
    assert optimizer.state[model.get_parameter(A)]["step"].item() == 3


def assert_refused(training, message):
    """Loading the file fails with one sentence, and leaves model and optimizer as they were."""
    path, model, optimizer = training
    before = state_of(model)
    with pytest.raises(InputError, match=message) as caught:
        load_training(path, model, optimizer, steps=3)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert unchanged(model, before)
    assert not optimizer.state


WRONG_MOMENTS = [
    ({"moment": lambda x: None}, "A.weight:exp_avg is missing"),
    ({"moment": lambda x: x.T}, r"A.weight:exp_avg has shape \(32, 2\); expected \(2, 32\)"),
    ({"moment": lambda x: x[:1]}, r"A.weight:exp_avg has shape \(1, 32\)"),
    ({"moment": lambda x: x.flatten()}, r"A.weight:exp_avg has shape \(64,\)"),
    ({"moment": lambda x: x.half()}, "A.weight:exp_avg holds torch.float16"),
    ({"moment": lambda x: x.int()}, "A.weight:exp_avg holds torch.int32"),
    ({"moment": lambda x: x / 0}, "A.weight:exp_avg holds numbers that are not finite"),
    ({"A": lambda x: None}, "A.weight is missing"),
    ({"A": lambda x: x.T}, r"A.weight has shape \(32, 2\)"),
    ({"head": lambda x: x.half()}, "classifier.weight holds torch.float16"),
]


@pytest.mark.parametrize("changes, message", WRONG_MOMENTS, ids=[message for _, message in WRONG_MOMENTS])
def test_wrong_moments_are_refused_and_all_stays(training, changes, message):
    tensors, metadata = load_tensors(training[0])
    save_tensors(replaced(tensors, **changes), training[0], metadata)
    assert_refused(training, f"{message}.*; expected the base and method that the run began with")


def test_a_training_of_another_method_is_refused_and_all_stays(training, tiny):
    tensors, metadata = load_tensors(training[0])
    save_tensors(tensors | {"extra": torch.zeros(2)}, training[0], metadata)
    assert_refused(training, "unexpected tensor extra.*; expected the base and method")
    save_some_training(training[0], detach(copy.deepcopy(tiny)), "adapter")
    assert_refused(training, "is missing; expected the base and method")


BROKEN_REPORTS = [
    None,
    "",
    "{",
    "3",
    "null",
    "{}",
    '""',
    '"words"',
    "[]",
    "[3]",
    "[[]]",
    "[null]",
    "[" * 100_000,
    json.dumps([{}]),
    json.dumps([{**REPORT, "epoch": 2}]),
    json.dumps([{**REPORT, "epoch": "1"}]),
    json.dumps([{**REPORT, "best_epoch": 0}]),
    json.dumps([{**REPORT, "best_epoch": 2}]),
    json.dumps([{**REPORT, "best_epoch": "1"}]),
    json.dumps([{**REPORT, "best_epoch": None}]),
    json.dumps([{**REPORT, "loss": "low"}]),
    json.dumps([{**REPORT, "best_score": None}]),
    json.dumps([{key: value for key, value in REPORT.items() if key != "score"}]),
    json.dumps([REPORT, REPORT]),
]


def test_broken_reports_are_refused_and_all_stays(training):
    tensors, _ = load_tensors(training[0])
    for text in BROKEN_REPORTS:
        save_tensors(tensors, training[0], None if text is None else {"reports": text})
        assert_refused(training, "no epoch reports that can be read .*; the run cannot go on from it")


@pytest.mark.parametrize("text", ["[]", "3", '""', "{", "[" * 100_000])
def test_settings_that_are_none_are_refused(training, text):
    tensors, metadata = load_tensors(training[0])
    save_tensors(tensors, training[0], metadata | {"settings": text})
    with pytest.raises(InputError, match="resume.safetensors: no settings that can be read"):
        load_settings(training[0])


def test_a_resume_file_that_is_cut_off_or_absent_is_refused(training):
    path = training[0]
    path.write_bytes(path.read_bytes()[:-10])
    assert_refused(training, "not a whole safetensors file")
    path.unlink()
    assert_refused(training, "no such file")


# ---- files of tensors


def test_files_are_whole_or_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors({"x": torch.arange(6.0).view(2, 3).T}, path, {"note": "hello"})
    tensors, metadata = load_tensors(path)
    assert tensors["x"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert metadata["note"] == "hello"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_tensors(path)
    with pytest.raises(InputError, match="no such file"):
        load_tensors(tmp_path / "y.safetensors")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_tensors(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]
