"""BitFit (Ben Zaken et al. 2022): train the biases of the encoder and nothing else of it.

    W x + b        W frozen, b trained

Nothing is added to the model; the method is a choice of parameters: for bert-base 102,912 of 110 million.
"""

from minipelt.methods import unfreeze


def biases(bert):
    """The bias parameters that an encoder has of its own (Linear and LayerNorm, pooler included), as {name: parameter}.

    Call it before anything is put into the slots: a submodule's biases belong to that submodule.
    """
    return {name: parameter for name, parameter in bert.named_parameters() if name.endswith(".bias")}


def attach(model, method, gate):
    """Let every bias train."""
    unfreeze(model, "bitfit", biases(model.bert))
