"""The commands, a small file each: what it is for, its options, and where its work is done.

No torch here, so --help answers at once. A file has `make_parser(prog)` and `WORK`, the place of a function that takes
the parsed arguments; and, where need be, `check(parser, args)`, which refuses arguments that do not go together, and
`INTERRUPTED`, the line that Ctrl-C leaves.
"""

from argparse import ArgumentTypeError, Namespace, _ActionsContainer
from dataclasses import fields

from minipelt.settings import Recipe, Run

COMMANDS = (
    "train", "predict", "describe", "plot", "export", "fetch", "sweep", "report", "gates", "timing", "growth", "live",
)
ECONOMY = ("precision", "compile", "gradient_checkpointing")  # fields of Run
DEFAULT_THREADS = 1
MOST_THREADS = 1024


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
    add_options(group, Run, ECONOMY)
    add_options(group, Recipe, ("accumulate",))


def add_threads(group: _ActionsContainer) -> None:
    """Add --threads, one default for all that trains."""
    group.add_argument(
        "--threads", type=number_of_threads, default=DEFAULT_THREADS, metavar="N",
        help="CPU threads of each process; the last digits of a score depend on it, so the default is the same on "
        f"every machine; on a quiet one with long batches more may be faster (default: {DEFAULT_THREADS})",
    )


def number_of_threads(text: str) -> int:
    """What --threads says. Raises ArgumentTypeError for what is no number of threads."""
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MOST_THREADS:
        return int(text)
    raise ArgumentTypeError(f"{text}; expected 1 to {MOST_THREADS:,}")


def add_quiet(group: _ActionsContainer) -> None:
    """Add --quiet; __main__.py hands it to progress.py."""
    help = "print the result alone: no bars, and no lines on the way (default without a terminal: a line now and then)"
    group.add_argument("--quiet", action="store_true", help=help)


def given(args: Namespace, names: tuple[str, ...]) -> dict:
    """{name: value} of the arguments that the user gave; the others are None."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
