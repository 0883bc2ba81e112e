"""BERT, written out (Devlin et al. 2019), with the slots where the papers plug their modules in.

 Notable features:
- Modules are named as Hugging Face names them, so the keys of a BERT checkpoint are the keys of this model.
- A *slot* is an attribute that holds None. Each is used in two lines that do nothing while the slot is empty, so this
  file is plain BERT and Figure 1 of UniPELT (Mao et al. 2022) at once. The files of methods/ fill the slots; nothing
  here knows with what. The class attribute `slots` lists those of a module.
- Attention is torch's fused `scaled_dot_product_attention`; `explicit_attention` is the same formula to read, and
  returns weights.
- Post-LayerNorm, as in the original: every block ends in LayerNorm(block(x) + x).

Shape letters, here and everywhere: B batch, T tokens, D hidden size, H heads, P prefix length, R rank, M bottleneck,
N layers, C classes; in attention S for the number of keys (P + T) and d for the width of a head (D / H).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from minipelt.dropout import Dropout, dropout
from minipelt.errors import InputError

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True)
class BertConfig:
    """The numbers that fix a BERT's shape; the defaults are bert-base-uncased.

    Names are those of Hugging Face's config.json; config.py reads one.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        D, H = self.hidden_size, self.num_attention_heads
        if D % H:
            raise InputError(f"hidden_size {D} is not a multiple of num_attention_heads {H}")
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}")


class Encoded(NamedTuple):
    """What the encoder returns."""

    hidden_states: list  # N + 1 tensors (B, T, D): the embeddings, then each layer's output
    pooled: torch.Tensor  # (B, D): tanh(W h_[CLS] + b)


class BertEmbeddings(nn.Module):
    """Word + position + token type, then LayerNorm."""

    def __init__(self, config):
        super().__init__()
        D = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, D)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, D)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, D)
        self.LayerNorm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids, token_type_ids):
        """input_ids, token_type_ids (B, T) -> (B, T, D)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T)
        words = self.word_embeddings(input_ids)  # (B, T, D)
        h = words + self.position_embeddings(positions) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(h))  # (B, T, D)


def explicit_attention(query, key, value, mask, dropout_prob=0.0):
    """softmax(Q K^T / sqrt(d)) V, step by step: what `scaled_dot_product_attention` fuses into one kernel.

    query (B, H, T, d); key, value (B, H, S, d); mask (B, 1, 1, S), True where a key may be seen, or numbers to add to
    the scores. Returns the result (B, H, T, d) and the attention weights (B, H, T, S), before dropout.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    scores = query / math.sqrt(query.shape[-1]) @ key.transpose(-2, -1) + mask  # (B, H, T, S)
    weights = scores.softmax(dim=-1)  # (B, H, T, S)
    return dropout(weights, dropout_prob) @ value, weights


class BertSelfAttention(nn.Module):
    """Multi-head self-attention."""

    slots = ("lora_query", "lora_value", "ia3_key", "ia3_value", "prefix")

    def __init__(self, config):
        super().__init__()
        D = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.query = nn.Linear(D, D)
        self.key = nn.Linear(D, D)
        self.value = nn.Linear(D, D)
        self.lora_query = self.lora_value = self.ia3_key = self.ia3_value = self.prefix = None

    def split_heads(self, x):
        """(B, S, D) -> (B, H, S, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, h, mask, prefix=None, attentions=None):
        """h (B, T, D), mask (B, T), prefix (2, P, D) or None -> (B, T, D).

        Appends weights (B, H, T, P + T) to `attentions`.
        """
        q, k, v = self.query(h), self.key(h), self.value(h)  # (B, T, D) each
        if self.lora_query:
            q = q + self.lora_query(h, mask)
        if self.lora_value:
            v = v + self.lora_value(h, mask)
        if self.ia3_key:
            k = self.ia3_key(k)
        if self.ia3_value:
            v = self.ia3_value(v)
        if self.prefix:
            k, v, mask = self.prefix(h, k, v, mask, prefix)  # (B, P + T, D) twice, (B, P + T)

        q = self.split_heads(q)  # (B, H, T, d)
        k = self.split_heads(k)  # (B, H, S, d)
        v = self.split_heads(v)  # (B, H, S, d)
        mask = mask[:, None, None, :]  # (B, 1, 1, P + T): every query sees the same keys
        dropout_prob = self.dropout_prob if self.training else 0.0
        fused_is_slow = dropout_prob > 0 and q.device.type == "cpu"  # torch leaves its fused kernel then
        if attentions is None and not fused_is_slow:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_prob)
        else:
            context, weights = explicit_attention(q, k, v, mask, dropout_prob)
        if attentions is not None:
            attentions.append(weights)
        return context.transpose(1, 2).flatten(2)  # (B, H, T, D / H) -> (B, T, D)


class BertOutput(nn.Module):
    """The end of the attention block and of the feed-forward block. Its slot is for Houlsby's adapter.

    `forward` is Linear and dropout. The block's LayerNorm lives here because the checkpoints name it so, but the
    caller applies it, after the residual sum: UniPELT's adapter lies in between.
    """

    slots = ("adapter",)

    def __init__(self, in_features, config):
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.adapter = None

    def forward(self, x, mask):
        """x (B, T, in_features), mask (B, T) -> (B, T, D), before the residual and LayerNorm."""
        x = self.dropout(self.dense(x))
        if self.adapter:
            x = x + self.adapter(x, mask)
        return x


class BertAttention(nn.Module):
    """The attention block: self-attention, output projection, residual, LayerNorm."""

    def __init__(self, config):
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertOutput(config.hidden_size, config)

    def forward(self, h, mask, prefix=None, attentions=None):
        """h (B, T, D), mask (B, T) -> (B, T, D)."""
        o = self.output(self.self(h, mask, prefix, attentions), mask)  # (B, T, D)
        return self.output.LayerNorm(o + h)


class BertIntermediate(nn.Module):
    """The wide half of the feed-forward block, a module because the checkpoints name it so."""

    slots = ("ia3",)

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.ia3 = None

    def forward(self, a):
        """a (B, T, D) -> (B, T, intermediate_size)."""
        x = self.activation(self.dense(a))
        if self.ia3:
            x = self.ia3(x)
        return x


class BertLayer(nn.Module):
    """One Transformer layer: attention block, then feed-forward block. Its slot `adapter` is for UniPELT's."""

    slots = ("parallel", "adapter")

    def __init__(self, config):
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config.intermediate_size, config)
        self.parallel = self.adapter = None

    def forward(self, h, mask, prefix=None, attentions=None):
        """h (B, T, D), mask (B, T) -> (B, T, D). The names a and f are the paper's h_A and h_F."""
        a = self.attention(h, mask, prefix, attentions)  # (B, T, D)
        f = self.output(self.intermediate(a), mask)  # (B, T, D)
        if self.parallel:
            f = f + self.parallel(a, mask)
        if self.adapter:
            f = f + self.adapter(self.output.LayerNorm(f + a), mask)
        return self.output.LayerNorm(f + a)


class BertEncoder(nn.Module):
    """The stack of layers, in the module list that the checkpoints name `encoder.layer`."""

    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))


class BertPooler(nn.Module):
    """tanh(W h_[CLS] + b): one vector for the sentence."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, h):
        """h (B, T, D) -> (B, D)."""
        return torch.tanh(self.dense(h[:, 0]))


def initialise(module, config):
    """BERT's random start, for every Linear and Embedding inside: weights N(0, initializer_range), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=config.initializer_range)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


class BertModel(nn.Module):
    """The encoder. Its slot `prefix` is for a module that makes the prefixes of all layers at once."""

    part = "base"
    slots = ("prompt", "prefix")

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)
        self.pooler_is_new = False  # True when a checkpoint has no pooler: it then trains with the head
        self.fingerprint = None  # of the files that it was loaded from
        self.prompt = self.prefix = None
        initialise(self, config)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, attentions=None):
        """Encode a batch.

        input_ids (B, T) token numbers; attention_mask (B, T) 1 for real tokens, 0 for padding (default: all real);
        token_type_ids (B, T) 0 for the first text, 1 for the second (default: all 0). A list passed as `attentions`
        receives each layer's attention weights, (B, H, T, P + T); attention is then the explicit one. Returns
        Encoded(hidden_states, pooled); a prompt's P vectors stand behind [CLS] in the layers' states.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        mask = attention_mask.bool()  # (B, T)
        prefixes = [None] * len(self.encoder.layer)
        if self.prefix:
            prefixes = self.prefix()  # (N, 2, P, D)

        h = self.embeddings(input_ids, token_type_ids)
        hidden_states = [h]  # (B, T, D)
        if self.prompt:
            h, mask = self.prompt(h, mask)  # (B, P + T, D), (B, P + T)
        for layer, prefix in zip(self.encoder.layer, prefixes, strict=True):
            h = layer(h, mask, prefix, attentions)
            hidden_states.append(h)
        return Encoded(hidden_states, self.pooler(hidden_states[-1]))


class Head(nn.Linear):
    """The classifier: D -> number of outputs."""

    part = "head"


class BertClassifier(nn.Module):
    """The encoder with a head: pooled [CLS] -> dropout -> Linear. One output for regression, C for C classes.

    Its slot `extra_loss` is the one thing that a method may ask of the training loop. It holds a module, or nothing;
    with every loss the loop calls `model.extra_loss(epoch, recipe)` and adds the number that comes back.
    """

    slots = ("side", "extra_loss")

    def __init__(self, bert, num_outputs):
        super().__init__()
        self.bert = bert
        self.dropout = Dropout(bert.config.hidden_dropout_prob)
        self.classifier = Head(bert.config.hidden_size, num_outputs)
        initialise(self.classifier, bert.config)
        self.side = self.extra_loss = None
        self.method = None  # the settings.Method that `unipelt.attach` has put in
        self.base_parts = {}  # {name of a pretrained parameter that trains: the part that asked for it}

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        """The three inputs of BertModel, (B, T) each -> logits (B, C)."""
        hidden_states, pooled = self.bert(input_ids, attention_mask, token_type_ids)
        if self.side:
            pooled = self.side(hidden_states[0], attention_mask, pooled)
        return self.classifier(self.dropout(pooled))
