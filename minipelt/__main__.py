"""One door to all commands: python -m minipelt COMMAND ...

    python -m minipelt                      lists the commands
    python -m minipelt predict --help       tells the options of one
"""

import sys
from importlib import import_module

from minipelt import progress
from minipelt.commands import COMMANDS
from minipelt.errors import run_command


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run a command line, without the program's own name. Returns the exit code. prog: the command's name in --help."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal's encoding lacks is shown by its number
            stream.reconfigure(errors="backslashreplace")
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = import_module(f"minipelt.commands.{name}")
    parser = command.make_parser(prog or f"python -m minipelt {name}")
    args = parser.parse_args(argv[1:])
    progress.quiet = bool(getattr(args, "quiet", False))
    if hasattr(command, "check"):
        command.check(parser, args)
    return run_command(lambda: work_of(command)(args), getattr(command, "INTERRUPTED", "interrupted"))


def work_of(command):
    """The function that does a command's work; imported now, so that --help need not wait for torch."""
    module, function = command.WORK.split(":")
    return getattr(import_module(module), function)


def overview() -> str:
    """The commands, each with the first line of what it says about itself."""
    lines = ["usage: python -m minipelt COMMAND ...", "", "commands (each with --help):"]
    for name in COMMANDS:
        about = import_module(f"minipelt.commands.{name}").__doc__.splitlines()[0]
        lines.append(f"  {name:<10}{about}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
