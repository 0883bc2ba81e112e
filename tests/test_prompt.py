"""prompt.py: shapes, the place behind [CLS], the start."""

import torch

from minipelt.bert import BertClassifier
from minipelt.prompt import Prompt
from minipelt.unipelt import Method, attach


def test_shapes_and_place(tiny):
    prompt = Prompt(tiny.embeddings, 4)
    h, mask = torch.randn(2, 6, 32), torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    longer, longer_mask = prompt(h, mask)
    assert longer.shape == (2, 10, 32) and longer_mask.shape == (2, 10)
    assert torch.equal(longer[:, 0], h[:, 0]) and torch.equal(longer[:, 5:], h[:, 1:]) and torch.equal(longer[0, 1:5], prompt.vectors)
    assert longer_mask[1].tolist() == [True] * 7 + [False] * 3


def test_vectors_start_as_embeddings_of_words(tiny):
    vectors, words = Prompt(tiny.embeddings, 4).vectors, tiny.embeddings.LayerNorm(tiny.embeddings.word_embeddings.weight)
    assert all((words - vector).abs().sum(dim=1).min() < 1e-5 for vector in vectors)


def test_a_prompt_of_words_is_the_sentence_with_these_words(tiny, monkeypatch):
    """Where the vectors are what position 1 ... P would have, the model reads a longer sentence."""
    attach(BertClassifier(tiny, 2), Method("prompt", prefix_length=2)).eval()
    ids = torch.tensor([[2, 10, 11, 12, 13, 3]])
    h = tiny.embeddings(ids, torch.zeros_like(ids))
    layers, mask = h, torch.ones_like(ids).bool()
    for layer in tiny.encoder.layer: layers = layer(layers, mask)
    expected = tiny.pooler(layers)
    with torch.no_grad(): tiny.prompt.vectors.copy_(h[0, 1:3])
    short = torch.cat([h[:, :1], h[:, 3:]], dim=1)
    monkeypatch.setattr(tiny.embeddings, "forward", lambda *_: short)  # the words behind the prompt keep their places
    assert torch.allclose(tiny(ids[:, [0, 3, 4, 5]])[1], expected, atol=1e-6)
