"""Train one PELT method on one GLUE task, or on your own rows.

    python train.py --task sst2 --method apl
    python train.py --task mrpc --method lora --k 500 --seed 3
    python train.py --eval runs/sst2-apl-seed1
    python train.py --train my.tsv --dev my-dev.tsv --text-column text --label-column label
"""

import argparse

from minipelt.commands import add_economy_options, add_options, add_quiet, add_threads
from minipelt.glue import TASKS
from minipelt.settings import DEFAULT_MODEL, HYPERPARAMETERS, LETTERS, PARTS, Data, Method, Recipe, Run

WORK = "minipelt.tools.train:train"
INTERRUPTED = "interrupted: nothing was trained yet"
DEFAULT_METHOD = "apl"
DEFAULT_OUT = "runs"
OWN_DATA = ("dev", "test", "name", "text_column", "text_b_column", "label_column", "regression", "skip_bad_rows")
# What --eval and --resume take; all else stands in the folder.
ON_A_RUN_FOLDER = ("device", "glue", "model", "threads", "quiet")


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line. What is not given is None: the defaults stand in the classes of settings.py alone."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, epilog=methods(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--task", metavar="TASK", help=", ".join(TASKS))
    what.add_argument("--method", metavar="METHOD", help=f"see below (default: {DEFAULT_METHOD})")
    what.add_argument(
        "--model", metavar="MODEL",
        help=f"a folder with a BERT, or a Hugging Face Hub name such as bert-base-uncased (default: {DEFAULT_MODEL})",
    )
    what.add_argument(
        "--eval", metavar="RUN",
        help=f"score a run folder on its test set again, and train nothing; takes {flags(ON_A_RUN_FOLDER)} besides",
    )
    what.add_argument("--resume", metavar="RUN", help="go on with a run folder that was interrupted; takes the same")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--glue", metavar="FOLDER",
        help="where the official TSVs are (default: glue if it holds the task, else the sample rows of minipelt)",
    )
    add_options(data, Run, ("k", "valid_rows", "max_length"))
    add_own_data(parser.add_argument_group("your own data, in place of --task"))

    method = parser.add_argument_group("method")
    method.add_argument("--no-gate", action="store_true", help="join submodules without gates (the paper's NoGate)")
    add_options(method, Method, HYPERPARAMETERS)

    training = parser.add_argument_group("training")
    training.add_argument("--lr", type=float, metavar="RATE", help="peak learning rate (default: the method's, below)")
    add_options(training, Recipe, ("batch_size", "epochs", "patience", "seed"))
    add_options(training, Run, ("frozen_head", "zero_start"))
    training.add_argument(
        "--device", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto: cuda, else mps, else cpu)"
    )
    add_threads(training)
    training.add_argument("--out", metavar="FOLDER", help=f"where the run's folder is made (default: {DEFAULT_OUT})")
    add_quiet(training)
    add_economy_options(parser.add_argument_group("less time or memory"))

    names = vars(parser.parse_args([]))
    parser.set_defaults(**dict.fromkeys(names))  # None, so that `check` and the work know what was given
    return parser


def add_own_data(group) -> None:
    """The options for the user's own files; what is not given is None. tools/owndata.py makes a Data of them."""
    group.add_argument("--train", metavar="FILE", help="training rows: .tsv, .csv or .jsonl")
    group.add_argument("--dev", metavar="FILE", help="rows to pick the best epoch")
    group.add_argument("--test", metavar="FILE", help="rows to test on (default: those of --dev)")
    group.add_argument("--name", metavar="NAME", help="what the data is called (default: the training file's name)")
    group.add_argument(
        "--text-column", metavar="NAME", help=f"by the header's name or by number from 1 (default: {Data.text})"
    )
    group.add_argument("--text-b-column", metavar="NAME", help="the second text of a pair")
    group.add_argument("--label-column", metavar="NAME", help=f"class or score (default: {Data.label})")
    group.add_argument(
        "--regression", action="store_true", default=None, help="labels are numbers to be predicted, not classes"
    )
    group.add_argument(
        "--skip-bad-rows", action="store_true", default=None,
        help="count and report rows that cannot be read, and go on without them",
    )


def methods() -> str:
    """What --help says about the methods, a line for each row of the table."""
    lines = ["methods, with their learning rates:"]
    for part in PARTS.values():
        where = f" ({part.where})" if part.where else ""
        letter = f"; letter {part.letter}" if part.letter else ""
        lines.append(f"  {part.name:<10}{part.learning_rate:<7g}{part.trains}{where}{letter}")
    gateable = [part.name for part in PARTS.values() if part.gateable]
    letters = list(LETTERS)
    lines += [
        f"  {letters[0] + letters[1]}, {''.join(letters[:3])}, houlsby+{letters[1]}+{letters[2]} ...",
        "            letters joined, or names and letters with +; where two or more of",
        f"            {', '.join(gateable)} meet, each gets a gate: UniPELT",
    ]
    return "\n".join(lines)


def flags(names) -> str:
    """("text_column", "name") -> --text-column, --name."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, or would have no effect."""
    given = [name for name, value in vars(args).items() if value is not None]
    if args.eval or args.resume:
        check_run_folder(parser, args, given)
        return
    if not args.task and not args.train:
        parser.error(f"--task is needed, one of {', '.join(TASKS)}; or --train and --dev with your own files")
    if args.task and args.train:
        parser.error("--task and --train: expected one of them")
    check_own_data(parser, args)
    if args.task and "valid_rows" in given and args.k is None:
        parser.error("--valid-rows has an effect with --k alone; without it, the dev set picks the best epoch")


def check_own_data(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that belong to GLUE's tasks beside --train, and those of own files without it."""
    if args.train:
        for name in ("glue", "valid_rows"):
            if getattr(args, name) is not None:
                parser.error(f"{flags([name])} has no effect on your own files")
        return
    strangers = [name for name in OWN_DATA if getattr(args, name) is not None]
    if strangers:
        parser.error(f"{flags(strangers)}: these belong to --train, for your own files")


def check_run_folder(parser, args, given) -> None:
    """Refuse what --eval and --resume do not take."""
    what = "eval" if args.eval else "resume"
    strangers = [name for name in given if name not in (what, *ON_A_RUN_FOLDER)]
    if strangers:
        parser.error(
            f"{flags(strangers)}: no effect with --{what}, which takes the settings of its folder and "
            f"{flags(ON_A_RUN_FOLDER)}"
        )
