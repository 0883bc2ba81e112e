"""The paper's tables from a sweep's results, as Markdown and CSV, each beside the paper's own numbers.

    python -m minipelt report results/            writes report.md, table1.csv ... and a figure for each swept setting
    python -m minipelt timing --out results/      first measures what Table 4 shows
"""

import argparse

WORK = "minipelt.paper.report:write_report"


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS", help="the folder that a sweep wrote")
    parser.add_argument("--out", metavar="FOLDER", help="where the report goes (default: beside the results)")
    return parser
