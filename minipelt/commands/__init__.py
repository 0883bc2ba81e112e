"""The commands, a small file each: what it is for, its options, and where its work is done. No torch here, so --help answers at once.

A file has `make_parser(prog)` and `WORK`, the place of a function that takes the parsed arguments; and, where need be,
`check(parser, args)`, which refuses arguments that do not go together, and `INTERRUPTED`, the line that Ctrl-C leaves.
"""

from argparse import _ActionsContainer
from dataclasses import fields

COMMANDS = ("train", "predict", "describe", "plot", "export", "fetch", "sweep", "report", "timing", "live")


def add_options(group: _ActionsContainer, settings: type, names: tuple[str, ...], **defaults) -> None:
    """Add an option for each named field of a settings class: `--prefix-length` for prefix_length, with its help and default.

    defaults: {name: value} where an option has another default than its field. Whole-number and number fields only.
    """
    known = {each.name: each for each in fields(settings)}
    for name in names:
        field = known[name]
        kind = float if field.type is float else int
        default = defaults.get(name, field.default)
        text = field.metadata["help"]
        if default is not None:
            text = f"{text} (default: {default:g})"
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=kind, default=default, metavar=field.metadata["symbol"], help=text)
