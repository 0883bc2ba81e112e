"""What a user gets to read when something is wrong: one sentence, and an exit code that is not 0."""

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """The user's input is wrong: a file, a name or a value.

    The message is one sentence that says what would be right.
    """


def run_command(command: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Call command() and return its exit code (None counts as 0).

    An InputError, or a file that cannot be read or written, becomes one line and 2; Ctrl-C the line `interrupted` and
    130. A reader that closed our output early, as `| head -1` does, ends the command quietly with 0.
    """
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        complain(f"error: {error}")
        return 2
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end; there must be something that takes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        complain(f"error: {describe_os_error(error)}")
        return 2
    except KeyboardInterrupt:
        complain(f"\n{interrupted}")
        return 130


def describe_os_error(error: OSError) -> str:
    """`runs/x/run.json: no space left on device`, from the file and the system's reason where they are known."""
    reason = (error.strerror or str(error)).lower()
    return f"{error.filename}: {reason}" if error.filename else reason


def short(value, length: int = 60) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def check_utf8(name: str, text: str) -> None:
    """Raise InputError for a text that no UTF-8 file can hold, such as a path in another encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{name} is {short(text)}; expected a name in UTF-8") from None


def plural(number: int, noun: str) -> str:
    """`1 run`, `1,234 runs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def complain(line: str) -> None:
    """Write a line to standard error, if there is one: it may be closed."""
    try:
        print(line, file=sys.stderr)
    except (OSError, ValueError, AttributeError):
        pass
