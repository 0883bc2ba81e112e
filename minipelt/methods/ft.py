"""Fine-tuning: every weight of the encoder trains. What all the other methods are measured against.

    W x + b        W and b trained
"""

from minipelt.methods import unfreeze


def attach(model, method, gate):
    """Let the whole encoder train."""
    unfreeze(model, "ft", dict(model.bert.named_parameters()))
