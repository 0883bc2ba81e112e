"""Measure what Table 4 shows: parameters, and the time of training and of inference relative to fine-tuning.

    python -m minipelt.timing --out results/          writes results/timing.json, which the report reads

All methods are in memory at once and take turns, a step each, so that a busy moment of the machine hits all of them alike. A first
round warms up and does not count; the rest give a median a method. Inference is as after training: without the prefix network.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

from minipelt import InputError, run_command
from minipelt.glue import find_data, get_task

METHODS = "ft,bitfit,prefix,lora,adapter,ap,apl"


def turns(steps, repeats, device):
    """{name: median seconds} of functions that take turns."""
    import torch
    from tqdm import trange

    seconds = {name: [] for name in steps}
    for turn in trange(-1, repeats, desc="turns", disable=None, leave=False):
        for name, step in steps.items():
            if device.type == "cuda": torch.cuda.synchronize(device)
            started = time.perf_counter()
            step()
            if device.type == "cuda": torch.cuda.synchronize(device)
            if turn >= 0: seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(runs, repeats):
    """Runs that differ in their method, fine-tuning first -> [{"method", "parameters", "training", "inference"}], times as shares of the first's."""
    import torch

    from minipelt.batches import collate
    from minipelt.experiment import choose_device, prepare
    from minipelt.loop import loss_function, make_optimizer
    from minipelt.shared import Shared
    from minipelt.unipelt import count_parameters, kept_parameters, trained_parameters

    shared, device, models, training, inference = Shared(), choose_device(runs[0].device), {}, {}, {}
    for run in runs:
        model, rows = prepare(run, shared)[1:]
        models[run.method] = model = copy.deepcopy(model)  # all at once, where runs that follow each other would share a base
        inputs, labels = collate(rows["train"], range(min(run.recipe.batch_size, len(rows["train"]))), device)
        optimizer, _ = make_optimizer(model, run.recipe, 1000)

        def train_step(model=model, optimizer=optimizer, parameters=list(trained_parameters(model).values())):
            penalty = model.penalty() if model.penalty else 0.0
            (loss_function(model(*inputs), labels) + penalty).backward()
            torch.nn.utils.clip_grad_norm_(parameters, run.recipe.clip)
            optimizer.step()
            optimizer.zero_grad()

        @torch.inference_mode()
        def predict_step(model=model):
            model(*inputs)

        training[run.method], inference[run.method] = train_step, predict_step

    counts = {method: count_parameters(model) for method, model in models.items()}
    for model in models.values(): model.train()
    trained = turns(training, repeats, device)
    for model in models.values():
        model.eval()
        if model.bert.prefix: model.bert.prefix.drop_network()
    predicted = turns(inference, repeats, device)
    first = runs[0].method
    return [
        {"method": method.name, "parameters": kept_parameters(counts[method]),
         "training": trained[method] / trained[first], "inference": predicted[method] / predicted[first]}
        for method in models
    ], counts[first]["base"]


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minipelt.timing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS, metavar="LIST", help="with commas between, fine-tuning first (default: %(default)s)")
    parser.add_argument("--task", default="sst2", metavar="TASK", help="whose rows (default: %(default)s)")
    parser.add_argument("--model", metavar="MODEL", help="folder or Hub name (default: all-MiniLM-L6-v2)")
    parser.add_argument("--glue", metavar="FOLDER", help="where the official TSVs are (default: glue, else the sample rows)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="turns that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--out", default="results", metavar="FOLDER", help="where timing.json goes (default: %(default)s)")
    return parser


def write_timing(args):
    """Measure, print, write."""
    import torch

    from minipelt.checkpoint import save_json
    from minipelt.experiment import choose_device
    from minipelt.loop import Recipe
    from minipelt.run import Run
    from minipelt.unipelt import Method
    from minipelt.weights import DEFAULT

    methods = [Method(name) for name in args.methods.split(",")]
    if methods[0].name != "ft": raise InputError(f"--methods {args.methods}: expected ft first; the times of the others are relative to it")
    if args.repeats < 1: raise InputError(f"--repeats {args.repeats}: expected at least 1")
    torch.set_num_threads(args.threads)
    task = get_task(args.task)
    model, glue = args.model or DEFAULT, args.glue or find_data([task])
    rows, base = measure([Run(task.name, method, Recipe(1e-4, args.batch_size), model, glue, args.batch_size, 1, device=args.device) for method in methods], args.repeats)
    print(f"{'method':<12}{'parameters':>14}{'training':>12}{'inference':>12}")
    for row in rows: print(f"{row['method']:<12}{row['parameters']:>14,}{100 * row['training']:>10.0f} %{100 * row['inference']:>10.0f} %")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    save_json({"model": model, "task": task.name, "batch_size": args.batch_size, "repeats": args.repeats, "threads": args.threads,
               "device": str(choose_device(args.device)), "base": base, "methods": rows}, Path(args.out) / "timing.json")


def main(argv=None):
    """The command. Returns the exit code."""
    return run_command(lambda: write_timing(make_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
