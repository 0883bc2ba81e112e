"""minipelt: parameter-efficient language-model tuning, from scratch, one chapter a file.

Read in this order: bert, weights, adapter, prefix, lora, bitfit, gate, unipelt, glue, metrics, batches, loop, checkpoint,
experiment; then the tools: predict, describe, plot.
"""

__version__ = "0.1.0"


class InputError(ValueError):
    """The user's input is wrong: a file, a name or a value. The message is one sentence that says what would be right."""
