"""bert.py against golden values of the reference implementation, and its own properties."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden.random_weights import RANDOM, random_weights
from helpers import TINY
from safetensors.torch import load_file

from minipelt.bert import (
    ACTIVATIONS,
    BertClassifier,
    BertConfig,
    BertModel,
    BertOutput,
    BertSelfAttention,
    explicit_attention,
)

GOLDEN = load_file(Path(__file__).parent / "golden" / "golden.safetensors")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NOISY = replace(TINY, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.6)


# ---- against the reference


def assert_real_tokens_close(found, expected, mask):
    """found, expected (N + 1, B, T, d): equal to 1e-5 wherever the mask (B, T) is 1."""
    assert found.shape == expected.shape
    difference = (found - expected).abs() * mask[..., None]
    assert difference.max() < 1e-5


def test_minilm_agrees_with_the_reference(minilm):
    bert, _ = minilm
    inputs = [GOLDEN[f"minilm.{name}"] for name in INPUTS]
    with torch.no_grad():
        output = bert(*inputs)
    found = torch.stack(output.hidden_states)[..., ::16]
    assert_real_tokens_close(found, GOLDEN["minilm.hidden_states"], inputs[1])
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
    with torch.no_grad():
        output = bert(*inputs)
    assert_real_tokens_close(torch.stack(output.hidden_states), GOLDEN["random.hidden_states"], inputs[1])
    assert torch.allclose(output.pooled, GOLDEN["random.pooled"], atol=1e-5)


# ---- its pieces


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


def normal_distribution(x):
    """The share of a normal distribution below x."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def tanh_gelu(x):
    """GELU as the tanh formula has it."""
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("name, formula", [
    ("gelu", lambda x: x * normal_distribution(x)),
    ("gelu_new", tanh_gelu),
    ("gelu_pytorch_tanh", tanh_gelu),
    ("relu", lambda x: max(x, 0.0)),
])
def test_each_activation_is_its_formula(name, formula):
    xs = [-3.0, -1.0, -0.1, 0.0, 0.5, 2.0]
    found = ACTIVATIONS[name](torch.tensor(xs, dtype=torch.float64))
    expected = torch.tensor([formula(x) for x in xs], dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-9)


def test_a_config_s_activation_is_the_one_that_is_used(tiny):
    outputs = {}
    for name in ("gelu", "relu", "gelu_new"):
        bert = BertModel(replace(TINY, hidden_act=name)).eval()
        bert.load_state_dict(tiny.state_dict())
        wide = bert.encoder.layer[0].intermediate
        x = torch.linspace(-2, 2, 32)
        outputs[name] = wide(x)
        expected = ACTIVATIONS[name](wide.dense(x))
        assert torch.equal(outputs[name], expected)
    assert not torch.allclose(outputs["gelu"], outputs["relu"], atol=1e-2)
    assert not torch.equal(outputs["gelu"], outputs["gelu_new"])


# ---- dropout


PLACES = [
    "bert.embeddings.dropout",
    "bert.encoder.layer.1.attention.self",
    "bert.encoder.layer.1.attention.output.dropout",
    "bert.encoder.layer.1.output.dropout",
    "dropout",
]


@pytest.mark.parametrize("place", PLACES)
def test_dropout_in_each_place_and_only_while_training(tiny, batch, place):
    model = BertClassifier(tiny, 2).eval()
    torch.nn.init.normal_(model.classifier.weight)
    assert torch.equal(model(*batch), model(*batch))
    model.get_submodule(place).train()
    assert not torch.equal(model(*batch), model(*batch))


def share_of_zeros(x):
    """How much of a tensor is exactly 0."""
    return (x == 0).float().mean().item()


def test_the_rate_of_hidden_dropout_in_each_place():
    """hidden_dropout_prob, and not attention's, of the entries become 0 and the others grow to make up for it."""
    bert = BertModel(NOISY).train()
    ids = torch.randint(5, 60, (4, 64))
    x = torch.randn(4, 64, 32)
    mask = torch.ones(4, 64, dtype=torch.bool)
    assert share_of_zeros(bert.embeddings(ids, torch.zeros_like(ids))) == pytest.approx(0.3, abs=0.03)
    for output in (BertOutput(32, NOISY), bert.encoder.layer[0].attention.output):
        dropped = output(x, mask)
        assert share_of_zeros(dropped) == pytest.approx(0.3, abs=0.03)
        whole = output.eval()(x, mask)
        assert torch.allclose(dropped, torch.where(dropped == 0, 0.0, whole / 0.7), atol=1e-6)

    classifier = BertClassifier(bert, 32)
    torch.nn.init.eye_(classifier.classifier.weight)
    logits = classifier(torch.randint(5, 60, (100, 5)))  # what is left of `pooled`, with no bias
    assert share_of_zeros(logits) == pytest.approx(0.3, abs=0.05)


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("explicit", [False, True])
def test_the_rate_of_attention_dropout(explicit, device):
    """One head that attends to 64 keys alike, whose values are the unit vectors: what comes out is the weights."""
    config = replace(NOISY, hidden_size=64, num_attention_heads=1)
    attention = BertSelfAttention(config).to(device).train()
    for linear in (attention.query, attention.key, attention.value):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    torch.nn.init.eye_(attention.value.weight)
    h = torch.eye(64, device=device)[None]  # (1, T, D) with T = D = 64
    mask = torch.ones(1, 64, dtype=torch.bool, device=device)
    weights = []
    context = attention(h, mask, attentions=weights if explicit else None)
    assert share_of_zeros(context) == pytest.approx(0.6, abs=0.04)
    kept = context[context != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / 64 / 0.4), atol=1e-6)
    assert all(torch.allclose(w, torch.full_like(w, 1 / 64), atol=1e-6) for w in weights)  # those before dropout
    attention.eval()
    again = attention(h, mask, attentions=[] if explicit else None)
    assert torch.allclose(again, torch.full_like(again, 1 / 64), atol=1e-6)


# ---- kinds of number, and the GPU


def test_half_precision_runs(tiny, batch):
    full = tiny(*batch).pooled
    assert torch.allclose(tiny.to(torch.bfloat16)(*batch).pooled.float(), full, atol=0.1)


@NEEDS_GPU
def test_cuda_agrees_with_cpu(tiny, batch):
    expected = tiny(*batch).pooled
    assert torch.allclose(tiny.cuda()(*(x.cuda() for x in batch)).pooled.cpu(), expected, atol=1e-4)


def test_a_mask_of_numbers_is_added_to_the_scores():
    """log g in the mask multiplies a key's share of the softmax by g, fused or not; -inf hides the key."""
    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    g = torch.tensor([0.25, 1.0, 0.0, 1.0, 1.0])
    mask = g.log().expand(2, 1, 1, 5)
    result, weights = explicit_attention(q, k, v, mask)
    _, plain = explicit_attention(q, k, v, torch.ones(2, 1, 1, 5, dtype=torch.bool))
    expected = plain * g / (plain * g).sum(dim=-1, keepdim=True)
    assert torch.allclose(weights, expected, atol=1e-6)
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(result, fused, atol=1e-6)
