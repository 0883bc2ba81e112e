"""errors.py: what a command leaves on the screen, and its exit code."""

import os
import subprocess
import sys

import pytest
from helpers import ENVIRONMENT

from minipelt.errors import InputError, run_command


def raising(error):
    """A command that fails."""

    def command():
        raise error

    return command


@pytest.mark.parametrize("returned, code", [(None, 0), (0, 0), (3, 3)])
def test_a_command_s_own_code(returned, code):
    assert run_command(lambda: returned) == code


@pytest.mark.parametrize("error, code, line", [
    (InputError("task is 3; expected a name"), 2, "error: task is 3; expected a name"),
    (FileNotFoundError(2, "No such file or directory", "runs/x"), 2, "error: runs/x: no such file or directory"),
    (OSError(28, "No space left on device"), 2, "error: no space left on device"),
    (OSError("odd"), 2, "error: odd"),
    (KeyboardInterrupt(), 130, "stopped at your wish"),
])
def test_an_error_is_one_line_and_a_code(capsys, error, code, line):
    assert run_command(raising(error), "stopped at your wish") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == line


def test_an_error_of_the_program_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


def test_a_closed_standard_error_is_no_further_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert run_command(raising(InputError("wrong"))) == 2


def test_a_reader_that_stops_early_ends_the_command_quietly():
    """As `| head -1` does: a pipe whose other end is closed."""
    program = (
        "import sys\n"
        "from minipelt.errors import run_command\n"
        "sys.exit(run_command(lambda: print('line\\n' * 100_000)))"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    os.close(write_end)
    assert result.returncode == 0
    assert result.stderr == ""
