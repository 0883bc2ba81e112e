"""The small random config of the golden values, and its weights: shared by make_golden.py and tests/test_bert.py."""

import numpy as np
import torch

RANDOM = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 16,
    "layer_norm_eps": 1e-5,
}


def random_weights(shapes, seed=20):
    """{name: tensor} for {name: shape}, drawn in the order of the names."""
    stream = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        weights[name] = torch.tensor(stream.normal(0, 0.3, size=shapes[name]), dtype=torch.float32)
    return weights
