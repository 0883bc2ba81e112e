"""Prompt tuning (Lester et al. 2021): P trained vectors in the input, and nowhere else.

    h_0  <-  [ h_[CLS] ; p_1 ... p_P ; h_rest ]        the vectors stand behind [CLS], where the pooler keeps looking

Prefix-tuning trains what every layer attends to; here the frozen layers have to carry the prompt upwards. P D
parameters.
"""

import torch
from torch import nn


class Prompt(nn.Module):
    """The vectors. Fills the slot `prompt` of a BertModel."""

    part = "prompt"
    equation = "h = [h_[CLS] ; p_1 ... p_P ; h_rest]"

    def __init__(self, embeddings, prompt_length):
        super().__init__()
        # Start as embeddings of random words: vectors from nowhere would be outside of what the frozen layers know
        # (section 3.2). The first thousand entries of a BERT vocabulary are special and unused ones; a small one has
        # none to spare.
        words = embeddings.word_embeddings
        first = 1000 if words.num_embeddings > 2000 else 0
        chosen = torch.randint(first, words.num_embeddings, (prompt_length,), device=words.weight.device)
        with torch.no_grad():
            self.vectors = nn.Parameter(embeddings.LayerNorm(words(chosen)))  # (P, D)

    def forward(self, h, mask):
        """h (B, T, D), mask (B, T) -> longer ones, (B, P + T, D) and (B, P + T)."""
        vectors = self.vectors.expand(len(h), -1, -1)  # (B, P, D)
        h = torch.cat([h[:, :1], vectors, h[:, 1:]], dim=1)  # (B, P + T, D)
        mask = torch.cat([mask.new_ones(vectors.shape[:2]), mask], dim=1)  # (B, P + T)
        return h, mask


def attach(model, method, gate):
    """Put a prompt into the encoder's input."""
    model.bert.prompt = Prompt(model.bert.embeddings, method.prefix_length)
