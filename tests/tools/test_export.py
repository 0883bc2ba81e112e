"""tools/export.py, peft.py and merge.py: PEFT's names and shapes, there and back, merging, and what is refused."""

import errno
import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import ROOT, tiny_run
from safetensors.torch import load_file, save_file

from minipelt.bert import BertClassifier
from minipelt.commands import export as export_command
from minipelt.commands import predict as predict_command
from minipelt.errors import InputError
from minipelt.experiment import load_run
from minipelt.files import load_json, save_json
from minipelt.settings import DEFAULT_MODEL, PARTS
from minipelt.tools import export
from minipelt.tools.merge import fold, merge
from minipelt.tools.peft import to_peft
from minipelt.unipelt import slots
from minipelt.weights import load

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

GOLDEN = ROOT / "tests" / "golden"
LORA_A = "base_model.model.bert.encoder.layer.2.attention.self.query.lora_A.weight"
LORA_B = "base_model.model.bert.encoder.layer.0.attention.self.value.lora_B.weight"


def logits(folder, batch):
    """What a run folder computes."""
    with torch.no_grad():
        return load_run(folder, device="cpu")[2](*batch)


def names_in(folder):
    """The files of a folder, and beside it whatever an export has left behind."""
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def exported(trained, command, tmp_path):
    """exported("lora") -> (a run folder, the PEFT folder made of it)."""

    def make(method="lora", **settings):
        folder = trained(method=method, **settings)
        assert command("export", folder, "--to", "peft", "--out", tmp_path / "peft")[0] == 0
        return folder, tmp_path / "peft"

    return make


# ---- PEFT, there and back


@pytest.mark.parametrize(
    "method, shapes",
    [
        ("lora", {LORA_A: (8, 32), LORA_B: (32, 8), "base_model.model.classifier.weight": (2, 32)}),
        ("prefix", {"prompt_embeddings": (3, 2 * 3 * 32), "base_model.classifier.bias": (2,)}),
    ],
)
def test_to_peft_and_back(exported, command, batch, tmp_path, method, shapes):
    folder, peft = exported(method)
    tensors, config = load_file(peft / "adapter_model.safetensors"), load_json(peft / "adapter_config.json")
    assert {name: tuple(tensors[name].shape) for name in shapes} == shapes
    assert config["peft_type"] == {"lora": "LORA", "prefix": "PREFIX_TUNING"}[method]
    code, out, _ = command("export", peft, "--from", "peft", "--out", tmp_path / "back")
    assert code == 0 and out == f"{tmp_path / 'back'}: run.json, trained.safetensors\n"
    assert torch.equal(logits(tmp_path / "back", batch), logits(folder, batch))
    assert load_run(tmp_path / "back")[0].task == "sst2"
    code, _, err = command("export", peft, "--from", "peft", "--out", tmp_path / "back")
    assert code == 2 and "back: exists; expected a new folder" in err


def test_the_prefix_lies_as_peft_reads_it(exported):
    """PEFT: row p holds, for layer 0, the key and then the value of virtual token p, then those of layer 1 ..."""
    folder, peft = exported("prefix")
    table = load_file(folder / "trained.safetensors")["bert.prefix.table"]
    flat = load_file(peft / "adapter_model.safetensors")["prompt_embeddings"]
    for layer in range(3):
        for which in (0, 1):
            assert torch.equal(flat[1].view(3, 2, 32)[layer, which], table[layer, which, 1])


@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_what_peft_itself_wrote(command, tmp_path, name):
    """Folders that PEFT 0.21 wrote, with the logits that it computed from them; tests/golden tells how."""
    given = ("--task", "sst2", "--model", GOLDEN / "peft-base", "--out", tmp_path / "run")
    code, _, err = command("export", GOLDEN / f"peft-{name}", "--from", "peft", *given)
    assert code == 0, err
    expected = load_json(GOLDEN / f"peft-{name}" / "logits.json")
    model = load_run(tmp_path / "run", device="cpu")[2]
    with torch.no_grad():
        found = model(torch.tensor(expected["input_ids"]), torch.tensor(expected["attention_mask"]))
    assert torch.allclose(found, torch.tensor(expected["logits"]), atol=1e-5)


@pytest.mark.parametrize(
    "model, base, revision",
    [
        (DEFAULT_MODEL, "sentence-transformers/all-MiniLM-L6-v2", None),
        ("bert-base-uncased", "bert-base-uncased", None),
        ("prajjwal1/bert-tiny@refs/pr/1", "prajjwal1/bert-tiny", "refs/pr/1"),
    ],
)
def test_the_base_is_called_as_the_hub_calls_it(tiny, tiny_folder, trained, model, base, revision):
    tensors = load_file(trained() / "trained.safetensors")
    run = replace(tiny_run(tiny_folder, "sst2", "lora"), model=model)
    settings, _ = to_peft(run, tensors, tiny.config)
    assert (settings["base_model_name_or_path"], settings["revision"]) == (base, revision)


def test_a_base_from_the_hub_is_found_again(exported, command, monkeypatch, tmp_path, tiny_folder):
    _, peft = exported()
    asked = []
    monkeypatch.setattr("minipelt.tools.peft.find", lambda name: asked.append(name) or tiny_folder)
    monkeypatch.setattr("minipelt.weights.find", lambda name: tiny_folder)
    for number, (base, revision, wanted) in enumerate((
        ("sentence-transformers/all-MiniLM-L6-v2", None, DEFAULT_MODEL),
        ("prajjwal1/bert-tiny", "refs/pr/1", "prajjwal1/bert-tiny@refs/pr/1"),
    )):
        change_config(peft, base_model_name_or_path=base, revision=revision)
        code, _, err = command("export", peft, "--from", "peft", "--out", tmp_path / f"back{number}")
        assert code == 0, err
        assert asked[-1] == wanted


def test_own_labels_go_there_and_back(trained, command, batch, tmp_path, own_data):
    folder = trained("own", "lora", own_data)
    command("export", folder, "--to", "peft", "--out", tmp_path / "peft")
    code, _, err = command("export", tmp_path / "peft", "--from", "peft", "--out", tmp_path / "back")
    assert code == 0, err
    run = load_run(tmp_path / "back")[0]
    assert (run.task, run.data.labels, run.spec.columns) == ("own", ("art", "law", "sea"), ("first", "second"))
    assert torch.equal(logits(tmp_path / "back", batch), logits(folder, batch))
    _, before, _ = command("predict", folder, "--input", own_data.train)
    assert command("predict", tmp_path / "back", "--input", own_data.train)[1] == before
    assert str(tmp_path) not in (tmp_path / "peft" / "minipelt.json").read_text()  # no path of this machine


def test_labels_for_a_folder_that_tells_none(exported, command, tmp_path):
    folder, peft = exported()
    (peft / "minipelt.json").unlink()
    code, _, err = command("export", peft, "--from", "peft", "--out", tmp_path / "back")
    assert code == 2 and "it does not tell what its head is for; expected --task or --labels" in err
    given = ("--labels", "bad, good", "--task", "films", "--text-column", "review", "--out", tmp_path / "back")
    assert command("export", peft, "--from", "peft", *given)[0] == 0
    run = load_run(tmp_path / "back")[0]
    assert (run.task, run.data.labels, run.data.text) == ("films", ("bad", "good"), "review")
    _, out, _ = command("predict", tmp_path / "back", "--text", "a fine film")
    _, before, _ = command("predict", folder, "--text", "a fine film")
    assert out == before.replace("negative", "bad").replace("positive", "good")
    for labels, message in (
        ("bad", "expected two or more different labels"),
        ("bad,bad", "expected two or more different labels"),
        ("bad,,good", "expected two or more different labels"),
        ("a,b,c", "the head has 2 outputs; expected 3"),
    ):
        code, _, err = command("export", peft, "--from", "peft", "--labels", labels, "--out", tmp_path / "other")
        assert code == 2 and message in err and err.count("\n") == 1
        assert not (tmp_path / "other").exists()


# ---- PEFT folders that are refused


def change_config(peft, **changes):
    """Change settings in a PEFT folder's adapter_config.json."""
    path = peft / "adapter_config.json"
    save_json(load_json(path) | changes, path)


UNSUPPORTED = [
    ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; expected LORA or PREFIX_TUNING"),
    ({"peft_type": ["LORA"]}, "peft_type is ['LORA']"),
    ({"task_type": "CAUSAL_LM"}, "task_type is 'CAUSAL_LM'"),
    ({"use_dora": True}, "use_dora is True"),
    ({"use_rslora": 1}, "use_rslora is 1"),
    ({"rank_pattern": {"query": 4}}, "rank_pattern is {'query': 4}"),
    ({"target_modules": ["query", "key"]}, "target_modules is"),
    ({"target_modules": ["query", 3]}, "target_modules is"),
    ({"target_modules": "query"}, "target_modules is"),
    ({"bias": "all"}, "bias is 'all'"),
    ({"bias": ["none"]}, "bias is ['none']"),
    ({"r": 4}, "has shape"),
    ({"r": "eight"}, "rank is 'eight'"),
    ({"r": True}, "rank is True"),
    ({"r": 8.0}, "rank is 8.0"),
    ({"r": 10**12}, "rank is 1000000000000; expected at most"),
    ({"lora_alpha": None}, "alpha is None"),
    ({"lora_alpha": float("nan")}, "alpha is nan"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ({"base_model_name_or_path": None}, "names no base; expected --model"),
    ({"base_model_name_or_path": 7}, "base_model_name_or_path is 7; expected a name"),
    ({"revision": ["main"]}, "revision is ['main']; expected a name"),
]


def test_peft_settings_that_are_not_computed_here(exported, command, tmp_path):
    _, peft = exported()
    whole = load_json(peft / "adapter_config.json")
    for change, message in UNSUPPORTED:
        save_json(whole | change, peft / "adapter_config.json")
        code, _, err = command("export", peft, "--from", "peft", "--out", tmp_path / "back")
        assert code == 2 and err.count("\n") == 1 and message in err, change
        assert f"adapter_{'model' if 'shape' in message else 'config'}" in err
        assert not (tmp_path / "back").exists()


ODD_VALUES = [None, True, 0, -1, 1.5, 10**30, float("inf"), "", "x", "\0", [], [1], [[]], {}, {"a": 1}, [[[[1]]]]]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prefix"])
@pytest.mark.parametrize("name", ["adapter_config.json", "minipelt.json"])
def test_every_field_of_every_file_mangled(exported, command, tmp_path, batch, name, method, monkeypatch):
    """Either it is refused in one sentence and leaves nothing, or the run computes what it did."""
    monkeypatch.setattr("minipelt.weights.fetch_from_hub", refuse_to_fetch)
    folder, peft = exported(method)
    whole = load_json(peft / name)
    expected = logits(folder, batch)
    mangled = [{**whole, key: value} for key in whole for value in ODD_VALUES]
    mangled += [{other: whole[other] for other in whole if other != key} for key in whole]
    mangled += ODD_VALUES
    for number, content in enumerate(mangled):
        (peft / name).write_text(json.dumps(content))
        out = tmp_path / f"back{number}"
        code, _, err = command("export", peft, "--from", "peft", "--out", out)
        assert code in (0, 2), (content, err)
        if code == 2:
            assert err.count("\n") == 1 and err.startswith("error: ") and not out.exists(), (content, err)
        elif "lora_alpha" not in content or content["lora_alpha"] == whole.get("lora_alpha"):
            assert torch.equal(logits(out, batch), expected), content


def refuse_to_fetch(name, folder, hashes):
    """Stands for a Hub that has nothing of that name."""
    raise InputError(f"{name}: not to be had from the Hub")


def test_nested_and_broken_json_is_one_sentence(exported, command, tmp_path):
    _, peft = exported()
    for name in ("minipelt.json", "adapter_config.json"):
        for text in ("[" * 100_000, "{", "", "[]", "null", '{"task": {}}'):
            (peft / name).write_text(text)
            code, _, err = command("export", peft, "--from", "peft", "--out", tmp_path / "back")
            assert code == 2 and err.count("\n") == 1 and name in err


def test_tensors_that_are_missing_odd_or_no_numbers(exported, command, tmp_path):
    _, peft = exported()
    path = peft / "adapter_model.safetensors"
    whole = load_file(path)
    bias = "base_model.model.classifier.bias"
    without = {name: tensor for name, tensor in whole.items() if name != bias}
    for tensors, message in (
        (without, f"tensor {bias} is missing"),
        (whole | {"extra": torch.zeros(2)}, "unexpected tensor extra"),
        (whole | {bias: torch.zeros(2, dtype=torch.long)}, f"tensor {bias} holds torch.int64"),
        (whole | {bias: torch.tensor([0.0, float("nan")])}, f"tensor {bias} holds numbers that are not finite"),
    ):
        save_file(tensors, path)
        code, _, err = command("export", peft, "--from", "peft", "--out", tmp_path / "back")
        assert code == 2 and message in err and err.count("\n") == 1
    path.write_bytes(b"\xff" * 100)
    assert "not a whole safetensors file" in command("export", peft, "--from", "peft", "--out", tmp_path / "back")[2]
    path.unlink()
    assert "no such file" in command("export", peft, "--from", "peft", "--out", tmp_path / "back")[2]
    assert not (tmp_path / "back").exists()


def test_a_prefix_for_another_base(exported, command, tmp_path):
    _, peft = exported("prefix")
    given = ("--model", GOLDEN / "peft-base", "--out", tmp_path / "back")
    _, _, err = command("export", peft, "--from", "peft", *given)
    assert "tensor base_model.classifier.weight has shape (2, 32); expected (2, 16)" in err
    assert f"base {GOLDEN / 'peft-base'}" in err
    path = peft / "adapter_model.safetensors"
    save_file(load_file(path) | {"prompt_embeddings": torch.zeros(3, 128)}, path)
    _, _, err = command("export", peft, "--from", "peft", "--out", tmp_path / "back")
    assert "prompt_embeddings has shape (3, 128); expected (3, 192)" in err


# ---- merging


SLOW_TO_MERGE = ["ft", "dora", "lora+dora", "head", "bitfit", "layernorm", "top", "ia3", "lora+layernorm", "lora+diff"]


@pytest.mark.parametrize(
    "method", ["lora", "diff", "lora+ia3", *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW_TO_MERGE]]
)
def test_merging_gives_a_plain_bert_with_the_same_output(trained, command, tiny_folder, batch, tmp_path, method):
    folder = trained(method=method)
    assert command("export", folder, "--merge", "--out", tmp_path / "merged")[0] == 0
    bert, _ = load(str(tmp_path / "merged"))  # refuses every tensor that plain BERT lacks
    head = load_file(tmp_path / "merged" / "model.safetensors")
    model = BertClassifier(bert, 2).eval()
    model.classifier.load_state_dict({name: head[f"classifier.{name}"] for name in ("weight", "bias")})
    with torch.no_grad():
        assert torch.allclose(model(*batch), logits(folder, batch), atol=1e-5)
        if method != "head":  # and the base alone gives others
            model.bert = load(str(tiny_folder))[0]
            assert not torch.allclose(model(*batch), logits(folder, batch), atol=1e-3)
    config = load_json(tmp_path / "merged" / "config.json")
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["model_type"] == "bert"
    assert config["id2label"] == {"0": "negative", "1": "positive"}


def test_a_merged_folder_tells_how_long_a_text_may_be(trained, command, tiny_folder, tmp_path):
    """Without model_max_length, transformers would hand a long text to a model that has no positions for it."""
    folder = trained()
    command("export", folder, "--merge", "--out", tmp_path / "plain")
    expected = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 128}
    assert load_json(tmp_path / "plain" / "tokenizer_config.json") == expected
    assert "vocab.txt" in names_in(tmp_path / "plain")
    for given, length in ((64, 64), (10**30, 128), (None, 128), ("x", 128)):
        settings = {"do_lower_case": False, "model_max_length": given, "mask_token": "[MASK]"}
        save_json(settings, tiny_folder / "tokenizer_config.json")
        command("export", folder, "--merge", "--out", tmp_path / f"to{given}")
        config = load_json(tmp_path / f"to{given}" / "tokenizer_config.json")
        assert config["model_max_length"] == length
        assert config["mask_token"] == "[MASK]" and config["do_lower_case"] is False


@pytest.mark.slow
def test_transformers_reads_a_merged_folder(trained, command, tmp_path):
    """A pipeline gives our own answers, and takes a text of 3,000 words. Skipped without transformers."""
    transformers = pytest.importorskip("transformers")
    folder = trained()
    command("export", folder, "--merge", "--out", tmp_path / "merged")
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "merged"), truncation=True)
    assert pipeline("a fine film " * 1000)[0]["label"] in ("negative", "positive")
    answer = pipeline("a fine film")[0]
    _, out, _ = command("predict", folder, "--text", "a fine film")
    assert out.startswith(answer["label"]) and f"{answer['label']} {answer['score']:.3f}" in out


def test_own_labels_and_scores_are_named_in_a_merged_folder(trained, command, tmp_path, own_data):
    command("export", trained("own", "lora", own_data), "--merge", "--out", tmp_path / "own")
    assert load_json(tmp_path / "own" / "config.json")["label2id"] == {"art": 0, "law": 1, "sea": 2}
    command("export", trained("stsb", "head"), "--merge", "--out", tmp_path / "stsb")
    config = load_json(tmp_path / "stsb" / "config.json")
    assert config["problem_type"] == "regression" and config["id2label"] == {"0": "score"}


def test_folding_takes_what_it_can(trained):
    model = load_run(trained(method="lora+side"))[2]
    assert fold(model) == {"lora"}
    filled = [slot for _, module, slot in slots(model) if getattr(module, slot)]
    assert filled == ["side"]
    with pytest.raises(InputError, match="lora\\+side does not fold into BERT's own weights: side cannot be merged"):
        merge(model)
    gated = load_run(trained(method="apl"))[2]
    assert fold(gated) == set()


def test_what_folds_is_what_the_texts_say(trained):
    """The README, and the help of predict and export."""
    folding, merging = set(), set()
    for part in PARTS:
        model = load_run(trained(method=part))[2]
        folding.update(fold(model))
        if not any(hasattr(getattr(module, slot), "part") for _, module, slot in slots(model)):
            merging.add(part)
    readme = (ROOT / "minipelt" / "tools" / "README.md").read_text(encoding="utf-8")
    bullet = readme.split("- `--merge`")[1].split("\n\n")[0]
    plain = readme.split("**Plain BERT.**")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", bullet)) == folding
    assert set(re.findall(r"`(\w+)`", plain)) == merging
    option = next(each for each in predict_command.make_parser("predict")._actions if each.dest == "merge")
    for text in (option.help, export_command.__doc__.split("Merging needs")[1]):
        assert set(PARTS) & set(re.findall(r"\w+", text)) == folding


@pytest.mark.parametrize(
    "method, arguments, message",
    [
        ("apl", ["--merge"], "does not fold into BERT's own weights: adapter, lora, prefix cannot be merged"),
        ("adapter", ["--to", "peft"], "is of method adapter; PEFT's format is written for lora and prefix"),
        ("ap", ["--to", "peft"], "is of method ap"),
    ],
)
def test_what_has_no_such_form(trained, command, tmp_path, method, arguments, message):
    code, _, err = command("export", trained(method=method), *arguments, "--out", tmp_path / "out")
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---- the new folder


@pytest.mark.parametrize("failing", ["save_json", "save_tensors"])
def test_a_full_disk_leaves_nothing_behind(exported, command, tmp_path, monkeypatch, failing):
    folder, peft = exported()

    def full(value, path, *rest):
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(export, failing, full)
    before = names_in(tmp_path)
    for way in ([folder, "--to", "peft"], [peft, "--from", "peft"], [folder, "--merge"]):
        code, _, err = command("export", *way, "--out", tmp_path / "out")
        assert code == 2 and err.count("\n") == 1 and "no space left on device" in err
        assert names_in(tmp_path) == before


def test_a_folder_that_cannot_be_made(trained, command, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command("export", trained(), "--merge", "--out", tmp_path / "file" / "merged")
    assert code == 2 and err.count("\n") == 1 and "merged: cannot be made" in err


def test_others_may_read_the_new_folder(exported, tmp_path):
    """A temporary folder is closed to all but its owner; what comes of it must not be."""
    _, peft = exported()
    (tmp_path / "usual").mkdir()
    assert stat.S_IMODE(peft.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--merge", "--task", "sst2"], "--task has an effect with --from alone"),
        (["--to", "peft", "--labels", "a,b"], "--labels has an effect with --from alone"),
        (["--merge", "--model", "x"], "--model has an effect with --from alone"),
        (["--merge", "--glue", "x"], "--glue has an effect with --from alone"),
        (["--from", "peft", "--text-column", "x"], "--text-column has an effect with --labels alone"),
        (["--from", "peft", "--labels", "a,b", "--glue", "x"], "--labels and --glue"),
    ],
)
def test_arguments_that_would_be_ignored_are_errors(command, arguments, message):
    code, _, err = command("export", "runs/any", "--out", "x", *arguments)
    assert code == 2 and message in err.splitlines()[-1]
