"""LayerNorm-only tuning (Houlsby et al. 2019, section 3.4): train the weights and biases of the LayerNorms.

    w * (x - mean) / deviation + b        w and b trained

Like BitFit a choice of parameters. For bert-base 38,400 of 110 million.
"""

from minipelt.methods import unfreeze


def layer_norms(bert):
    """The LayerNorm weights and biases of an encoder, as {name: parameter}."""
    return {name: parameter for name, parameter in bert.named_parameters() if ".LayerNorm." in name}


def attach(model, method, gate):
    """Let every LayerNorm train."""
    unfreeze(model, "layernorm", layer_norms(model.bert))
