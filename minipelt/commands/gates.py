"""Do gates depend on the input? Their spread, and the scores of trained runs with constants in their place.

    python -m minipelt sweep --tasks sst2 stsb --methods apl --k 500 --seeds 3 --keep-runs --out results/kept
    python -m minipelt gates results/kept/runs/* --out results/gates      asks every run again, a line each
    python -m minipelt gates --out results/gates                          only writes gates.md and gates.svg again

For every finished run with gates, on its whole test rows: how far each gate spreads over layers and over sentences;
the score with the gates as they are, with each replaced by its own mean, by one half, by one, and with all gates of a
submodule shut. A run that is in gates.jsonl already is not asked again.
"""

import argparse

WORK = "minipelt.paper.gatestudy:study"
INTERRUPTED = "interrupted: the same command goes on where it was; what is done is in gates.jsonl"


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN",
        help="run folders that train.py or sweep --keep-runs left (default: none; the tables are made of gates.jsonl)",
    )
    parser.add_argument("--glue", metavar="FOLDER", help="where the TSVs are (default: as the run was trained)")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or mps (default: as the run was trained)")
    parser.add_argument(
        "--out", default="results/gates", metavar="FOLDER", help="where the results are gathered (default: %(default)s)"
    )
    return parser
