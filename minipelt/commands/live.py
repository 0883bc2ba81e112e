"""See the gates, and turn them: trained runs as a page in the browser, for this machine alone.

    python -m minipelt live runs/sst2-apl-seed1
    python -m minipelt live runs/sst2-apl-seed1 runs/sst2-lora-seed1       side by side, too
    python -m minipelt live runs/sst2-apl-seed1 --save page.html           one file, with a few examples inside

Type a text, and see in every layer how far each gate opens and how much each part adds; drag a gate, and see the
prediction move. Nothing leaves the machine. Ctrl-C ends it.
"""

import argparse

WORK = "minipelt.tools.live:live"
INTERRUPTED = "interrupted: the page was not up yet"
DEFAULT_PORT = 8000


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that train.py left")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, metavar="N",
        help="where the page is served, or the next free port (default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser; the page's address is printed")
    parser.add_argument("--save", metavar="FILE", help="write the page as one .html file instead, and serve nothing")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto)")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what cannot be."""
    if not 1 <= args.port <= 65_535:
        parser.error(f"--port is {args.port}; expected 1 to 65535")
    if args.save is not None and not args.save.lower().endswith((".html", ".htm")):
        parser.error(f"--save {args.save}: expected a name that ends in .html")
