"""commands/: one door, a line for each command, help without torch, and options made from the settings' fields."""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from helpers import ENVIRONMENT, ROOT

from minipelt import commands
from minipelt.__main__ import main, overview, work_of
from minipelt.commands import COMMANDS, add_options
from minipelt.settings import HYPERPARAMETERS, Method, Recipe, Run, setting


def python(*arguments):
    """Run python from the root; returns the finished process."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)


def command_file(name):
    """The module of a command."""
    return import_module(f"minipelt.commands.{name}")


# ---- the door


def test_every_file_is_a_command_and_every_command_has_a_file():
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)
    assert len(set(COMMANDS)) == len(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_door_lists_every_command_with_its_first_line(capsys, arguments):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed == overview() + "\n"
    for name in COMMANDS:
        about = command_file(name).__doc__.splitlines()[0]
        assert about.strip()
        assert f"  {name:<10}{about}\n" in printed


@pytest.mark.parametrize("name", ["trian", "Train", "", "--version", "train.py"])
def test_an_unknown_command_is_one_line_and_2(capsys, name):
    assert main([name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: unknown command {name!r}; expected one of {', '.join(COMMANDS)}\n"


@pytest.mark.slow
def test_the_door_in_a_process_of_its_own():
    listed = python("-m", "minipelt")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout == overview() + "\n"
    assert python("-m", "minipelt", "trian").returncode == 2


# ---- a command's file


@pytest.mark.parametrize("name", COMMANDS)
def test_the_work_of_every_command_exists(name):
    assert callable(work_of(command_file(name)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name):
    parser = command_file(name).make_parser(f"minipelt {name}")
    assert parser.prog == f"minipelt {name}"
    for action in parser._actions:
        assert action.help, action.dest


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_2(capsys, name):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--no-such-option"])
    assert stopped.value.code == 2
    assert f"usage: python -m minipelt {name}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_without_torch(name):
    program = (
        "import sys\n"
        "from minipelt.__main__ import main\n"
        "try:\n"
        f"    main(['{name}', '--help'])\n"
        "except SystemExit as stopped:\n"
        "    assert not stopped.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = python("-c", program)
    assert result.returncode == 0, result.stderr
    assert f"usage: python -m minipelt {name}" in result.stdout
    assert command_file(name).__doc__.splitlines()[0] in result.stdout


@pytest.mark.slow
def test_train_py_is_the_command_train():
    printed = [python("train.py", "--help").stdout, python("-m", "minipelt", "train", "--help").stdout]
    usages, rests = zip(*(text.split("\n\n", 1) for text in printed), strict=True)
    assert [usage.split(" [")[0] for usage in usages] == ["usage: python train.py", "usage: python -m minipelt train"]
    assert rests[0] == rests[1]
    for expected in ("--no-gate", "(default: 48)", "UniPELT", "what to run", "training"):
        assert expected in printed[0]


# ---- options from fields


@dataclass(frozen=True)
class Settings:
    """Settings of one kind each."""

    row_count: int = setting(3, "how many rows", "N")
    rate: float = setting(16.0, "how fast", "R")
    limit: int | None = setting(None, "at most (default: all)", "L")
    quiet: bool = setting(False, "say nothing")
    hidden: int = setting(5, "not offered", "H")


def test_fields_become_options_with_their_defaults_and_kinds():
    parser = argparse.ArgumentParser()
    add_options(parser, Settings, ("row_count", "rate", "limit", "quiet"))
    assert vars(parser.parse_args([])) == {"row_count": 3, "rate": 16.0, "limit": None, "quiet": False}
    given = parser.parse_args(["--row-count", "7", "--rate", "2", "--limit", "9", "--quiet"])
    assert vars(given) == {"row_count": 7, "rate": 2.0, "limit": 9, "quiet": True}
    assert isinstance(given.rate, float)
    printed = " ".join(parser.format_help().split())
    assert "--row-count N how many rows (default: 3)" in printed
    assert "--rate R how fast (default: 16)" in printed
    assert "--quiet say nothing" in printed
    assert "--limit L at most (default: all)" in printed
    assert "hidden" not in printed


@pytest.mark.parametrize("words", [["--row-count", "1.5"], ["--limit", "all"], ["--rate", "fast"], ["--quiet", "yes"]])
def test_values_of_another_kind_are_refused(words, capsys):
    parser = argparse.ArgumentParser()
    add_options(parser, Settings, ("row_count", "rate", "limit", "quiet"))
    with pytest.raises(SystemExit):
        parser.parse_args(words)


def test_a_field_that_is_not_there_fails_loudly():
    with pytest.raises(KeyError):
        add_options(argparse.ArgumentParser(), Settings, ("rows",))


@pytest.mark.parametrize("settings, names", [
    (Method, HYPERPARAMETERS),
    (Recipe, ("batch_size", "epochs", "patience", "seed")),
    (Run, ("k", "valid_rows", "max_length", "frozen_head", "zero_start")),
])
def test_the_package_s_own_settings_give_their_defaults(settings, names):
    parser = argparse.ArgumentParser()
    add_options(parser, settings, names)
    assert vars(parser.parse_args([])) == {name: getattr(settings, name) for name in names}


@pytest.mark.slow
def test_a_character_that_the_terminal_lacks_ends_no_command(tmp_path):
    """An unknown run whose name is not ASCII, on an ASCII terminal."""
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "minipelt", "predict", "runs/caf\u00e9", "--text", "a"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "caf\\xe9" in result.stderr and "Traceback" not in result.stderr


# ---- threads


@pytest.mark.parametrize("name", ["train", "sweep", "timing"])
def test_all_that_trains_has_one_default_of_threads(name):
    """And says the rule."""
    text = " ".join(command_file(name).make_parser(name).format_help().split())
    assert "the default is the same on every machine" in text and "(default: 1)" in text


@pytest.mark.parametrize("name", ["train", "sweep", "timing"])
@pytest.mark.parametrize("number", ["0", "-1", "1000000000", "two", "1.5", "9" * 5000])
def test_what_is_no_number_of_threads_is_refused(name, number, capsys):
    with pytest.raises(SystemExit) as stopped:
        command_file(name).make_parser(name).parse_args([f"--threads={number}"])
    assert stopped.value.code == 2
    assert "expected 1 to 1,024" in capsys.readouterr().err
