"""The commands, a small file each: what it is for, its options, and where its work is done.

No torch here, so --help answers at once. A file has `make_parser(prog)` and `WORK`, the place of a function that takes
the parsed arguments; and, where need be, `check(parser, args)`, which refuses arguments that do not go together, and
`INTERRUPTED`, the line that Ctrl-C leaves.
"""

from argparse import Namespace, _ActionsContainer
from dataclasses import fields

from minipelt.settings import Recipe, Run

COMMANDS = ("train", "predict", "describe", "plot", "export", "fetch", "sweep", "report", "gates", "timing", "live")


def add_options(group: _ActionsContainer, settings: type, names: tuple[str, ...]) -> None:
    """Add an option for each named field of a settings class, with its help and its default.

    prefix_length becomes `--prefix-length`; a field that is true or false becomes a switch.
    """
    known = {each.name: each for each in fields(settings)}
    for name in names:
        field = known[name]
        text = field.metadata["help"]
        flag = f"--{name.replace('_', '-')}"
        if field.type is bool:
            group.add_argument(flag, action="store_true", help=text)
            continue
        if field.metadata["choices"]:
            choices, text = field.metadata["choices"], f"{text} (default: {field.default})"
            group.add_argument(flag, choices=choices, default=field.default, help=text)
            continue
        kind = float if field.type is float else int
        if field.default is not None:
            text = f"{text} (default: {field.default:g})"
        group.add_argument(flag, type=kind, default=field.default, metavar=field.metadata["symbol"], help=text)


def add_economy_options(group: _ActionsContainer) -> None:
    """Add what makes a run cheaper (economy.py): all off by default."""
    add_options(group, Run, ("precision", "compile", "gradient_checkpointing"))
    add_options(group, Recipe, ("accumulate",))


def add_quiet(group: _ActionsContainer) -> None:
    """Add --quiet; __main__.py hands it to progress.py."""
    help = "print the result alone: no bars, and no lines on the way (default without a terminal: a line now and then)"
    group.add_argument("--quiet", action="store_true", help=help)


def given(args: Namespace, names: tuple[str, ...]) -> dict:
    """{name: value} of the arguments that the user gave; the others are None."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
