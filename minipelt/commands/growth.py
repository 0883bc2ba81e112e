"""Measure how the cost of a step grows: with length, batch, layers, and the size of a prefix, rank or bottleneck.

    python -m minipelt growth --out results/            writes growth.json, growth.md and growth.svg
    python -m minipelt growth --out results/ --redraw   writes the last two anew from the first, and measures nothing

One size grows while all others stay, on random weights; the slope of the measured times stands beside the one that the
count of multiplications predicts. The figure needs matplotlib.
"""

import argparse

from minipelt.commands import add_threads
from minipelt.commands.sweep import Words

WORK = "minipelt.paper.growth:write_growth"
SIZES = {  # what grows: on which method, one that it matters to, and from where to where
    "length": ("apl", (32, 64, 128, 256, 512)),
    "batch": ("apl", (4, 8, 16, 32, 64)),
    "layers": ("apl", (2, 4, 8, 16, 24)),
    "prefix_length": ("prefix", (8, 32, 128, 512)),
    "rank": ("lora", (8, 32, 128, 512)),
    "bottleneck": ("adapter", (16, 64, 256, 1024)),
}


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--axes", nargs="+", action=Words, const=str, default=list(SIZES), metavar="AXIS",
        help=f"what grows (default: {','.join(SIZES)})",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="turns that count (default: %(default)s)"
    )
    add_threads(parser)
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument(
        "--redraw", action="store_true", help="read growth.json in --out, and write table and figure again"
    )
    parser.add_argument(
        "--out", default="results", metavar="FOLDER", help="where the files go (default: %(default)s)"
    )
    return parser
