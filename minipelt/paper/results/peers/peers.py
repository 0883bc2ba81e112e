"""minipelt beside the libraries that people use, on the same rows: fine-tuning, LoRA, adapter and UniPELT.

    pip install transformers==4.57.6 peft==0.21.2 adapters==1.3.0      beside minipelt; it needs none of them itself
    python minipelt/paper/results/peers/peers.py --glue glue           24 runs, a line each in peers.jsonl
    python minipelt/paper/results/peers/peers.py --table               peers.md, from the lines alone

minipelt's own side is on record, in ../k500: the library's model takes its place in the same runs. The same base,
all-MiniLM-L6-v2; the same rows, tokens, batches and order; the same start of the head (of a regression at the mean
score of its training rows). Both sides go through minipelt's own loop: AdamW at minipelt's default rate of the method,
ft 1e-4 and all else 1e-3, no decay on vectors, warm-up, clipping, at most 10 epochs, and the best of them on 300
validation rows, which is then scored by minipelt's metrics on the whole dev set. Only the model differs, and its noise:
every library draws its own start and its own dropout. foreign.py says what each model is; before a method's first run
on a task, minipelt's numbers are put into the library's model and must give its logits to 1e-5.

What is on record is not done again, so the command can be stopped and repeated.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch

from minipelt.errors import InputError, run_command
from minipelt.experiment import prepare, score
from minipelt.files import alone_in, make_folder, write_text
from minipelt.identity import git_commit
from minipelt.loop import make_optimizer, predict, train
from minipelt.paper.markdown import markdown, number, with_deviation
from minipelt.paper.results import Line, append, mend, read_results, settings
from minipelt.paper.sweep import Shared
from minipelt.paper.tables import mean_and_deviation, paired_t_test
from minipelt.paper.tables import score as test_score
from minipelt.progress import step_bar
from minipelt.settings import Method, Recipe, Run, default_learning_rate
from minipelt.unipelt import trained_parameters
from minipelt.weights import find

METHODS = ("ft", "lora", "adapter", "apl")
TASKS = ("sst2", "stsb")
HERE = Path(__file__).resolve().parent
OURS = HERE.parent / "k500" / "results.jsonl"


# ---- one run


def run_of(task: str, method: str, seed: int, glue: str) -> Run:
    """The settings of a run: ../k500's."""
    method = Method(method)
    recipe = Recipe(default_learning_rate(method), epochs=10, seed=seed)
    return Run(task, method, recipe, glue=glue, k=500, valid_rows=300, device="cpu")


def do_run(run: Run, shared: Shared) -> dict:
    """Train and test the library's model. Returns its results."""
    _, ours, rows = prepare(run, shared.load, shared.read)
    model = foreign().build(ours, find(run.model), run.method.name, run.recipe.seed)
    metric = run.spec.metrics[0]
    trained = trained_parameters(model)

    def scores(split):
        return score(run.spec, predict(model, rows[split]), rows[split].labels)

    optimizer = make_optimizer(model, run.recipe)
    steps = run.recipe.epochs * -(-len(rows["train"]) // run.recipe.batch_size)
    with step_bar(optimizer, 0, steps):
        for report in train(model, rows["train"], run.recipe, lambda _: scores("validation")[metric], optimizer):
            if report["best_epoch"] == report["epoch"]:
                best = {name: parameter.detach().clone() for name, parameter in trained.items()}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(best[name])
    return {
        "validation": scores("validation"), "test": scores("test"),
        "best_epoch": report["best_epoch"], "epochs": report["epoch"],
        "trained": sum(parameter.numel() for parameter in trained.values()),
    }


def foreign():
    """foreign.py, imported when a library is needed: the table needs none."""
    import foreign

    return foreign


def check(run: Run, shared: Shared) -> float:
    """Largest distance of logits where minipelt's trained numbers stand in the library's model."""
    _, model, rows = prepare(run, shared.load, shared.read)
    peer = foreign().build(model, find(run.model), run.method.name, run.recipe.seed)
    return foreign().check(model, peer, run.method.name, rows["test"])


# ---- many runs


def do_runs(args) -> None:
    """Do what is not on record, seed by seed."""
    torch.set_num_threads(1)
    done = {(run.task, run.method.name, run.recipe.seed) for run, _ in read_results(args.out)}
    shared = Shared()
    checked = {}
    for seed, task, method in product(args.seeds, args.tasks, args.methods):
        if (task, method, seed) in done:
            continue
        run = run_of(task, method, seed, args.glue)
        if (task, method) not in checked:
            checked[task, method] = check(run, shared)
            print(f"{task} {method}: logits agree to {checked[task, method]:.1e}", flush=True)
        library = foreign().LIBRARIES[method]
        line = {"run": asdict(settings(run)), "agreement": checked[task, method]}
        line |= {"results": do_run(run, shared), "commit": git_commit()}
        line["versions"] = {each.__name__: each.__version__ for each in (torch, library)}
        append(args.out, line)
        test = line["results"]["test"][run.spec.metrics[0]]
        print(f"{run.name}, {library.__name__}: {100 * test:.2f}, epoch {line['results']['best_epoch']}", flush=True)


# ---- the table


def table(lines: list[Line], sweep: Path) -> str:
    """Mean and deviation over seeds of both sides, and their difference with a paired t-test.

    lines: the libraries' runs. sweep: the file of minipelt's, of which those with the same settings count. Raises
    InputError if one of them is not there.
    """
    ours = {settings(line.run): line for line in read_results(sweep)}
    own, theirs, libraries = defaultdict(dict), defaultdict(dict), {}
    for line in lines:
        run, record = line
        if settings(run) not in ours:
            raise InputError(f"{sweep}: no {run.name} with the settings of peers.py; expected ../k500's sweep")
        place, seed = (run.task, run.method.name), run.recipe.seed
        own[place][seed] = test_score(ours[settings(run)])
        theirs[place][seed] = test_score(line)
        libraries[place] = " ".join(list(record["versions"].items())[-1])
    rows = []
    for task, method in product(TASKS, METHODS):
        place = task, method
        if place not in theirs:
            continue
        difference, p, seeds = paired_t_test(own[place], theirs[place])
        texts = [with_deviation(*mean_and_deviation(scores)) for scores in (own[place], theirs[place])]
        shown = f"{difference:+.2f}"
        rows.append([task, f"`{method}`", texts[0], libraries[place], texts[1], shown, number(p), str(seeds)])
    return markdown(["task", "method", "minipelt", "library", "its score", "difference", "p", "seeds"], rows)


def report(lines: list[Line], sweep: Path) -> str:
    """What peers.md says. The arguments are `table`'s."""
    return (
        "# minipelt beside its peers\n\n"
        f"{len(lines)} runs of libraries beside minipelt's own of [k500](../k500/report.md). Scores in percent on the "
        "whole dev set, small their standard deviations over seeds (n - 1); differences are minipelt's score minus the "
        "library's, with the two-sided p of a paired t-test, nothing corrected for the number of tests. What is equal "
        "on both sides, and what is not: [peers.py](peers.py) and [foreign.py](foreign.py).\n\n"
        f"{table(lines, sweep)}\n"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--glue", default="glue", metavar="FOLDER", help="where the official TSVs are")
    parser.add_argument("--out", type=Path, default=HERE / "peers.jsonl", metavar="FILE", help="a line a run")
    parser.add_argument("--ours", type=Path, default=OURS, metavar="FILE", help="minipelt's lines, of a sweep")
    parser.add_argument("--table", action="store_true", help="only write the table of what is on record")
    args = parser.parse_args()
    if not args.table:
        make_folder(args.out.parent)
        with alone_in(args.out.parent):
            mend(args.out)
            do_runs(args)
    text = report(read_results(args.out), args.ours)
    write_text(args.out.with_suffix(".md"), text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, "interrupted: the same command goes on where it was"))
