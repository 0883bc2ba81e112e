"""A grid of runs: tasks x methods x training rows x seeds, resumed where it was killed.

    python -m minipelt sweep --tasks all --methods ft,bitfit,adapter,prefix,lora,ap,apl --k 100 500 1000 --out results/
    python -m minipelt sweep --train my.csv --dev my-dev.csv --name mine --methods lora,apl --out mine/      own files
    torchrun --nproc-per-node 8 -m minipelt sweep ...       the same, over 8 processes; several may share a GPU

results.jsonl gets one line when a run ends: settings and scores, nothing that depends on the machine's load or the
number of processes. times.jsonl gets the seconds. Running the command again goes on with what is missing;
`python -m minipelt report` makes tables.
"""

import argparse
from dataclasses import fields

from minipelt.commands import add_economy_options, add_options, add_quiet, add_threads
from minipelt.commands.train import add_own_data, check_own_data
from minipelt.glue import TASKS
from minipelt.settings import DEFAULT_MODEL, HYPERPARAMETERS, Method, Recipe, Run

WORK = "minipelt.paper.sweep:sweep"
INTERRUPTED = "interrupted: the same command goes on where it was; what is done is in results.jsonl"


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    about_lists = "Lists have spaces or commas between. A value makes runs of its own for the methods that use it."
    add_grid_options(parser.add_argument_group("the grid", about_lists))
    training = parser.add_argument_group("every run")
    training.add_argument("--model", metavar="MODEL", help=f"folder or Hub name (default: {DEFAULT_MODEL})")
    training.add_argument(
        "--glue", metavar="FOLDER",
        help="where the official TSVs are (default: glue if it holds all tasks, else the sample rows)",
    )
    add_options(training, Run, ("valid_rows", "max_length"))
    add_options(training, Recipe, ("batch_size", "epochs", "patience"))
    add_options(training, Run, ("frozen_head", "zero_start"))
    add_economy_options(parser.add_argument_group("less time or memory"))
    add_own_data(parser.add_argument_group("your own data, in place of --tasks"))
    add_work_options(parser.add_argument_group("the work"))
    parser.set_defaults(valid_rows=None)  # so that `check` knows what was given; grid.py has the default
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that do not go together, or would have no effect."""
    if args.train and args.tasks:
        parser.error("--tasks and --train: expected one of them")
    check_own_data(parser, args)


def add_grid_options(group: argparse._ArgumentGroup) -> None:
    """What the grid is made of. A hyperparameter takes a list, and makes runs for the methods that use it."""
    group.add_argument(
        "--tasks", nargs="+", action=Words, const=str, metavar="TASK",
        help=f"all, or some of {', '.join(TASKS)} (default: all)",
    )
    group.add_argument(
        "--methods", nargs="+", action=Words, const=str, required=True, metavar="METHOD", help="as for train.py"
    )
    group.add_argument("--no-gate", action="store_true", help="run every union a second time, without gates")
    group.add_argument(
        "--k", nargs="+", action=Words, const=str, metavar="K",
        help="training rows; all: the whole file, best score on dev (default: 100; all of your own files)",
    )
    group.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 1 to N (default: %(default)s)")
    for field in fields(Method):
        if field.name in HYPERPARAMETERS:
            symbol, text = field.metadata["symbol"], field.metadata["help"]
            flag = f"--{field.name.replace('_', '-')}"
            help = f"{text} (a list; default: {field.default:g})"
            group.add_argument(flag, nargs="+", action=Words, const=field.type, metavar=symbol, help=help)
    group.add_argument(
        "--lr", nargs="+", action=Words, const=float, metavar="RATE",
        help="learning rates (a list; default: the method's own)",
    )


def add_work_options(group: argparse._ArgumentGroup) -> None:
    """How the runs are done, and where the results go."""
    group.add_argument(
        "--out", default="results", metavar="FOLDER", help="where the results are gathered (default: %(default)s)"
    )
    group.add_argument(
        "--device", default="auto", metavar="DEVICE",
        help="auto, cpu, cuda or mps; with several GPUs each process takes one (default: auto)",
    )
    add_threads(group)
    group.add_argument(
        "--keep-runs", action="store_true", help="keep every run's folder, with its trained tensors, under OUT/runs"
    )
    group.add_argument(
        "--retry-failed", action="store_true", help="forget the failures on record and run them again"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="list the runs with an estimate of their time, and train nothing"
    )
    add_quiet(group)


class Words(argparse.Action):
    """A list with spaces or commas between, of `const`: str, int or float."""

    def __call__(self, parser, namespace, values, option=None):
        words = [word for text in values for word in text.split(",") if word]
        try:
            setattr(namespace, self.dest, [self.const(word) for word in words])
        except ValueError:
            parser.error(f"{option} {' '.join(values)}: expected numbers")
