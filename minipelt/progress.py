"""What a waiting user sees: bars on a terminal, a line every so often elsewhere, and with --quiet the result alone; and
a stopwatch that tells training from validation.

Kept out of the training loop.
"""

import os
import sys
import time
from contextlib import contextmanager

from tqdm import tqdm

from minipelt.errors import complain

SECONDS = 15  # between two lines of a log

quiet = False  # as --quiet says; __main__.py sets it for each command


def say(line):
    """Print a line about the work above the bars, at once: a log in a file moves, too. With --quiet, nothing."""
    if not quiet:
        tqdm.write(line)
        sys.stdout.flush()


@contextmanager
def progress_bar(total, done=0, unit="", name="", **style):
    """A bar for `total` units of work. Yields it: `update(units)` moves it on, `set_postfix(best=0.8)` adds to it.

    A total of None is not known; the unit "B" is bytes. Where standard error is no terminal it is a Log. style: more
    of tqdm's options. Of several processes the first alone shows anything.
    """
    if quiet or int(os.environ.get("RANK", 0)):
        yield tqdm(disable=True)
    elif sys.stderr is not None and sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit=unit or "it", **{"leave": False} | style) as bar:
            yield bar
    else:
        yield Log(total, done, unit, name)


@contextmanager
def step_bar(optimizer, done, total, name=""):
    """A bar that moves on with every step of an optimizer. Yields it."""
    with progress_bar(total, done, "step", name) as bar:
        with optimizer.register_step_post_hook(lambda *_: bar.update(1)):
            yield bar


@contextmanager
def scoring_bar(model, rows):
    """A bar that moves on with every batch of `rows` that goes through a model."""
    with progress_bar(len(rows), 0, "row", "scoring", desc="scoring") as bar:
        with model.register_forward_hook(lambda model, inputs, logits: bar.update(len(logits))):
            yield


class Log:
    """What stands for a bar where there is no terminal: now and then a plain line on standard error.

        sst2-lora-seed1: step 1,200 of 16,850, 12.3 steps/s, at most 21 min 12 s left, epoch 3, loss 0.313

    It is written by `update`, SECONDS after the last one; short work leaves none.
    """

    def __init__(self, total, done=0, unit="", name=""):
        self.total, self.done, self.n, self.unit, self.name = total, done, done, unit, name
        self.notes = {}
        self.started = self.last_line = time.monotonic()

    def update(self, units):
        """So many units are done."""
        self.n += units
        now = time.monotonic()
        if now - self.last_line >= SECONDS:
            complain(self.line(now - self.started))
            self.last_line = now

    def set_postfix(self, **notes):
        """What the lines tell besides."""
        self.notes = notes

    def line(self, seconds):
        """The line after so many seconds."""
        speed = (self.n - self.done) / seconds
        words = [f"{self.name}: {self.where()}" if self.name else self.where()]
        if self.unit:
            words.append(f"{of_bytes(speed)}/s" if self.unit == "B" else f"{speed:.3g} {self.unit}s/s")
        if speed and self.total is not None:
            words.append(f"at most {duration((self.total - self.n) / speed)} left")
        words += [f"{name} {value}" for name, value in self.notes.items()]
        return ", ".join(words)

    def where(self):
        """How far it is."""
        if self.unit == "B":
            return of_bytes(self.n) if self.total is None else f"{of_bytes(self.n)} of {of_bytes(self.total)}"
        if self.unit:
            return f"{self.unit} {self.n:,} of {self.total:,}"
        return f"{100 * self.n / self.total:.0f} %"


def of_bytes(number: float) -> str:
    """7439277 -> 7.44 MB."""
    return f"{number / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """93 -> 1 min 33 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    if minutes:
        return f"{minutes} min {seconds:02} s"
    return f"{seconds} s"


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
