"""commands/train.py: its help says every default, and what does not go together, or has no effect, is refused."""

import pytest

from minipelt.__main__ import main
from minipelt.commands import train as command
from minipelt.settings import DEFAULT_MODEL, HYPERPARAMETERS, PARTS, Method


def test_help_says_every_method_and_every_default():
    text = command.make_parser("train").format_help()
    for part in PARTS.values():
        assert f"\n  {part.name:<10}{part.learning_rate:<7g}{part.trains}" in text
    words = " ".join(text.split())
    for name in HYPERPARAMETERS:
        assert f"--{name.replace('_', '-')} " in text
        assert f"(default: {getattr(Method, name):g})" in words
    for expected in (DEFAULT_MODEL, "apl", "1000", "128", "text", "label", "16", "50", "10", "1", "runs"):
        assert f"(default: {expected})" in words


def test_what_is_not_given_is_none():
    """So that one can tell; the defaults stand in settings.py alone."""
    args = command.make_parser("train").parse_args([])
    assert set(vars(args).values()) == {None}
    args = command.make_parser("train").parse_args(["--no-gate", "--rank", "8"])
    given = {name: value for name, value in vars(args).items() if value is not None}
    assert given == {"no_gate": True, "rank": 8}


@pytest.mark.parametrize("arguments, message", [
    ([], "--task is needed, one of cola, sst2"),
    (["--method", "apl"], "--task is needed, one of cola, sst2"),
    (["--task", "sst2", "--train", "x.tsv", "--dev", "y.tsv"], "--task and --train: expected one of them"),
    (["--task", "sst2", "--dev", "y.tsv"], "--dev: these belong to --train, for your own files"),
    (["--task", "sst2", "--regression", "--text-column", "x"], "--text-column, --regression: these belong to --train"),
    (["--task", "sst2", "--valid-rows", "9"], "--valid-rows has an effect with --k alone"),
    (["--train", "x.tsv", "--dev", "y.tsv", "--glue", "glue"], "--glue has no effect on your own files"),
    (["--train", "x.tsv", "--dev", "y.tsv", "--k", "9", "--valid-rows", "9"], "--valid-rows has no effect on your own"),
    (["--eval", "runs/x", "--rank", "4"], "--rank: no effect with --eval, which takes the settings of its folder and"),
    (["--eval", "runs/x", "--resume", "runs/x"], "--resume: no effect with --eval"),
    (["--resume", "runs/x", "--epochs", "9", "--out", "y"], "--epochs, --out: no effect with --resume"),
    (["--task", "sst2", "--k", "many"], "argument --k: invalid int value: 'many'"),
])
def test_arguments_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--eval", "--resume"])
def test_what_a_run_folder_takes_besides(option):
    parser = command.make_parser("train")
    arguments = [option, "runs/x", "--device", "cpu", "--glue", "glue", "--model", "m", "--threads", "2", "--quiet"]
    command.check(parser, parser.parse_args(arguments))
