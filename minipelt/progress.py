"""What a waiting user sees: bars, and a stopwatch that tells training from validation.

Kept out of the training loop.
"""

import os
import time
from contextlib import contextmanager

from tqdm import tqdm

# tqdm's `disable`: None shows bars on a terminal only. Of several processes the first alone shows them.
HIDE_BARS = True if int(os.environ.get("RANK", 0)) else None


@contextmanager
def step_bar(optimizer, done, total):
    """A bar that moves on with every step of an optimizer. Yields it, for a postfix."""
    with tqdm(total=total, initial=done, unit="step", disable=HIDE_BARS, leave=False) as bar:
        with optimizer.register_step_post_hook(lambda *_: bar.update()):
            yield bar


@contextmanager
def scoring_bar(model, rows):
    """A bar that moves on with every batch of `rows` that goes through a model."""
    with tqdm(total=len(rows), desc="scoring", unit="row", disable=HIDE_BARS, leave=False) as bar:
        with model.register_forward_hook(lambda model, inputs, logits: bar.update(len(logits))):
            yield


class Stopwatch:
    """Seconds of an epoch, those of its validation apart."""

    def __init__(self):
        self.restart()

    def restart(self):
        """Begin an epoch."""
        self.started = time.perf_counter()
        self.paused = 0.0

    @contextmanager
    def pause(self):
        """Around the validation."""
        before = time.perf_counter()
        yield
        self.paused += time.perf_counter() - before

    def lap(self):
        """(seconds of training, seconds of validation) since the epoch began."""
        return time.perf_counter() - self.started - self.paused, self.paused
