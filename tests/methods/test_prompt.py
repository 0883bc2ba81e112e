"""methods/prompt.py: shapes, the place behind [CLS], the start."""

from dataclasses import replace

import pytest
import torch
from helpers import TINY

from minipelt.bert import BertClassifier, BertEmbeddings
from minipelt.methods.prompt import Prompt
from minipelt.settings import Method
from minipelt.unipelt import attach


def test_shapes_and_place(tiny):
    prompt = Prompt(tiny.embeddings, 4)
    h = torch.randn(2, 6, 32)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    longer, longer_mask = prompt(h, mask)
    assert longer.shape == (2, 10, 32)
    assert longer_mask.shape == (2, 10)
    assert torch.equal(longer[:, 0], h[:, 0])
    assert torch.equal(longer[:, 5:], h[:, 1:])
    assert torch.equal(longer[0, 1:5], prompt.vectors)
    assert torch.equal(longer[1, 1:5], prompt.vectors)
    assert longer_mask[1].tolist() == [True] * 7 + [False] * 3


def test_vectors_start_as_embeddings_of_words(tiny):
    vectors = Prompt(tiny.embeddings, 4).vectors
    words = tiny.embeddings.LayerNorm(tiny.embeddings.word_embeddings.weight)
    assert all((words - vector).abs().sum(dim=1).min() < 1e-5 for vector in vectors)


def test_the_words_differ_and_none_is_a_special_or_unused_one():
    """With a vocabulary as large as a BERT's: of 40 vectors nearly all are words of their own, from 1000 on."""
    embeddings = BertEmbeddings(replace(TINY, vocab_size=20_000)).eval()
    vectors = Prompt(embeddings, 40).vectors
    words = embeddings.LayerNorm(embeddings.word_embeddings.weight)
    nearest = torch.cdist(vectors, words).argmin(dim=1)
    assert torch.allclose(words[nearest], vectors, atol=1e-6)
    assert len(set(nearest.tolist())) >= 38
    assert nearest.min() >= 1000
    assert nearest.max() > 10_000


@pytest.mark.parametrize("vocab_size", [60, 1000, 1001])
def test_of_a_small_vocabulary_the_words_differ_too(vocab_size):
    embeddings = BertEmbeddings(replace(TINY, vocab_size=vocab_size)).eval()
    vectors = Prompt(embeddings, 10).vectors
    nearest = torch.cdist(vectors, embeddings.LayerNorm(embeddings.word_embeddings.weight)).argmin(dim=1)
    assert len(set(nearest.tolist())) >= 6


def test_a_prompt_of_words_is_the_sentence_with_these_words(tiny, monkeypatch):
    """Where the vectors are what position 1 ... P would have, the model reads a longer sentence."""
    attach(BertClassifier(tiny, 2), Method("prompt", prefix_length=2)).eval()
    ids = torch.tensor([[2, 10, 11, 12, 13, 3]])
    h = tiny.embeddings(ids, torch.zeros_like(ids))
    layers = h
    mask = torch.ones_like(ids).bool()
    for layer in tiny.encoder.layer:
        layers = layer(layers, mask)
    expected = tiny.pooler(layers)
    with torch.no_grad():
        tiny.prompt.vectors.copy_(h[0, 1:3])
    short = torch.cat([h[:, :1], h[:, 3:]], dim=1)
    monkeypatch.setattr(tiny.embeddings, "forward", lambda *_: short)  # the words behind the prompt keep their places
    assert torch.allclose(tiny(ids[:, [0, 3, 4, 5]])[1], expected, atol=1e-6)
