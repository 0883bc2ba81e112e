"""BitFit (Ben Zaken et al. 2022): train the biases of the encoder and nothing else of it.

    W x + b        W frozen, b trained

Nothing is added to the model; the method is a choice of parameters: for bert-base 102,912 of 110 million.
"""

from minipelt.methods import unfreeze


def biases(bert):
    """The bias parameters that an encoder has of its own (Linear and LayerNorm, pooler included), as {name: parameter}.

    Where slots are full it names the biases in there as well; they train already, and `unfreeze` passes them by.
    """
    return {name: parameter for name, parameter in bert.named_parameters() if name.endswith(".bias")}


def attach(model, method, gate):
    """Let every bias train."""
    unfreeze(model, "bitfit", biases(model.bert))
