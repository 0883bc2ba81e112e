"""Draw runs: learning curves, gates, a comparison. Needs matplotlib: pip install -e ".[plot]"

    python -m minipelt plot runs/sst2-apl-seed1            loss and validation score by epoch, into curve.png
    python -m minipelt plot runs/*-apl-seed1 --kind gates --out gates.svg      mean gates by layer and submodule
    python -m minipelt plot runs/sst2-*                    test scores and trained parameters, into compare.png

Where several are named, what cannot be drawn (no run, not finished, no gates) is passed over, with a line.
"""

import argparse
from pathlib import Path

WORK = "minipelt.tools.plot:plot"
KINDS = ("curve", "gates", "compare")
SUFFIXES = (".png", ".svg")


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that train.py left")
    parser.add_argument("--kind", choices=KINDS, help="what to draw (default: curve for one run, compare for several)")
    parser.add_argument("--out", metavar="FILE", help="a .png or .svg file (default: the kind's name, as .png)")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a picture of a kind that cannot be written."""
    if args.out is not None and Path(args.out).suffix.lower() not in SUFFIXES:
        parser.error(f"--out {args.out}: expected a name that ends in {' or '.join(SUFFIXES)}")
