"""What theory says a step costs: the multiplications and additions of its products, counted on paper, and memory.

    (n, k) @ (k, m) takes 2 n k m of them: so many products, and so many sums.

A pass makes each product once. In the backward pass each has two gradients, one for each factor, and each of them is a
product of the same cost. A frozen weight needs none, so a layer of the frozen base costs twice its forward pass and not
three times.
"""

from minipelt.bert import BertConfig
from minipelt.settings import Method


def product(n: int, k: int, m: int) -> int:
    """(n, k) @ (k, m)."""
    return 2 * n * k * m


def base_products(config: BertConfig, B: int, T: int) -> int:
    """Products of activations with the base's weights, in one pass over B rows of T tokens."""
    D, wide = config.hidden_size, config.intermediate_size
    attention = 4 * product(B * T, D, D)  # query, key, value, output
    feed_forward = product(B * T, D, wide) + product(B * T, wide, D)
    pooler = product(B, D, D)
    return config.num_hidden_layers * (attention + feed_forward) + pooler


def attention_products(config: BertConfig, method: Method, B: int, T: int) -> int:
    """Products of activations with activations: scores, and weights with values. A prefix makes the keys longer."""
    keys = T + method.prefix_length if "prefix" in method.parts else T
    return config.num_hidden_layers * 2 * product(B * T, config.hidden_size, keys)


def method_products(config: BertConfig, method: Method, B: int, T: int) -> int:
    """Products with the weights that a method adds to the layers."""
    D = config.hidden_size
    cost, gates = 0, 0
    if "adapter" in method.parts:
        cost += product(B * T, D, method.bottleneck) + product(B * T, method.bottleneck, D)
        gates += 1
    if "prefix" in method.parts:
        gates += 1
    if "lora" in method.parts:
        cost += 2 * (product(B * T, D, method.rank) + product(B * T, method.rank, D))  # query and value
        gates += 2
    if method.gated:
        cost += gates * product(B * T, D, 1)
    return config.num_hidden_layers * cost


def prefix_network(config: BertConfig, method: Method) -> int:
    """Products that make the prefixes of all layers, while training."""
    if "prefix" not in method.parts:
        return 0
    P, hidden, D = method.prefix_length, method.prefix_hidden, config.hidden_size
    return product(P, D, hidden) + product(P, hidden, 2 * config.num_hidden_layers * D)


def inference_flops(config: BertConfig, method: Method, B: int, T: int, num_outputs: int = 2) -> int:
    """One pass over B rows of T tokens; of ft, adapter, prefix, lora and their unions."""
    head = product(B, config.hidden_size, num_outputs)
    return (
        base_products(config, B, T) + attention_products(config, method, B, T)
        + method_products(config, method, B, T) + head
    )


def training_flops(config: BertConfig, method: Method, B: int, T: int, num_outputs: int = 2) -> int:
    """Forward and backward. The first layer, where some gradients are not needed, counts like the others."""
    base = 3 if method.name == "ft" else 2
    head = product(B, config.hidden_size, num_outputs)
    return (
        base * base_products(config, B, T)
        + 3 * attention_products(config, method, B, T)
        + 3 * (method_products(config, method, B, T) + prefix_network(config, method) + head)
    )


def kept_bytes(config: BertConfig, method: Method, B: int, T: int) -> int:
    """About what the layers keep for the backward pass on a CPU with dropout; of adapter, prefix, lora and unions.

    What is kept are the factors of products that need a gradient, and the inputs of what is not linear. A frozen layer
    keeps nothing but its own weight. The first layer, of which some methods keep nothing, counts like the others.
    """
    D, H = config.hidden_size, config.num_attention_heads
    keys = T + method.prefix_length if "prefix" in method.parts else T
    kept = 3 * D + 3 * H * keys  # query, key, value; attention weights, their dropout, and what it leaves
    kept += 2 * D + 2 * D + config.intermediate_size  # dropout twice, the input of two LayerNorms and of GELU
    if "adapter" in method.parts:
        kept += 2 * D + method.bottleneck  # its LayerNorm's input, its own, and what is between its matrices
        kept += D if method.gated else 0  # what its gate scales
    if "lora" in method.parts:
        kept += D + 2 * method.rank
        kept += 2 * D if method.gated else 0
    return 4 * config.num_hidden_layers * B * T * kept  # float32
