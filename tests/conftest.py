"""Shared fixtures: seeded random numbers, the tiny BERT, the default weights, the folder of real GLUE rows."""

import copy
import os
import zlib
from pathlib import Path

import pytest
import torch
from helpers import TINY, tiny_bert, write_tiny_folder

from minipelt.weights import load

torch.set_num_threads(1)  # the tiny model gains nothing from more, and loses much where other work shares the machine


@pytest.fixture(autouse=True)
def seeded(request):
    """Random numbers that are the same in every run of a test. MINIPELT_TEST_SEED tries others."""
    name = f"{request.node.nodeid} {os.environ.get('MINIPELT_TEST_SEED', '')}"
    torch.manual_seed(zlib.crc32(name.encode()))


@pytest.fixture
def tiny(seeded):
    """A fresh random encoder with 3 layers, D = 32, H = 4."""
    return tiny_bert()


@pytest.fixture
def tiny_folder(tmp_path, tiny):
    """The tiny encoder as a folder."""
    return write_tiny_folder(tmp_path / "tiny-bert", tiny)


@pytest.fixture
def batch(seeded):
    """A padded batch for the tiny encoder: input_ids, attention_mask, token_type_ids, each (3, 9).

    The rows have 9, 5 and 7 tokens.
    """
    input_ids = torch.randint(5, TINY.vocab_size, (3, 9))
    attention_mask = (torch.arange(9) < torch.tensor([[9], [5], [7]])).long()
    token_type_ids = torch.randint(0, 2, (3, 9))
    return input_ids, attention_mask, token_type_ids


@pytest.fixture(scope="session")
def loaded_minilm():
    """The default weights and tokenizer, loaded once. Tests that change the encoder take `minilm`."""
    return load()


@pytest.fixture
def minilm(loaded_minilm):
    """The default weights and tokenizer; the encoder is a copy that the test may change."""
    bert, tokenizer = loaded_minilm
    return copy.deepcopy(bert), tokenizer


@pytest.fixture(scope="session")
def glue():
    """The folder of real GLUE rows that MINIPELT_GLUE names; tests that need it are skipped without."""
    if "MINIPELT_GLUE" not in os.environ:
        pytest.skip("MINIPELT_GLUE does not name a folder with GLUE rows")
    return Path(os.environ["MINIPELT_GLUE"])
