"""Train one PELT method on one GLUE task.

    python train.py --task sst2 --method apl
    python train.py --task mrpc --method lora --k 500 --seed 3
    python train.py --eval runs/sst2-apl-seed1
"""

import argparse
import sys
from pathlib import Path

from minipelt import InputError
from minipelt.glue import TASKS, get_task

METHODS = """\
methods:
  ft        fine-tuning: every parameter trains
  head      only the classifier on the frozen encoder trains
  adapter   a bottleneck after each feed-forward block         (letter a)
  prefix    trained vectors before each layer's keys and values (letter p)
  lora      low-rank updates of the queries and values          (letter l)
  bitfit    the encoder's biases                                (letter b)
  ap, pl, apl, aplb, ...   any letters joined; with two or more of a, p, l each gets a gate: UniPELT
"""


def make_parser():
    """The command line, as argparse prints it for --help."""
    parser = argparse.ArgumentParser(
        prog="python train.py", description=__doc__, epilog=METHODS, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    what = parser.add_argument_group("what to run")
    what.add_argument("--task", metavar="TASK", help=", ".join(TASKS))
    what.add_argument("--method", metavar="METHOD", default="apl", help="see below (default: %(default)s)")
    what.add_argument("--model", metavar="MODEL", default="all-MiniLM-L6-v2",
                      help="a folder with a BERT, or a Hugging Face Hub name such as bert-base-uncased (default: %(default)s)")
    what.add_argument("--eval", metavar="RUN", help="score a finished run folder on its test set again, and train nothing")
    what.add_argument("--resume", metavar="RUN", help="go on with a run folder that was interrupted")

    data = parser.add_argument_group("data")
    data.add_argument("--glue", metavar="FOLDER", help="where the official TSVs are (default: glue if it holds the task, "
                      "else the sample rows that come with minipelt)")
    data.add_argument("--k", type=int, metavar="K", help="low-resource protocol: K rows of train, the next 1,000 to pick the best "
                      "epoch, dev as test (default: all of train, best score on dev)")
    data.add_argument("--valid-rows", type=int, default=1000, metavar="N", help="with --k: rows to pick the best epoch (default: %(default)s)")
    data.add_argument("--max-length", type=int, default=128, metavar="N", help="tokens kept of a row (default: %(default)s)")

    method = parser.add_argument_group("method")
    method.add_argument("--no-gate", action="store_true", help="join submodules without gates (the paper's NoGate)")
    method.add_argument("--bottleneck", type=int, default=48, metavar="M", help="width of the adapter (default: %(default)s)")
    method.add_argument("--prefix-length", type=int, default=10, metavar="P", help="vectors in a prefix (default: %(default)s)")
    method.add_argument("--rank", type=int, default=8, metavar="R", help="rank of LoRA (default: %(default)s)")
    method.add_argument("--alpha", type=float, default=16, metavar="A", help="LoRA's scale is alpha / rank if not gated (default: %(default)g)")

    training = parser.add_argument_group("training")
    training.add_argument("--lr", type=float, metavar="RATE", help="peak learning rate (default: the method's, see README)")
    training.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows a step (default: %(default)s)")
    training.add_argument("--epochs", type=int, default=50, metavar="N", help="at most (default: %(default)s)")
    training.add_argument("--patience", type=int, default=10, metavar="N", help="stop after N epochs without a better score (default: %(default)s)")
    training.add_argument("--seed", type=int, default=1, metavar="N", help="fixes the rows, the start and the order (default: %(default)s)")
    training.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")
    training.add_argument("--out", default="runs", metavar="FOLDER", help="where the run's folder is made (default: %(default)s)")
    return parser


def choose_data(task, folder):
    """The GLUE folder to read: the user's, or `glue`, or else "miniglue", said in one line."""
    if folder is not None: return folder
    if (Path("glue") / task.folder).is_dir(): return "glue"
    print(f"no glue/{task.folder} here: using the sample rows of minipelt/miniglue (python -m minipelt.glue {task.name} fetches the real ones)")
    return "miniglue"


def settings(args):
    """Command line -> Run."""
    from minipelt.experiment import Run, default_learning_rate
    from minipelt.loop import Recipe
    from minipelt.unipelt import Method

    if args.k is not None and args.k < 1: raise InputError(f"--k is {args.k}; expected at least 1 row")
    if args.valid_rows < 1: raise InputError(f"--valid-rows is {args.valid_rows}; expected at least 1 row")
    if args.max_length < 8: raise InputError(f"--max-length is {args.max_length}; expected at least 8 tokens")
    method = Method(args.method, not args.no_gate, args.bottleneck, args.prefix_length, rank=args.rank, alpha=args.alpha)
    recipe = Recipe(default_learning_rate(method) if args.lr is None else args.lr, args.batch_size, args.epochs, args.patience, seed=args.seed)
    task = get_task(args.task)
    return Run(task.name, method, recipe, args.model, choose_data(task, args.glue), args.k, args.valid_rows, args.max_length, args.device)


def evaluate(args):
    """--eval: the test score of a run folder, computed again."""
    from minipelt.batches import encode
    from minipelt.experiment import load_run, load_splits, test

    changes = {"device": args.device} | ({"glue": args.glue} if args.glue else {})
    run, recorded, model, tokenizer = load_run(args.eval, **changes)
    scores = test(model, get_task(run.task), encode(load_splits(run)["test"], tokenizer, run.max_length))["test"]
    print(f"{args.eval}: {run.method.name} on {run.task}")
    for metric, value in scores.items():
        before = f"(recorded: {recorded['test'][metric]!r})" if recorded else "(the run did not finish; this is its best epoch)"
        print(f"  test {metric:<10} {value!r} {before}")


def train(args):
    """Run, or go on with, one experiment."""
    from tqdm import tqdm

    from minipelt.checkpoint import load_json
    from minipelt.experiment import Run, new_folder, prepare, result_table, run_experiment

    if args.resume:
        record = load_json(Path(args.resume) / "run.json")
        if "results" in record: raise InputError(f"{args.resume}: this run is finished; --eval {args.resume} scores it again")
    run = Run.from_dict(record["run"]) if args.resume else settings(args)
    prepared = prepare(run)
    folder = Path(args.resume) if args.resume else new_folder(run, args.out)
    print(f"{run.method.name} on {run.task}, base {run.model}, seed {run.recipe.seed}, learning rate {run.recipe.learning_rate:g}")
    try:
        record = run_experiment(prepared, folder, tqdm.write, resume=(folder / "resume.safetensors").is_file())
    except KeyboardInterrupt:
        kept = f"the best epoch so far is in {folder}/trained.safetensors" if (folder / "trained.safetensors").is_file() else "no epoch was finished"
        print(f"\ninterrupted: {kept}; go on with: python train.py --resume {folder}", file=sys.stderr)
        return 130
    print(f"{result_table(record)}\nrun folder: {folder}")


def main(argv=None):
    """The command line. Returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        if args.eval: return evaluate(args)
        if not args.task and not args.resume: parser.error("--task is needed: one of " + ", ".join(TASKS))
        return train(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
