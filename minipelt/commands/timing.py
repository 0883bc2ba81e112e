"""The benchmark: what a training step and a prediction cost with every method, beside fine-tuning and other libraries.

    python -m minipelt timing --out results/          writes results/timing.json, which the report reads for Table 4
    python -m minipelt timing --peers                 with Hugging Face's, peft's and AdapterHub's, where installed

All models are in memory at once and take turns, a step each, so that a busy moment of the machine hits all of them
alike. Each is measured on a batch padded to 128 tokens, and on several as long as their longest row.
"""

import argparse

from minipelt.commands import add_options, add_quiet, add_threads
from minipelt.commands.sweep import Words
from minipelt.settings import DEFAULT_MODEL, Recipe, Run

WORK = "minipelt.paper.timing:write_timing"
METHODS = ["ft", "bitfit", "prefix", "lora", "adapter", "ap", "apl", "ia3"]


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--methods", nargs="+", action=Words, const=str, default=METHODS, metavar="METHOD",
        help=f"fine-tuning first (default: {','.join(METHODS)})",
    )
    parser.add_argument("--task", default="sst2", metavar="TASK", help="whose rows (default: %(default)s)")
    parser.add_argument("--model", metavar="MODEL", help=f"folder or Hub name (default: {DEFAULT_MODEL})")
    parser.add_argument(
        "--glue", metavar="FOLDER", help="where the official TSVs are (default: glue, else the sample rows)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=Recipe.batch_size, metavar="N", help="rows a step (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=15, metavar="N", help="turns that count (default: %(default)s)"
    )
    add_threads(parser)
    add_quiet(parser)
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto)")
    add_options(parser, Run, ("precision",))
    parser.add_argument(
        "--peers", action="store_true", help="measure the same methods of transformers, peft and adapters as well"
    )
    parser.add_argument("--json", action="store_true", help="print what is in timing.json in place of tables")
    parser.add_argument(
        "--out", default="results", metavar="FOLDER", help="where timing.json goes (default: %(default)s)"
    )
    return parser
