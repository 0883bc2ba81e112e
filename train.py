"""Train one PELT method on one GLUE task.

    python train.py --task sst2 --method apl
    python train.py --task mrpc --method lora --k 500 --seed 3
    python train.py --eval runs/sst2-apl-seed1
    python train.py --train my.tsv --dev my-dev.tsv --text-column text --label-column label
"""

import argparse
import os
import sys
from pathlib import Path

from minipelt import InputError, run_command
from minipelt.glue import TASKS, find_data, get_task

DEFAULT_MODEL = "all-MiniLM-L6-v2"  # weights.DEFAULT; importing that file would bring in torch, which --help must not wait for
METHODS = """\
methods:
  ft        fine-tuning: every parameter trains
  head      only the classifier on the frozen encoder trains
  adapter   a bottleneck after each feed-forward block         (letter a)
  prefix    trained vectors before each layer's keys and values (letter p)
  lora      low-rank updates of the queries and values          (letter l)
  bitfit    the encoder's biases                                (letter b)
  houlsby   two adapters a layer, and the LayerNorms
  parallel  an adapter beside each feed-forward block
  ia3       scalings of keys, values and feed-forward features
  layernorm the encoder's LayerNorms
  top       the top layers (--top-layers)
  prompt    trained vectors in the input
  diff      a sparse difference to every matrix (--share)
  side      a small network beside the encoder
  ap, pl, apl, aplb, houlsby+p+l ...   letters joined, or names and letters with +; where two or more of adapter, prefix, lora,
            houlsby and parallel meet, each gets a gate: UniPELT
"""


def make_parser():
    """The command line, as argparse prints it for --help."""
    parser = argparse.ArgumentParser(
        prog="python train.py", description=__doc__, epilog=METHODS, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    what = parser.add_argument_group("what to run")
    what.add_argument("--task", metavar="TASK", help=", ".join(TASKS))
    what.add_argument("--method", metavar="METHOD", default="apl", help="see below (default: %(default)s)")
    what.add_argument("--model", metavar="MODEL",
                      help=f"a folder with a BERT, or a Hugging Face Hub name such as bert-base-uncased (default: {DEFAULT_MODEL})")
    what.add_argument("--eval", metavar="RUN", help="score a run folder on its test set again, and train nothing; "
                      "of the other arguments only --device, --glue and --model are heeded")
    what.add_argument("--resume", metavar="RUN", help="go on with a run folder that was interrupted; the same arguments are heeded")

    data = parser.add_argument_group("data")
    data.add_argument("--glue", metavar="FOLDER", help="where the official TSVs are (default: glue if it holds the task, "
                      "else the sample rows that come with minipelt)")
    data.add_argument("--k", type=int, metavar="K", help="low-resource protocol: K rows of train; with GLUE the next 1,000 pick the best epoch "
                      "and dev is the test set (default: all of train, best score on dev)")
    data.add_argument("--valid-rows", type=int, default=1000, metavar="N", help="with --k: rows to pick the best epoch (default: %(default)s)")
    data.add_argument("--max-length", type=int, default=128, metavar="N", help="tokens kept of a row (default: %(default)s)")

    own = parser.add_argument_group("your own data, in place of --task")
    own.add_argument("--train", metavar="FILE", help="training rows: .tsv, .csv or .jsonl")
    own.add_argument("--dev", metavar="FILE", help="rows to pick the best epoch")
    own.add_argument("--test", metavar="FILE", help="rows to test on (default: those of --dev)")
    own.add_argument("--text-column", default="text", metavar="NAME", help="by the header's name or by number from 1 (default: %(default)s)")
    own.add_argument("--text-b-column", metavar="NAME", help="the second text of a pair")
    own.add_argument("--label-column", default="label", metavar="NAME", help="class or score (default: %(default)s)")
    own.add_argument("--regression", action="store_true", help="labels are numbers to be predicted, not classes")
    own.add_argument("--skip-bad-rows", action="store_true", help="count and report rows that cannot be read, and go on without them")

    method = parser.add_argument_group("method")
    method.add_argument("--no-gate", action="store_true", help="join submodules without gates (the paper's NoGate)")
    method.add_argument("--bottleneck", type=int, default=48, metavar="M", help="width of adapters and side network (default: %(default)s)")
    method.add_argument("--prefix-length", type=int, default=10, metavar="P", help="vectors in a prefix or prompt (default: %(default)s)")
    method.add_argument("--rank", type=int, default=8, metavar="R", help="rank of LoRA (default: %(default)s)")
    method.add_argument("--alpha", type=float, default=16, metavar="A", help="LoRA's scale is alpha / rank if not gated (default: %(default)g)")
    method.add_argument("--top-layers", type=int, default=1, metavar="N", help="layers that top trains; 0: the head alone (default: %(default)s)")
    method.add_argument("--share", type=float, default=0.005, metavar="S", help="of the entries of each matrix that diff keeps (default: %(default)s)")

    training = parser.add_argument_group("training")
    training.add_argument("--lr", type=float, metavar="RATE", help="peak learning rate (default: the method's, see README)")
    training.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows a step (default: %(default)s)")
    training.add_argument("--epochs", type=int, default=50, metavar="N", help="at most (default: %(default)s)")
    training.add_argument("--patience", type=int, default=10, metavar="N", help="stop after N epochs without a better score (default: %(default)s)")
    training.add_argument("--seed", type=int, default=1, metavar="N", help="fixes the rows, the start and the order (default: %(default)s)")
    training.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto: cuda, else mps, else cpu)")
    training.add_argument("--out", default="runs", metavar="FOLDER", help="where the run's folder is made (default: %(default)s)")
    return parser


def settings(args):
    """Command line -> Run."""
    from minipelt.loop import Recipe
    from minipelt.run import Run, default_learning_rate, full_path
    from minipelt.unipelt import HYPERPARAMETERS, Method

    method = Method(args.method, not args.no_gate, **{name: getattr(args, name) for name in HYPERPARAMETERS})
    recipe = Recipe(default_learning_rate(method) if args.lr is None else args.lr, args.batch_size, args.epochs, args.patience, seed=args.seed)
    data = own_data(args) if args.train else None
    name = Path(args.train).stem if data else get_task(args.task).name
    model, glue = full_path(args.model or DEFAULT_MODEL), "" if data else full_path(args.glue or find_data([get_task(args.task)]))
    return Run(name, method, recipe, model, glue, args.k, args.valid_rows, args.max_length, args.device or "auto", data)


def own_data(args):
    """Command line -> owndata.Data."""
    from minipelt.owndata import Data

    if not args.dev: raise InputError("--train without --dev: expected a file with rows to pick the best epoch")
    files = [str(Path(file).resolve()) if file else None for file in (args.train, args.dev, args.test)]
    return Data(*files, args.text_column, args.text_b_column, args.label_column, args.regression, args.skip_bad_rows).found()


def changes(args):
    """What --eval and --resume take from the command line; all else stands in the run folder."""
    from minipelt.run import full_path

    given = {"device": args.device, "glue": args.glue and full_path(args.glue), "model": args.model and full_path(args.model)}
    return {name: value for name, value in given.items() if value}


def evaluate(args):
    """--eval: the test score of a run folder, computed again."""
    from minipelt.batches import encode
    from minipelt.experiment import load_run, test

    run, recorded, model, tokenizer = load_run(args.eval, **changes(args))
    scores = test(model, run.spec, encode(run.read(run.test_split), tokenizer, run.max_length))["test"]
    print(f"{args.eval}: {run.method.name} on {run.task}")
    for metric, value in scores.items():
        before = f"(recorded: {recorded['test'][metric]!r})" if recorded else "(nothing recorded: the run was stopped, or comes from elsewhere)"
        print(f"  test {metric:<10} {value!r} {before}")
    return 0


def result_table(record):
    """A finished run's record (run.json) as lines of text."""
    from minipelt.unipelt import kept_parameters

    results, run, counts = record["results"], record["run"], record["parameters"]
    lines = [f"{'':<14}{'validation':>12}{'test':>12}"]
    for metric, value in results["test"].items():
        lines.append(f"{metric:<14}{100 * results['validation'][metric]:>12.2f}{100 * value:>12.2f}")
    if run["data"] and not run["data"]["test"]: lines.append("(no --test: validation and test are both the dev set)")
    elif run["k"] is None and not run["data"]: lines.append("(no --k: validation and test are both the dev set, as in the paper's full-data protocol)")
    lines.append(f"best epoch {results['best_epoch']} of {results['epochs']}; {results['total_seconds']:.0f} s in all, "
                 f"{results['train_seconds']:.0f} s of it training; {kept_parameters(counts) + counts['head']:,} trained parameters kept")
    if results["gates"]:
        layers = len(next(iter(results["gates"].values())))
        lines.append(f"{'mean gate':<14}{'all':>6} " + "".join(f"{f'layer {i}':>9}" for i in range(layers)))
        for name, values in results["gates"].items():
            lines.append(f"{name:<14}{sum(values) / layers:>6.2f} " + "".join(f"{value:>9.2f}" for value in values))
    return "\n".join(lines)


def train(args):
    """Run, or go on with, one experiment; under torchrun, together with the other processes."""
    from minipelt.checkpoint import load_json
    from minipelt.experiment import new_folder, prepare
    from minipelt.parallel import start
    from minipelt.run import Run

    if int(os.environ.get("RANK", 0)): sys.stdout = open(os.devnull, "w")  # of torchrun's processes only the first speaks
    run = Run.load(args.resume, **changes(args)) if args.resume else settings(args)
    if args.resume:
        if "results" in load_json(Path(args.resume) / "run.json"): raise InputError(f"{args.resume}: this run is finished; --eval {args.resume} scores it again")
        if not (Path(args.resume) / "metrics.jsonl").is_file(): raise InputError(f"{args.resume}: no training to go on with; --eval {args.resume} scores it")
    if int(os.environ.get("RANK", 0)): return follow(run, args.resume)
    start(run.device)
    prepared = prepare(run)
    return record_run(prepared, Path(args.resume) if args.resume else new_folder(run, args.out))


def record_run(prepared, folder):
    """Do the run in its folder, and print what happens."""
    from tqdm import tqdm

    from minipelt.experiment import run_experiment

    run = prepared.run
    if run.spec.labels and run.data: print(f"{len(run.spec.labels)} classes: {', '.join(run.spec.labels)}")
    print(f"{run.method.name} on {run.task}, base {run.model}, seed {run.recipe.seed}, learning rate {run.recipe.learning_rate:g}")
    try:
        record = run_experiment(prepared, folder, tqdm.write, resume=(folder / "resume.safetensors").is_file())
    except KeyboardInterrupt:
        kept = f"the best epoch so far is in {folder}/trained.safetensors" if (folder / "trained.safetensors").is_file() else "no epoch was finished"
        print(f"\ninterrupted: {kept}; go on with: python train.py --resume {folder}", file=sys.stderr)
        return 130
    print(f"{result_table(record)}\nrun folder: {folder}")


def follow(run, resumed):
    """What torchrun's second process, third ... does: the same run, silently, with a folder that goes when it ends."""
    import shutil
    import tempfile

    from minipelt.experiment import prepare, run_experiment
    from minipelt.parallel import start

    with tempfile.TemporaryDirectory() as folder:
        state = Path(resumed or folder) / "resume.safetensors"
        resume = state.is_file()
        if resume:  # before the processes meet: the first one removes the file when the run ends
            for name in ("resume.safetensors", "trained.safetensors"): shutil.copy(state.with_name(name), folder)
        start(run.device)
        try:
            run_experiment(prepare(run), folder, resume=resume)
        except KeyboardInterrupt: return 130  # the first process says what is kept


def main(argv=None):
    """The command line. Returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if not (args.eval or args.task or args.resume or args.train):
        parser.error(f"--task is needed, one of {', '.join(TASKS)}; or --train and --dev with your own files")
    if args.task and args.train: parser.error("--task and --train: expected one of them")
    if (args.dev or args.test) and not args.train: parser.error("--dev and --test belong to --train, for your own files")
    return run_command(lambda: evaluate(args) if args.eval else train(args), interrupted="interrupted: nothing was trained yet")


if __name__ == "__main__":
    sys.exit(main())
