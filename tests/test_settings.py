"""settings.py: names, ranges, the table of methods, and what a run folder's run.json may hold."""

import json
from dataclasses import asdict, fields, replace

import pytest

from minipelt.errors import InputError
from minipelt.glue import MINIGLUE
from minipelt.settings import (
    HYPERPARAMETERS,
    PARTS,
    Data,
    Method,
    Recipe,
    Run,
    canonical_name,
    default_learning_rate,
    full_path,
    method_label,
)

# ---- names


@pytest.mark.parametrize("name, canonical", [
    ("apl", "apl"),
    ("lpa", "apl"),
    ("bp", "pb"),
    ("a", "adapter"),
    ("lora", "lora"),
    ("LoRA", "lora"),
    ("ft", "ft"),
    ("head", "head"),
    ("houlsby", "houlsby"),
    ("l+houlsby", "lora+houlsby"),
    ("houlsby+pl", "prefix+lora+houlsby"),
    ("a+l", "al"),
    ("adapter+prefix", "ap"),
])
def test_canonical_names(name, canonical):
    assert canonical_name(name) == canonical
    assert Method(name).name == canonical
    assert Method(canonical) == Method(name)


BAD_NAMES = ["", "x", "apx", "aa", "full", "adapters", "ft+a", "a+", "+", "houlsby+houlsby", "apl+l", "head+ft"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unknown_methods_are_refused(name):
    with pytest.raises(InputError, match="unknown method"):
        Method(name)


def test_the_nearest_name_is_offered():
    with pytest.raises(InputError, match=r"unknown method 'adapters' \(did you mean adapter\?\)"):
        Method("adapters")


def test_labels_name_what_is_not_the_default():
    assert method_label(Method("apl"), 1e-3) == "apl"
    assert method_label(Method("apl", gate=False), 1e-3) == "apl-nogate"
    assert method_label(Method("lora", alpha=4.0), 1e-3) == "lora-alpha4"
    assert method_label(Method("lora", alpha=4.0), 1e-3, without="alpha") == "lora"
    assert method_label(Method("lora"), 2e-3) == "lora-lr0.002"
    assert method_label(Method("lora"), 2e-3, without="learning_rate") == "lora"


def test_a_run_s_name_tells_the_settings_that_matter():
    run = Run("sst2", Method("apl", bottleneck=96), Recipe(1e-3, seed=3), glue="glue", k=500)
    assert run.name == "sst2-apl-bottleneck96-k500-seed3"
    assert replace(run, k=None).name == "sst2-apl-bottleneck96-seed3"


def test_a_run_s_name_tells_sample_rows_other_bases_and_own_files():
    run = Run("sst2", Method("lora"), Recipe(1e-3), glue="glue")
    own = Data("sst2.csv", "dev.csv", labels=("no", "yes"))
    for change, name in (
        ({"glue": "miniglue"}, "sst2-sample-lora-seed1"),
        ({"model": "/home/me/weights/all-MiniLM-L6-v2"}, "sst2-lora-seed1"),
        ({"model": "google-bert/bert-base-uncased"}, "sst2-bert-base-uncased-lora-seed1"),
        ({"model": "tiny/", "glue": "miniglue"}, "sst2-sample-tiny-lora-seed1"),
        ({"task": "mine", "data": own, "glue": ""}, "mine-lora-seed1"),
        ({"data": own, "glue": ""}, "sst2-own-lora-seed1"),  # else it would pass for GLUE's
    ):
        assert replace(run, **change).name == name


# ---- the table of methods


def test_the_table_in_its_order():
    """The order fixes canonical names, and the random numbers that each part of a union draws."""
    first = ["ft", "head", "adapter", "prefix", "lora", "bitfit", "houlsby", "parallel", "ia3", "layernorm"]
    assert list(PARTS) == [*first, "top", "prompt", "diff", "side", "dora"]
    assert {part.letter: name for name, part in PARTS.items() if part.letter} == {
        "a": "adapter",
        "p": "prefix",
        "l": "lora",
        "b": "bitfit",
    }
    assert all(part.name == name and part.trains for name, part in PARTS.items())


def test_which_parts_can_have_a_gate_and_which_train_the_base():
    gateable = {name for name, part in PARTS.items() if part.gateable}
    trains_base = {name for name, part in PARTS.items() if part.trains_base}
    assert gateable == {"adapter", "prefix", "lora", "houlsby", "parallel"}
    assert trains_base == {"ft", "bitfit", "houlsby", "layernorm", "top", "diff", "dora"}


def test_what_a_row_uses_is_a_hyperparameter():
    names = {each.name for each in fields(Method)} - {"name", "gate"}
    for part in PARTS.values():
        assert {*part.uses, *part.uses_ungated} <= names, part.name
    assert set(HYPERPARAMETERS) < names  # prefix_hidden is none that a command line offers


@pytest.mark.parametrize("name, gated", [
    ("adapter", False),
    ("ab", False),
    ("pb", False),
    ("lb", False),
    ("ap", True),
    ("al", True),
    ("pl", True),
    ("apl", True),
    ("aplb", True),
    ("apb", True),
    ("alb", True),
    ("plb", True),
    ("houlsby", False),
    ("houlsby+p+l", True),
    ("parallel+p", True),
    ("ia3+a+b", False),
    ("prompt+houlsby", False),
    ("layernorm+side", False),
])
def test_gates_are_on_from_two_parts_that_can_have_one(name, gated):
    assert Method(name).gated == gated
    assert not Method(name, gate=False).gated


def test_a_method_uses_what_its_parts_use():
    assert Method("lora").uses == {"rank", "alpha"}
    assert Method("apl").uses == {"bottleneck", "prefix_length", "prefix_hidden", "rank"}  # the gate stands for alpha
    assert Method("apl", gate=False).uses == Method("apl").uses | {"alpha"}
    assert Method("top").uses == {"top_layers"}
    assert Method("diff").uses == {"share"}
    assert Method("bitfit").uses == set()


def test_methods_that_compute_the_same_have_one_canonical_form():
    assert Method("lora", bottleneck=3, gate=False).canonical == Method("lora")
    assert Method("apl", alpha=2.0).canonical == Method("apl")
    assert Method("apl", gate=False, alpha=2.0).canonical == Method("apl", gate=False, alpha=2.0)
    assert Method("lora", rank=3).canonical == Method("lora", rank=3)


def test_default_learning_rates():
    assert default_learning_rate(Method("ft")) < default_learning_rate(Method("apl"))
    assert default_learning_rate(Method("apl")) == default_learning_rate(Method("lora"))
    assert default_learning_rate(Method("top", top_layers=0)) == default_learning_rate(Method("head"))
    assert default_learning_rate(Method("top")) == PARTS["top"].learning_rate


# ---- ranges and types


@pytest.mark.parametrize("settings", [
    {"bottleneck": 0},
    {"rank": -1},
    {"alpha": 0.0},
    {"prefix_length": 0},
    {"share": 0.0},
])
def test_hyperparameters_are_positive(settings):
    with pytest.raises(InputError, match="above 0"):
        Method("apl", **settings)


@pytest.mark.parametrize("settings, message", [
    ({"top_layers": -1}, "top_layers is -1; expected at least 0"),
    ({"share": 1.5}, "share is 1.5; expected at most 1"),
    ({"bottleneck": 10**6}, "bottleneck is 1000000; expected at most 65,536"),
    ({"bottleneck": 48.0}, "bottleneck is 48.0; expected int"),
    ({"bottleneck": True}, "bottleneck is True; expected int"),
    ({"alpha": float("nan")}, "alpha is nan; expected a number"),
    ({"alpha": "16"}, "alpha is '16'; expected float"),
    ({"alpha": 10**400}, "alpha is 1000"),
    ({"gate": 1}, "gate is 1; expected bool"),
    ({"rank": None}, "rank is None; expected int"),
])
def test_hyperparameters_have_their_type_and_range(settings, message):
    with pytest.raises(InputError, match=message):
        Method("apl", **settings)


@pytest.mark.parametrize("settings, message", [
    ({"learning_rate": -1.0}, "learning_rate is -1.0; expected a number above 0"),
    ({"learning_rate": float("inf")}, "learning_rate is inf"),
    ({"epochs": 0}, "epochs is 0; expected a number above 0"),
    ({"seed": -1}, "seed is -1; expected at least 0"),
    ({"seed": 10**20}, "seed is 1000"),
    ({"seed": 10**400}, "seed is 1000"),
    ({"patience": 0}, "patience is 0"),
])
def test_recipes_have_their_range(settings, message):
    with pytest.raises(InputError, match=message):
        Recipe(**{"learning_rate": 1e-3, **settings})


def test_a_run_is_of_a_known_task_and_has_a_positive_k():
    with pytest.raises(InputError, match="unknown task 'wnli'"):
        Run("wnli", Method("lora"), Recipe(1e-3))
    with pytest.raises(InputError, match="k is 0"):
        Run("sst2", Method("lora"), Recipe(1e-3), k=0)
    with pytest.raises(InputError, match="max_length is 7"):
        Run("sst2", Method("lora"), Recipe(1e-3), max_length=7)


@pytest.mark.parametrize("columns", [
    {"text": "1", "label": "label"},
    {"text": "0", "label": "1"},
    {"text": "a", "label": "a"},
    {"text": "1", "text_b": "1", "label": "2"},
])
def test_columns_are_names_or_numbers_and_each_another(columns):
    with pytest.raises(InputError, match="columns .*expected"):
        Data("train.csv", "dev.csv", **columns)


def test_own_data_is_a_task():
    data = Data("train.csv", "dev.csv", text_b="other", labels=("no", "yes"))
    run = Run("mine", Method("lora"), Recipe(1e-3), data=data)
    assert run.spec.columns == ("text", "other")
    assert run.spec.labels == ("no", "yes")
    assert run.spec.metrics == ("accuracy", "macro_f1")
    assert run.test_split == "dev"
    scored = replace(data, labels=(), regression=True, test="test.csv")
    run = replace(run, data=scored)
    assert run.spec.metrics == ("spearman", "pearson")
    assert run.spec.num_outputs == 1
    assert run.test_split == "test"


# ---- run.json


RUN = Run("sst2", Method("apl"), Recipe(1e-3), k=500)
OWN = Run("mine", Method("lora"), Recipe(1e-3), data=Data("train.csv", "dev.csv", labels=("no", "yes")))


def write_run(folder, values):
    """Write a run.json with these settings."""
    (folder / "run.json").write_text(json.dumps({"run": values}))
    return folder


@pytest.mark.parametrize("run", [RUN, OWN])
def test_a_run_loads_as_it_was_saved(tmp_path, run):
    assert Run.load(write_run(tmp_path, asdict(run))) == run
    assert Run.load(tmp_path, device="cpu") == replace(run, device="cpu")


def test_a_run_of_an_older_version_loads(tmp_path):
    """Fields that were added since have their defaults."""
    values = {"task": "rte", "method": {"name": "lora"}, "recipe": {"learning_rate": 0.001}}
    assert Run.load(write_run(tmp_path, values)) == Run("rte", Method("lora"), Recipe(0.001))


@pytest.mark.parametrize("change, message", [
    ({"task": 3}, "task is 3; expected str"),
    ({"method": None}, "method is None; expected an object"),
    ({"method": {"name": "xyz"}}, "unknown method 'xyz'"),
    ({"method": {}}, "name"),
    ({"method": {"name": ["lora"]}}, "name is .*expected str"),
    ({"recipe": {"learning_rate": "fast"}}, "learning_rate is 'fast'"),
    ({"recipe": {"learning_rate": 0.1, "speed": 3}}, "unknown field 'speed'; expected some of"),
    ({"recipe": {"learning_rate": 0.1, "seed": 10**400}}, "seed is 1000"),
    ({"colour": "red"}, "unknown field 'colour'"),
    ({"k": 1.5}, "k is 1.5"),
    ({"data": []}, "expected an object"),
    ({"data": {"train": "a"}}, "dev"),
    ({"data": {"train": "a", "dev": "b", "labels": [1, 2]}}, "labels is"),
])
def test_settings_that_are_none_are_refused_with_the_file(tmp_path, change, message):
    write_run(tmp_path, {**asdict(RUN), **change})
    with pytest.raises(InputError, match=f"run.json: not the settings of a run: .*{message}") as caught:
        Run.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"run": []}', '{"run": {"task": "sst2"}}'])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="run.json: not the settings of a run"):
        Run.load(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run.json in it; expected a run folder"):
        Run.load(tmp_path)


def test_folders_become_full_paths_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "miniglue").mkdir()
    assert full_path("mine") == str((tmp_path / "mine").resolve())
    assert full_path("miniglue") == "miniglue"
    assert full_path("bert-base-uncased") == "bert-base-uncased"


def test_the_sample_rows_have_one_name():
    assert full_path(str(MINIGLUE)) == "miniglue"


def test_a_path_that_no_file_can_record_is_refused():
    """Bytes that are no UTF-8 come as half surrogate pairs; run.json could not be read again."""
    with pytest.raises(InputError, match=r"glue is .*\\udcff.*; expected a name in UTF-8"):
        Run("sst2", Method("lora"), Recipe(1e-3), glue="rows-\udcff")
