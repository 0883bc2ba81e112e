"""The head alone: a linear classifier on what the frozen encoder computes. The least that training can be.

    logits = W dropout(pooled) + b        W and b trained, as they are in every method
"""


def attach(model, method, gate):
    """Add nothing: the head is there, and it trains."""
