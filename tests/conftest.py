"""Shared fixtures: a tiny random BERT in memory and on disk, the default weights, the folder of real GLUE rows."""

import copy
import json
import os
import string
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minipelt.bert import BertConfig, BertModel
from minipelt.weights import load

torch.set_num_threads(1)  # the tiny model gains nothing from more, and loses much where other work shares the machine

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase), *"0123456789.,'?!"]
TINY = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, max_position_embeddings=128)


@pytest.fixture
def tiny():
    """A fresh random encoder with 3 layers, D = 32, H = 4. Larger weights than BERT's 0.02, so that every path matters."""
    bert = BertModel(TINY)
    with torch.no_grad():
        for parameter in bert.parameters(): parameter.add_(0.1 * torch.randn_like(parameter))
    return bert.eval()


@pytest.fixture
def tiny_folder(tmp_path, tiny):
    """The tiny encoder as a folder: config.json, model.safetensors, vocab.txt (letters, so any text tokenises)."""
    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(asdict(TINY)))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    save_file(tiny.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def batch():
    """A padded batch for the tiny encoder: input_ids, attention_mask, token_type_ids, each (3, 9); rows of 9, 5 and 7 tokens."""
    input_ids = torch.randint(5, TINY.vocab_size, (3, 9))
    attention_mask = (torch.arange(9) < torch.tensor([[9], [5], [7]])).long()
    token_type_ids = torch.randint(0, 2, (3, 9))
    return input_ids, attention_mask, token_type_ids


@pytest.fixture(scope="session")
def loaded_minilm():
    return load()


@pytest.fixture
def minilm(loaded_minilm):
    """The default weights and tokenizer; the encoder is a copy that the test may change."""
    bert, tokenizer = loaded_minilm
    return copy.deepcopy(bert), tokenizer


@pytest.fixture(scope="session")
def glue():
    """The folder of real GLUE rows that MINIPELT_GLUE names; tests that need it are skipped without."""
    if "MINIPELT_GLUE" not in os.environ: pytest.skip("MINIPELT_GLUE does not name a folder with GLUE rows")
    return Path(os.environ["MINIPELT_GLUE"])
