"""bert.py against golden values of the reference implementation, and its own properties."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golden.random_weights import RANDOM, random_weights
from minipelt import InputError
from minipelt.bert import BertClassifier, BertConfig, BertModel, explicit_attention

GOLDEN = load_file(Path(__file__).parent / "golden" / "golden.safetensors")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def assert_real_tokens_close(found, expected, mask):
    """found, expected (N + 1, B, T, d): equal to 1e-5 wherever the mask (B, T) is 1."""
    assert found.shape == expected.shape
    difference = (found - expected).abs() * mask[..., None]
    assert difference.max() < 1e-5


def test_minilm_agrees_with_the_reference(minilm):
    bert, _ = minilm
    inputs = [GOLDEN[f"minilm.{name}"] for name in INPUTS]
    with torch.no_grad(): output = bert(*inputs)
    assert_real_tokens_close(torch.stack(output.hidden_states)[..., ::16], GOLDEN["minilm.hidden_states"], inputs[1])
    assert torch.allclose(output.pooled, GOLDEN["minilm.pooled"], atol=1e-5)


def test_minilm_tokenizer_agrees_with_the_reference(minilm):
    _, tokenizer = minilm
    encoding = tokenizer.encode("The train was late again !", "Unaffable naïve café")
    length = int(GOLDEN["minilm.attention_mask"][1].sum())
    assert encoding.ids == GOLDEN["minilm.input_ids"][1, :length].tolist()
    assert encoding.type_ids == GOLDEN["minilm.token_type_ids"][1, :length].tolist()


def test_random_config_agrees_with_the_reference():
    bert = BertModel(BertConfig(**RANDOM)).eval()
    bert.load_state_dict(random_weights({name: p.shape for name, p in bert.named_parameters()}))
    inputs = [GOLDEN[f"random.{name}"] for name in INPUTS]
    with torch.no_grad(): output = bert(*inputs)
    assert_real_tokens_close(torch.stack(output.hidden_states), GOLDEN["random.hidden_states"], inputs[1])
    assert torch.allclose(output.pooled, GOLDEN["random.pooled"], atol=1e-5)


def test_shapes(tiny, batch):
    output = tiny(*batch)
    assert [h.shape for h in output.hidden_states] == [(3, 9, 32)] * 4
    assert output.pooled.shape == (3, 32)
    assert BertClassifier(tiny, 5)(*batch).shape == (3, 5)


def test_explicit_attention_equals_the_fused_kernel(tiny, batch):
    weights = []
    fused, explicit = tiny(*batch), tiny(*batch, attentions=weights)
    assert torch.allclose(fused.hidden_states[-1], explicit.hidden_states[-1], atol=1e-5)
    assert [w.shape for w in weights] == [(3, 4, 9, 9)] * 3
    assert torch.allclose(weights[0].sum(-1), torch.ones(3, 4, 9))
    assert weights[0][1, :, :, 5:].abs().max() == 0  # nobody looks at padding


def test_explicit_attention_is_the_formula():
    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    result, weights = explicit_attention(q, k, v, mask)
    for b, h, t in ((0, 0, 0), (1, 2, 4)):
        scores = torch.stack([q[b, h, t] @ k[b, h, s] / 2 for s in range(5)])  # sqrt(4) = 2
        expected = torch.exp(scores) / torch.exp(scores).sum()
        assert torch.allclose(weights[b, h, t], expected, atol=1e-6)
        assert torch.allclose(result[b, h, t], expected @ v[b, h], atol=1e-6)


def test_defaults_are_all_real_and_first_text(tiny):
    ids = torch.randint(5, 60, (2, 6))
    explicit = tiny(ids, torch.ones_like(ids), torch.zeros_like(ids))
    assert torch.equal(tiny(ids).pooled, explicit.pooled)


@pytest.mark.parametrize("place", ["bert.embeddings.dropout", "bert.encoder.layer.1.attention.self", "bert.encoder.layer.1.attention.output.dropout",
                                   "bert.encoder.layer.1.output.dropout", "dropout"])
def test_dropout_in_each_place_and_only_while_training(tiny, batch, place):
    model = BertClassifier(tiny, 2).eval()
    torch.nn.init.normal_(model.classifier.weight)
    assert torch.equal(model(*batch), model(*batch))
    model.get_submodule(place).train()
    assert not torch.equal(model(*batch), model(*batch))


@pytest.mark.parametrize("raw, message", [
    ({"hidden_act": "swish"}, "hidden_act"),
    ({"hidden_size": 30, "num_attention_heads": 4}, "multiple"),
    ({"model_type": "roberta"}, "model_type"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "decoder"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0; expected a whole number above 0"),
    ({"hidden_size": "384"}, "hidden_size is '384'"),
    ([], "expected a JSON object"),
])
def test_config_refuses_what_it_cannot_compute(tmp_path, raw, message):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=message): BertConfig.from_json(tmp_path / "config.json")


def test_half_precision_runs(tiny, batch):
    full = tiny(*batch).pooled
    assert torch.allclose(tiny.to(torch.bfloat16)(*batch).pooled.float(), full, atol=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees_with_cpu(tiny, batch):
    expected = tiny(*batch).pooled
    assert torch.allclose(tiny.cuda()(*(x.cuda() for x in batch)).pooled.cpu(), expected, atol=1e-4)
