"""progress.py: bars on a terminal, lines elsewhere, silence where it is wished for; and the stopwatch."""

import io
import subprocess
import sys
import time

import pytest
import torch
from helpers import ENVIRONMENT
from torch import nn

from minipelt import progress
from minipelt.progress import Stopwatch, duration, progress_bar, say, scoring_bar, step_bar


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes standard error a terminal; called in the test, where pytest has set its own streams."""
    def make():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return make


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns: clock[0] is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def train_steps(optimizer, layer, count):
    """Some steps of an optimizer."""
    for _ in range(count):
        layer(torch.randn(1, 3)).sum().backward()
        optimizer.step()


def test_the_bar_of_a_training_moves_with_the_optimizer_s_steps(terminal):
    terminal()
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with step_bar(optimizer, done=4, total=10) as bar:
        train_steps(optimizer, layer, 3)
        assert (bar.n, bar.total) == (7, 10)
    optimizer.step()  # after the block nobody counts
    assert bar.n == 7


def test_the_bar_of_a_scoring_moves_with_the_rows():
    layer = nn.Linear(3, 2)
    with scoring_bar(layer, range(5)):
        assert len(layer._forward_hooks) == 1
        layer(torch.randn(2, 3))
    assert not layer._forward_hooks


# ---- without a terminal


def test_a_log_moves_every_so_often(clock, capsys):
    """With steps, speed, the time that is left and the last epoch's loss; nothing in short work."""
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with step_bar(optimizer, 1000, 2000, "sst2-lora-seed1") as bar:
        bar.set_postfix(epoch=3, loss="0.700", best="0.8000")
        train_steps(optimizer, layer, 99)
        assert capsys.readouterr().err == ""
        clock[0] += 20
        train_steps(optimizer, layer, 1)
        train_steps(optimizer, layer, 1)
    assert capsys.readouterr().err == (
        "sst2-lora-seed1: step 1,100 of 2,000, 5 steps/s, at most 3 min 00 s left, epoch 3, loss 0.700, best 0.8000\n"
    )
    with step_bar(optimizer, 0, 10, "short"):
        clock[0] += progress.SECONDS - 1
        train_steps(optimizer, layer, 10)
    assert capsys.readouterr().err == ""


def test_scoring_moves_the_log_too(clock, capsys):
    layer = nn.Linear(3, 2)
    with scoring_bar(layer, range(1000)):
        for _ in range(3):
            clock[0] += 10
            layer(torch.randn(100, 3))
    assert capsys.readouterr().err == "scoring: row 200 of 1,000, 10 rows/s, at most 1 min 20 s left\n"


def test_work_without_a_unit_is_told_in_percent(clock, capsys):
    with progress_bar(200, name="sweep") as bar:
        clock[0] += 60
        bar.set_postfix(run="3 of 12")
        bar.update(50)
    with progress_bar(200) as bar:  # nor need it have a name
        clock[0] += 60
        bar.update(100)
    expected = "sweep: 25 %, at most 3 min 00 s left, run 3 of 12\n50 %, at most 1 min 00 s left\n"
    assert capsys.readouterr().err == expected


def test_bytes_are_told_in_megabytes_and_their_number_need_not_be_known(clock, capsys):
    for total in (7_439_277, None):
        with progress_bar(total, unit="B", name="SST-2.zip") as bar:
            clock[0] += 20
            bar.update(2_000_000)
    assert capsys.readouterr().err == (
        "SST-2.zip: 2 MB of 7.44 MB, 0.1 MB/s, at most 54 s left\nSST-2.zip: 2 MB, 0.1 MB/s\n"
    )


def test_a_terminal_has_bars_and_no_lines(clock, terminal):
    stream = terminal()

    with progress_bar(200, unit="step", name="x") as bar:
        clock[0] += 60
        bar.update(50)
    shown = stream.getvalue()
    assert "/200 [" in shown and "x: step" not in shown


# ---- silence


def test_quiet_is_silent_on_a_terminal_and_elsewhere(clock, monkeypatch, capsys):
    monkeypatch.setattr(progress, "quiet", True)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(200, unit="step", name="x") as bar:
            clock[0] += 60
            bar.update(50)
        say("epoch 1")
        assert stream.getvalue() == ""
    assert capsys.readouterr().out == ""


def test_the_second_process_of_a_run_shows_nothing(clock, monkeypatch, terminal):
    monkeypatch.setenv("RANK", "1")
    stream = terminal()
    with progress_bar(200, unit="step") as bar:
        clock[0] += 60
        bar.update(50)
    assert stream.getvalue() == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_what_is_left_of_a_quiet_command(tiny_folder, tmp_path, command):
    """The result. And it may not be quiet for the next command in the same process."""
    options = {
        "train": ["--task", "sst2", "--method", "lora", "--epochs", "1"],
        "sweep": ["--tasks", "sst2", "--methods", "lora", "--seeds", "1", "--epochs", "1", "--valid-rows", "9"],
    }[command]
    options += ["--glue", "miniglue", "--model", str(tiny_folder), "--max-length", "24", "--device", "cpu", "--k", "20"]
    line = [sys.executable, "-m", "minipelt", command, *options, "--quiet"]
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    lines = result.stdout.splitlines()
    if command == "train":
        assert lines[0].split() == ["validation", "test"] and lines[-1].startswith("run folder: ")
        assert not any(line.startswith(("epoch", "lora on")) for line in lines)
    else:
        assert len(lines) == 1 and lines[0].startswith("1 run on record")


# ---- time


@pytest.mark.parametrize("seconds, text", [
    (0.4, "0 s"), (59, "59 s"), (93, "1 min 33 s"), (3600, "1 h 00 min"), (90061, "25 h 01 min"),
])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_stopwatch_tells_training_from_validation():
    stopwatch = Stopwatch()
    time.sleep(0.01)
    with stopwatch.pause():
        time.sleep(0.03)
    train_seconds, validation_seconds = stopwatch.lap()
    assert validation_seconds >= 0.03
    assert 0.01 <= train_seconds < validation_seconds + 5
    stopwatch.restart()
    assert stopwatch.lap()[1] == 0
