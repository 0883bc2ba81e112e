"""What a method adds to a BERT, where, with shapes, counts and equations: the summary for a slide. Needs no weights.

    python -m minipelt describe apl
    python -m minipelt describe lora --model bert-large-uncased --rank 4
"""

import argparse

from minipelt.commands import add_options
from minipelt.settings import HYPERPARAMETERS, PARTS, Method

WORK = "minipelt.tools.describe:describe_command"


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", metavar="METHOD", help=f"as for train.py: {', '.join(PARTS)}, apl ...")
    parser.add_argument(
        "--model", default="bert-base-uncased", metavar="MODEL",
        help="all-MiniLM-L6-v2, bert-base-uncased, bert-large-uncased, or a folder with config.json "
        "(default: %(default)s)",
    )
    method = parser.add_argument_group("method")
    method.add_argument("--no-gate", action="store_true", help="without gates")
    add_options(method, Method, HYPERPARAMETERS)
    parser.set_defaults(**dict.fromkeys(HYPERPARAMETERS))  # None, so that the work knows what was given
    return parser
