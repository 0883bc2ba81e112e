"""Fetch the official GLUE files, whole or not at all.

    python -m minipelt fetch sst2 rte        brings glue/SST-2 and glue/RTE

Every file is checked by its sha256. A folder that is already there is left alone.
"""

import argparse

from minipelt.commands import add_quiet
from minipelt.glue import TASKS

WORK = "minipelt.tools.fetch:fetch_tasks"
INTERRUPTED = "interrupted: nothing half-fetched was kept"


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=f"one or more of {', '.join(TASKS)}, or all")
    parser.add_argument(
        "--into", default="glue", metavar="FOLDER", help="where the task folders go (default: %(default)s)"
    )
    add_quiet(parser)
    return parser
