"""Why is a union behind its part? One change to `apl` at a time, scored on validation rows alone.

    python variants.py --glue glue                 every variant on SST-2 and STS-B, seeds 1 to 5; goes on where it was
    python variants.py --table                     variants.jsonl -> a table
    python variants.py --glue glue --k 500 --epochs 10 --tasks qnli --out k500.jsonl     with more rows: a file a K

Not part of the package: what is tried here and does not help never enters it. A variant is a function that changes a
model which `attach` has made, before it trains.
"""

import argparse
import math
import sys
from collections import defaultdict
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from torch import nn

from minipelt.errors import InputError, run_command
from minipelt.experiment import prepare, score
from minipelt.files import alone_in, make_folder
from minipelt.gate import Gate, mean_gates, record_gates
from minipelt.identity import git_commit
from minipelt.loop import make_optimizer, predict, train
from minipelt.methods.adapter import Adapter
from minipelt.methods.lora import LoRA
from minipelt.methods.prefix import Prefix
from minipelt.paper.markdown import markdown, number, with_deviation
from minipelt.paper.results import append, mend, read_results, settings
from minipelt.paper.tables import mean_and_deviation, paired_t_test
from minipelt.settings import Method, Recipe, Run, default_learning_rate

HERE = Path(__file__).parent
VALID_ROWS, PATIENCE = 300, 10


# ---- the variants


class ClosingPrefix(Prefix):
    """A prefix whose gate weighs its part of the attention: log g is added to its scores. g = 0 is plain BERT."""

    def forward(self, h, k, v, mask, prefix):
        """As Prefix.forward; the mask comes back as numbers to add to the scores, (B, P + T)."""
        log_g = self.gate(h, mask).squeeze(-1).log()  # (B, 1)
        B, P = len(h), prefix.shape[1]
        prefix = prefix[:, None].expand(-1, B, -1, -1)  # (2, B, P, D)
        k = torch.cat([prefix[0], k], dim=1)  # (B, P + T, D)
        v = torch.cat([prefix[1], v], dim=1)  # (B, P + T, D)
        seen = torch.zeros_like(mask, dtype=log_g.dtype).masked_fill(~mask, -math.inf)  # (B, T)
        return k, v, torch.cat([log_g.expand(-1, P), seen], dim=1)  # (B, P + T)


class Times(nn.Module):
    """A gate times a number."""

    def __init__(self, gate, factor):
        super().__init__()
        self.inside, self.factor = gate, factor

    def forward(self, x, mask):
        """As Gate.forward."""
        return self.factor * self.inside(x, mask)


class Constant(Gate):
    """A gate that reads nothing: one trained number."""

    def __init__(self):
        super().__init__(1)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x, mask):
        """As Gate.forward."""
        return super().forward(torch.ones_like(x[:, :, :1]), mask)


class Paced(nn.Linear):
    """A Linear whose result counts `speed` times, from weights as much smaller: Adam moves it `speed` times as fast."""

    def __init__(self, linear, speed):
        super().__init__(linear.in_features, linear.out_features)
        self.speed = speed
        with torch.no_grad():
            self.weight.copy_(linear.weight / speed)
            self.bias.copy_(linear.bias / speed)

    def forward(self, x):
        """As Linear.forward."""
        return self.speed * super().forward(x)


def closing_prefix(model, start=0.5):
    """The prefix's gates close, and start at a value."""
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        gate = attention.prefix.gate
        nn.init.constant_(gate.linear.bias, math.log(start / (1 - start)))
        attention.prefix = ClosingPrefix(gate)


def shut_prefix(model):
    """The prefix's gates close, and start nearly shut."""
    closing_prefix(model, start=0.02)


def plain_prefix(model):
    """The prefix's values start at zero."""
    table = model.bert.prefix
    N, _, _, D = table.shape
    last = table.network[-1]
    with torch.no_grad():
        last.weight.view(N, 2, D, -1)[:, 1] = 0
        last.bias.view(N, 2, D)[:, 1] = 0


def keep_alpha(model):
    """LoRA's scale is g alpha / R under its gate, not g."""
    for module in model.modules():
        if isinstance(module, LoRA):
            module.gate = Times(module.gate, module.scale)


def constant_gates(model):
    """Every gate is one number, the same for all sentences."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Gate):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, Constant())


def fast_gates(model):
    """Gates learn ten times as fast as the rest."""
    for module in model.modules():
        if isinstance(module, Gate):
            module.linear = Paced(module.linear, 10)


def slow_network(model):
    """The network that makes the prefixes learns a tenth as fast as the rest."""
    network = model.bert.prefix.network
    network[1], network[3] = Paced(network[1], 0.1), Paced(network[3], 0.1)


def slow_adapter(model):
    """Adapters learn a tenth as fast as the rest."""
    for module in model.modules():
        if isinstance(module, Adapter):
            module.down, module.up = Paced(module.down, 0.1), Paced(module.up, 0.1)


def no_gates(model):
    """The parts as they are alone: no gate, LoRA's scale alpha / R."""
    for module in model.modules():
        if hasattr(module, "gate"):
            module.gate = None


def several(*changes):
    """One variant of several changes."""

    def change(model):
        for each in changes:
            each(model)

    return change


def nothing(model):
    """The method as it is."""


VARIANTS = {
    "adapter": ("adapter", nothing),
    "lora": ("lora", nothing),
    "al": ("al", nothing),
    "apl": ("apl", nothing),
    "closing prefix, from 0.5": ("apl", closing_prefix),
    "closing prefix, from 0.02": ("apl", shut_prefix),
    "prefix values from zero": ("apl", plain_prefix),
    "gate times alpha / R": ("apl", keep_alpha),
    "constant gates": ("apl", constant_gates),
    "fast gates": ("apl", fast_gates),
    "slow prefix network": ("apl", slow_network),
    "slow prefix network, alpha / R": ("apl", several(slow_network, keep_alpha)),
    "closing prefix from 0.02, alpha / R": ("apl", several(shut_prefix, keep_alpha)),
    "al, alpha / R": ("al", keep_alpha),
    "al, no gates": ("al", no_gates),
    "al, slow adapter": ("al", slow_adapter),
    "slow prefix network, slow adapter": ("apl", several(slow_network, slow_adapter)),
}


# ---- running them


def do_run(task, name, seed, args):
    """One run -> its line for variants.jsonl."""
    method_name, change = VARIANTS[name]
    method = Method(method_name)
    recipe = Recipe(default_learning_rate(method), epochs=args.epochs, patience=PATIENCE, seed=seed)
    run = Run(task, method, recipe, k=args.k, glue=args.glue, valid_rows=VALID_ROWS)
    _, model, rows = prepare(run)
    torch.manual_seed(seed)
    change(model)
    metric = run.spec.metrics[0]

    def validate(model):
        return score(run.spec, predict(model, rows["validation"]), rows["validation"].labels)[metric]

    best, gates = None, {}
    for report in train(model, rows["train"], recipe, validate, make_optimizer(model, recipe)):
        if report["best_epoch"] == report["epoch"]:
            best = report
            with record_gates(model) as recorded:
                predict(model, rows["validation"])
            gates = mean_gates(recorded) if all(recorded.values()) else {}
    return {
        "variant": name, "task": task, "seed": seed, "metric": metric, "validation": best["score"],
        "best_epoch": best["epoch"], "epochs": report["epoch"], "gates": gates, "run": asdict(settings(run)),
        "commit": git_commit(),
    }


def do_runs(args):
    """Every run that is not on record yet, seed by seed."""
    torch.set_num_threads(1)
    on_record = read_results(args.out)
    for run, _ in on_record:
        if run.k != args.k:
            raise InputError(f"{args.out} has runs with K = {run.k}; expected a file of its own for K = {args.k}")
    done = {(record["variant"], run.task, run.recipe.seed) for run, record in on_record}
    for seed, task, name in product(range(1, args.seeds + 1), args.tasks, args.variants):
        if (name, task, seed) in done:
            continue
        line = do_run(task, name, seed, args)
        append(args.out, line)
        print(f"{task} seed {seed} {name:<40}{100 * line['validation']:6.2f}", flush=True)


# ---- the table


def table(lines):
    """A row a variant: mean and deviation of the best validation scores, and the paired difference to `apl`.

    seeds: how many of the variant's seeds `apl` has as well.
    """
    scores = defaultdict(dict)
    for run, record in lines:
        scores[record["variant"], run.task][run.recipe.seed] = 100 * record["validation"]
    tasks = sorted({task for _, task in scores})
    header = ["variant"]
    for task in tasks:
        header += [task, "minus `apl`", "p", "seeds"]
    rows = []
    for name in VARIANTS:
        if not any(scores[name, task] for task in tasks):
            continue
        cells = [name]
        for task in tasks:
            each = scores[name, task]
            if each:
                mean, deviation = mean_and_deviation(each)
                difference, p, seeds = paired_t_test(each, scores["apl", task])
                cells += [with_deviation(mean, deviation, (1, 1)), f"{difference:+.1f}", number(p), str(seeds)]
            else:
                cells += ["", "", "", ""]
        rows.append(cells)
    return markdown(header, rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", default="glue", metavar="FOLDER", help="where the official TSVs are")
    parser.add_argument("--out", type=Path, default=HERE / "variants.jsonl", metavar="FILE", help="a line a run")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "stsb"])
    parser.add_argument("--k", type=int, default=100, metavar="K", help="training rows")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="at most this many epochs")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 1 to N")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--table", action="store_true", help="print the table, and train nothing")
    args = parser.parse_args()
    if args.table:
        print(table(read_results(args.out)))
        return 0
    make_folder(args.out.parent)
    with alone_in(args.out.parent):
        mend(args.out)
        do_runs(args)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, "interrupted: the same command goes on where it was"))
