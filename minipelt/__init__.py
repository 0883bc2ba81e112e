"""minipelt: parameter-efficient language-model tuning, from scratch, one chapter a file.

Read in this order: bert, weights, adapter, prefix, lora, bitfit, gate, unipelt, glue, metrics, batches, loop, checkpoint, run, shared,
experiment, parallel; the other methods: ia3, prompt, side, diff; the papers' grids: sweep, tables, report, timing; and the tools:
predict, describe, plot, owndata, export, switchboard.
"""

import sys

__version__ = "0.1.0"


class InputError(ValueError):
    """The user's input is wrong: a file, a name or a value. The message is one sentence that says what would be right."""


def place(part, folder):
    """Move a whole download to its place, unless another process that fetched the same was first."""
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir(): raise


def run_command(command, interrupted="interrupted"):
    """Call command() -> exit code. An InputError becomes one line and 2, Ctrl-C the line `interrupted` and 130."""
    try:
        return command() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return 130
