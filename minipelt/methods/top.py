"""Variable fine-tuning (Houlsby et al. 2019, sections 3.3, 3.4): the top n layers train, those below stay frozen.

No gradient has to pass below the lowest layer that trains, which makes a step cheaper. With n = 0 this is the head
alone.
"""

from minipelt.errors import InputError
from minipelt.methods import unfreeze


def attach(model, method, gate):
    """Let the top layers and the pooler train. Raises InputError if the encoder has fewer layers than that."""
    bert = model.bert
    N = bert.config.num_hidden_layers
    first = N - method.top_layers
    if first < 0:
        raise InputError(f"top_layers is {method.top_layers}; this encoder has {N} layers")
    if method.top_layers == 0:
        return
    for i in range(first, N):
        unfreeze(model, "top", dict(bert.encoder.layer[i].named_parameters(prefix=f"encoder.layer.{i}")))
    unfreeze(model, "top", dict(bert.pooler.named_parameters(prefix="pooler")))
