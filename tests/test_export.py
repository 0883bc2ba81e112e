"""export.py: PEFT's names and shapes, the way there and back, merging, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minipelt.bert import BertClassifier
from minipelt.experiment import load_run, new_folder, prepare, run_experiment
from minipelt.export import main
from minipelt.weights import load
from test_train import tiny_run


@pytest.fixture
def trained(tiny_folder, tmp_path):
    """trained(method) -> a run folder on SST-2, its trained tensors moved far from the base."""
    def make(method):
        run = tiny_run(tiny_folder, "sst2", method, epochs=1, k=20, valid_rows=10)
        run_experiment(prepare(run), folder := new_folder(run, tmp_path / "runs"))
        tensors = load_file(folder / "trained.safetensors")
        save_file({name: t + 0.3 * torch.randn_like(t) if t.is_floating_point() else t for name, t in tensors.items()}, folder / "trained.safetensors")
        return folder
    return make


def logits(folder, batch):
    with torch.no_grad(): return load_run(folder, device="cpu")[2](*batch)


@pytest.mark.parametrize("method, keys", [
    ("lora", {"base_model.model.bert.encoder.layer.2.attention.self.query.lora_A.weight": (8, 32),
              "base_model.model.bert.encoder.layer.0.attention.self.value.lora_B.weight": (32, 8), "base_model.model.classifier.weight": (2, 32)}),
    ("prefix", {"prompt_embeddings": (3, 2 * 3 * 32), "base_model.classifier.bias": (2,)}),
])
def test_to_peft_and_back(trained, tiny_folder, batch, tmp_path, capsys, method, keys):
    folder = trained(method)
    assert main([str(folder), "--to", "peft", "--out", str(tmp_path / "peft")]) == 0
    tensors, config = load_file(tmp_path / "peft/adapter_model.safetensors"), json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert {name: tuple(tensors[name].shape) for name in keys} == keys and config["peft_type"] == {"lora": "LORA", "prefix": "PREFIX_TUNING"}[method]
    assert main([str(tmp_path / "peft"), "--from", "peft", "--task", "sst2", "--out", str(tmp_path / "back")]) == 0
    assert torch.equal(logits(tmp_path / "back", batch), logits(folder, batch))
    assert main([str(tmp_path / "peft"), "--from", "peft", "--task", "sst2", "--out", str(tmp_path / "back")]) == 2
    assert "back: exists; expected a new folder" in capsys.readouterr().err


def test_the_prefix_lies_as_peft_reads_it(trained, tmp_path):
    """PEFT: row p holds, for layer 0, the key and then the value of virtual token p, then those of layer 1 ..."""
    folder = trained("prefix")
    main([str(folder), "--to", "peft", "--out", str(tmp_path / "peft")])
    table, flat = load_file(folder / "trained.safetensors")["bert.prefix.table"], load_file(tmp_path / "peft/adapter_model.safetensors")["prompt_embeddings"]
    for layer in range(3):
        for which in (0, 1): assert torch.equal(flat[1].view(3, 2, 32)[layer, which], table[layer, which, 1])


@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_what_peft_itself_wrote(tmp_path, name):
    """Folders that PEFT 0.21 wrote, with the logits that it computed from them; tests/golden tells how."""
    golden = Path(__file__).parent / "golden" / f"peft-{name}"
    base = Path(__file__).parent / "golden" / "peft-base"
    assert main([str(golden), "--from", "peft", "--task", "sst2", "--model", str(base), "--out", str(tmp_path / "run")]) == 0
    expected = json.loads((golden / "logits.json").read_text())
    model = load_run(tmp_path / "run", device="cpu")[2]
    with torch.no_grad(): found = model(torch.tensor(expected["input_ids"]), torch.tensor(expected["attention_mask"]))
    assert torch.allclose(found, torch.tensor(expected["logits"]), atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "ft", "head", "bitfit", "layernorm", "top", "diff", "ia3", "lora+layernorm", "lora+diff", "lora+ia3"])
def test_merging_gives_a_plain_bert_with_the_same_output(trained, tiny_folder, batch, tmp_path, method):
    folder = trained(method)
    assert main([str(folder), "--merge", "--out", str(tmp_path / "merged")]) == 0
    bert, tokenizer = load(str(tmp_path / "merged"))  # refuses every tensor that plain BERT lacks
    model, head = BertClassifier(bert, 2).eval(), load_file(tmp_path / "merged/model.safetensors")
    model.classifier.load_state_dict({name: head[f"classifier.{name}"] for name in ("weight", "bias")})
    with torch.no_grad():
        assert torch.allclose(model(*batch), logits(folder, batch), atol=1e-5)
        if method != "head":  # and the base alone gives others
            model.bert = load(str(tiny_folder))[0]
            assert not torch.allclose(model(*batch), logits(folder, batch), atol=1e-3)
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"] and config["id2label"] == {"0": "negative", "1": "positive"}


@pytest.mark.parametrize("method, arguments, message", [
    ("apl", ["--merge"], "does not fold into BERT's own weights"), ("adapter", ["--to", "peft"], "is of method adapter; PEFT's format is written for lora and prefix"),
    ("ap", ["--to", "peft"], "is of method ap"),
])
def test_what_has_no_such_form(trained, tmp_path, capsys, method, arguments, message):
    assert main([str(trained(method)), *arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("change, message", [
    ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; expected LORA or PREFIX_TUNING"), ({"use_dora": True}, "use_dora is True"),
    ({"target_modules": ["query", "key"]}, "target_modules is"), ({"bias": "all"}, "bias is 'all'"), ({"r": 4}, "has shape"),
    ({"r": "eight"}, "sizes are missing or no numbers"), ({"lora_alpha": None}, "sizes are missing or no numbers"), ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
])
def test_peft_folders_that_we_cannot_compute(trained, tmp_path, capsys, change, message):
    main([str(trained("lora")), "--to", "peft", "--out", str(tmp_path / "peft")])
    path = tmp_path / "peft/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert main([str(tmp_path / "peft"), "--from", "peft", "--task", "sst2", "--out", str(tmp_path / "back")]) == 2
    assert message in capsys.readouterr().err


def test_a_prefix_for_another_base_and_a_folder_without_one(trained, tmp_path, capsys):
    main([str(trained("prefix")), "--to", "peft", "--out", str(tmp_path / "peft")])
    base = str(Path(__file__).parent / "golden" / "peft-base")
    assert main([str(tmp_path / "peft"), "--from", "peft", "--task", "sst2", "--model", base, "--out", str(tmp_path / "back")]) == 2
    path = tmp_path / "peft/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    assert main([str(tmp_path / "peft"), "--from", "peft", "--task", "sst2", "--out", str(tmp_path / "back")]) == 2
    path.write_text("[]")
    assert main([str(tmp_path / "peft"), "--from", "peft", "--task", "sst2", "--out", str(tmp_path / "back")]) == 2
    err = capsys.readouterr().err
    for message in ("prompt_embeddings has shape (3, 192); expected (3, 64)", "names no base; expected --model", "expected a JSON object"): assert message in err


def test_a_missing_tensor_and_a_missing_task(trained, tmp_path, capsys):
    main([str(trained("lora")), "--to", "peft", "--out", str(tmp_path / "peft")])
    assert main([str(tmp_path / "peft"), "--from", "peft", "--out", str(tmp_path / "back")]) == 2
    tensors = load_file(tmp_path / "peft/adapter_model.safetensors")
    tensors.pop("base_model.model.classifier.bias")
    save_file(tensors, tmp_path / "peft/adapter_model.safetensors")
    assert main([str(tmp_path / "peft"), "--from", "peft", "--task", "sst2", "--out", str(tmp_path / "back")]) == 2
    err = capsys.readouterr().err
    assert "--from without --task" in err and "tensor base_model.model.classifier.bias is missing" in err
