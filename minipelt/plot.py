"""Draw runs: learning curves, gates, a comparison. Needs matplotlib: pip install -e ".[plot]"

    python -m minipelt.plot runs/sst2-apl-seed1                              loss and validation score per epoch, into curve.png
    python -m minipelt.plot runs/*-apl-seed1 --kind gates --out gates.svg    mean gate of each layer and submodule, a panel a run
    python -m minipelt.plot runs/sst2-*                                      test scores and trained parameters, into compare.png
"""

import argparse
import json
import sys
from pathlib import Path

from minipelt import InputError, run_command
from minipelt.glue import get_task, read_lines


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m minipelt.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that train.py left")
    parser.add_argument("--kind", choices=KINDS, help="what to draw (default: curve for one run, compare for several)")
    parser.add_argument("--out", metavar="FILE", help="a .png or .svg file (default: the kind's name, as .png)")
    return parser


# ---- reading run folders


def read_record(folder, finished=False):
    """What a run folder's run.json holds. Raises InputError if it is no run, or has no results where `finished` asks for them."""
    from minipelt.checkpoint import load_json

    record = load_json(Path(folder) / "run.json")
    if not isinstance(record, dict) or "run" not in record:
        raise InputError(f"{folder}/run.json: not a run; expected a file that train.py wrote")
    if finished and "results" not in record:
        raise InputError(f"{folder}: this run has no results yet, only --kind curve can draw it; go on with: python train.py --resume {folder}")
    return record


def read_reports(folder):
    """The lines of a run folder's metrics.jsonl, one report an epoch. Raises InputError if there are none."""
    path, reports = Path(folder) / "metrics.jsonl", []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            reports.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}: line {number}: not valid JSON ({error})") from None
    if not reports: raise InputError(f"{path}: no epoch has ended yet; expected at least one line")
    return reports


def metric_of(record):
    """The name of the metric that a run's task is scored by."""
    from minipelt.owndata import Data

    run = record["run"]
    return (Data(**run["data"]).spec(run["task"]) if run.get("data") else get_task(run["task"])).metrics[0]


def trained_parameters(record):
    """How many trained parameters a run keeps, with its head."""
    from minipelt.unipelt import kept_parameters

    return kept_parameters(record["parameters"]) + record["parameters"]["head"]


def run_names(folders):
    """A short name for each run: its folder's, or the whole path where two folders have one name."""
    names = [Path(folder).resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders)]


# ---- drawing: run folders -> matplotlib Figure


def draw_curve(folders):
    """Training loss above, validation score below, a line a run; a star marks the best epoch, whose weights were kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    loss, score = figure.subplots(2, sharex=True)
    metrics = []
    for folder, name in zip(folders, run_names(folders)):
        metrics.append(metric_of(read_record(folder)))
        reports = read_reports(folder)
        epochs, scores = [r["epoch"] for r in reports], [100 * r["score"] for r in reports]
        best = epochs.index(reports[-1]["best_epoch"])
        line, = loss.plot(epochs, [r["loss"] for r in reports], marker=".", label=f"{name}: best epoch {epochs[best]}, {scores[best]:.2f}")
        score.plot(epochs, scores, marker=".", color=line.get_color())
        score.plot(epochs[best], scores[best], marker="*", markersize=13, color=line.get_color())
    loss.set_ylabel("training loss")
    score.set(xlabel="epoch", ylabel=f"validation {' / '.join(dict.fromkeys(metrics))}")
    score.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, score): axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")
    return figure


def draw_gates(folders):
    """The mean gate over the dev set as a heat map, layer x submodule, a panel a run; one colour scale, 0 to 1, for all."""
    from matplotlib.figure import Figure

    gates = [read_record(folder, finished=True)["results"]["gates"] for folder in folders]
    for folder, means in zip(folders, gates):
        if not means: raise InputError(f"{folder}: this run has no gates; expected a method that joins two or more of a, p, l")
    columns, rows = min(len(folders), 4), -(-len(folders) // 4)
    layers = max(len(values) for means in gates for values in means.values())
    figure = Figure(figsize=(1 + 3 * columns, rows * (1.5 + 0.35 * layers)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, means, name in zip(panels, gates, run_names(folders)):
        cells = list(zip(*means.values()))  # a row a layer, a column a submodule
        image = panel.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for layer, values in enumerate(cells):
            for column, g in enumerate(values):
                panel.text(column, layer, f"{g:.2f}", ha="center", va="center", color="black" if g > 0.5 else "white")
        panel.set_title(name, fontsize="medium")
        panel.set_xticks(range(len(means)), [submodule.replace("_", "\n") for submodule in means])
        panel.set_yticks(range(len(cells)))
        panel.set_ylabel("layer")
    for panel in panels[len(folders):]: panel.set_axis_off()
    figure.colorbar(image, ax=list(panels), label="mean gate over the dev set")
    return figure


def draw_compare(folders):
    """Test scores as bars, with the trained parameters beside them."""
    from matplotlib.figure import Figure

    records = [read_record(folder, finished=True) for folder in folders]
    metrics = [metric_of(record) for record in records]
    scores = [100 * record["results"]["test"][metric] for record, metric in zip(records, metrics)]
    same = len(set(metrics)) == 1

    figure = Figure(figsize=(8, 1.2 + 0.4 * len(folders)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(scores)), scores)
    axes.bar_label(bars, [f"{score:.2f}" if same else f"{score:.2f} {metric}" for score, metric in zip(scores, metrics)], padding=3)
    axes.set_yticks(range(len(scores)), run_names(folders))
    axes.invert_yaxis()  # the first run on top
    axes.set_xlim(min(0, *scores) - 10 * (min(scores) < 0), 115 if same else 135)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(f"test {metrics[0]}" if same else "test score")
    beside = axes.get_yaxis_transform()  # x in widths of the plot, y in bars
    for row, record in enumerate(records):
        axes.text(1.2, row, f"{trained_parameters(record):,}", transform=beside, ha="right", va="center")
    axes.text(1.2, 1.01, "trained parameters", transform=axes.transAxes, ha="right", va="bottom")
    return figure


KINDS = {"curve": draw_curve, "gates": draw_gates, "compare": draw_compare}


def write(figure, path):
    """Save a Figure as PNG or SVG, by suffix. An SVG keeps its text as text and is the same file each time."""
    import matplotlib

    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minipelt"}):
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def main(argv=None):
    """The command. Returns the exit code."""
    return run_command(lambda: draw(make_parser().parse_args(argv)))


def draw(args):
    """Draw what was asked and print the file's name."""
    kind = args.kind or ("curve" if len(args.runs) == 1 else "compare")
    path = Path(args.out or f"{kind}.png")
    if path.suffix.lower() not in (".png", ".svg"): raise InputError(f"--out {path}: expected a name that ends in .png or .svg")
    try:
        import matplotlib  # noqa: F401  (an extra: the rest of minipelt works without it)
    except ImportError:
        raise InputError('drawing needs matplotlib; install it with: pip install -e ".[plot]"') from None
    write(KINDS[kind](args.runs), path)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
