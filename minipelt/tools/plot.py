"""Draw runs: learning curves, gates, a comparison (`python -m minipelt plot`). Needs matplotlib, an extra."""

import io
import json
import math
from pathlib import Path

from minipelt.errors import InputError, complain
from minipelt.files import read_lines, write_bytes
from minipelt.record import check_reports, load_record
from minipelt.settings import Run
from minipelt.tools.train import can_go_on
from minipelt.unipelt import kept_parameters

PANELS = 4  # of a row in the picture of gates
STYLES = ("-", "--", ":", "-.")  # of lines: matplotlib has ten colours, so the eleventh run gets the next style


# ---- the command


def plot(args):
    """Draw what was asked and print the file's name."""
    kind = args.kind or ("curve" if len(args.runs) == 1 else "compare")
    path = Path(args.out or f"{kind}.png")
    check_matplotlib()
    from matplotlib import rc_context

    read, draw = KINDS[kind]
    with rc_context({"text.parse_math": False}):  # a $ in a run's name is a $
        write(draw(read_runs(args.runs, read)), path)
    print(path)


def check_matplotlib():
    """Raise InputError if matplotlib is not there: the rest of minipelt works without it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError('drawing needs matplotlib; install it with: pip install -e ".[plot]"') from None


def read_runs(folders, read):
    """{name: what read(folder) gives} of run folders. Of several, one that cannot be drawn is passed over, with a line.

    Raises InputError if a folder does not exist, or if none can be drawn.
    """
    missing = [folder for folder in folders if not Path(folder).exists()]
    if missing:
        raise InputError(f"{missing[0]}: no such run; expected a run folder, such as train.py leaves in runs/")
    found = {}
    for folder, name in zip(folders, run_names(folders), strict=True):
        try:
            found[name] = read(folder)
        except InputError as error:
            if len(folders) == 1:
                raise
            complain(f"passed over: {error}")
    if not found:
        raise InputError(f"none of the {len(folders)} can be drawn; expected at least one run folder")
    return found


def run_names(folders):
    """A short name for each run: its folder's, or the whole path where two folders have one name."""
    names = [Path(folder).resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


# ---- reading: a run folder -> what a picture needs


def read_results(folder):
    """(Run, the record in run.json). Raises InputError if it is no run, or has not ended yet."""
    run = Run.load(folder)
    record = load_record(folder)
    if "results" not in record:
        if not can_go_on(Path(folder)):
            raise InputError(f"{folder}: no test score on record; expected a run that was trained here to its end")
        raise InputError(
            f"{folder}: this run has no results yet, only --kind curve can draw it; "
            f"go on with: python train.py --resume {folder}"
        )
    return run, record


def read_curve(folder):
    """{"epochs", "losses", "scores" (in percent), "best" (an index), "metric"} of a run. InputError if it has none."""
    run = Run.load(folder)
    path = Path(folder) / "metrics.jsonl"
    reports = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            reports.append(json.loads(line))
            check_reports(reports)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: not the report of an epoch ({error})") from None
    if not reports:
        raise InputError(f"{path}: no epoch has ended yet; expected at least one line")
    return {
        "epochs": [report["epoch"] for report in reports],
        "losses": [report["loss"] for report in reports],
        "scores": [100 * report["score"] for report in reports],
        "best": reports[-1]["best_epoch"] - 1,
        "metric": run.spec.metrics[0],
    }


def read_gates(folder):
    """{submodule: [mean gate of each layer]} of a run. Raises InputError if it has no gates."""
    _, record = read_results(folder)
    gates = record["results"]["gates"]
    if not gates:
        raise InputError(f"{folder}: this run has no gates; expected a union such as apl")
    return gates


def read_score(folder):
    """{"metric", "score" (in percent), "parameters" (trained and kept, with the head)} of a run."""
    run, record = read_results(folder)
    metric = run.spec.metrics[0]
    if "parameters" not in record:
        raise InputError(f"{folder}/run.json: no parameters; expected how many of each part train")
    parameters = kept_parameters(record["parameters"]) + record["parameters"]["head"]
    return {"metric": metric, "score": 100 * record["results"]["test"][metric], "parameters": parameters}


# ---- drawing: what was read of each run, by name -> matplotlib Figure


def draw_curve(curves):
    """Training loss above, validation score below, a line a run; a star marks the best epoch, which was kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6 + 0.2 * len(curves)), layout="constrained")
    loss, score = figure.subplots(2, sharex=True)
    for number, (name, curve) in enumerate(curves.items()):
        best = curve["best"]
        best_epoch, best_score = curve["epochs"][best], curve["scores"][best]
        label = f"{name}: best epoch {best_epoch}, {best_score:.2f}"
        style = {"color": f"C{number % 10}", "linestyle": STYLES[number // 10 % len(STYLES)]}
        loss.plot(curve["epochs"], curve["losses"], marker=".", label=label, **style)
        score.plot(curve["epochs"], curve["scores"], marker=".", clip_on=False, **style)
        score.plot(best_epoch, best_score, marker="*", markersize=13, clip_on=False, zorder=3, **style)
    metrics = dict.fromkeys(curve["metric"] for curve in curves.values())
    loss.set_ylabel("training loss")
    loss.set_ylim(bottom=max(0, loss.get_ylim()[0]))
    score.set(xlabel="epoch", ylabel=f"validation {' / '.join(metrics)}")
    bottom, top = score.get_ylim()
    lowest = 0 if all(value >= 0 for curve in curves.values() for value in curve["scores"]) else -100
    score.set_ylim(max(lowest, bottom), min(100, top))
    last = max(curve["epochs"][-1] for curve in curves.values())
    score.set_xlim(0.5, last + 0.5)
    score.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, score):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")
    return figure


def draw_gates(gates):
    """The mean gate over the dev set as a heat map, layer x submodule, a panel a run; one colour scale for all."""
    from matplotlib.figure import Figure

    columns = min(len(gates), PANELS)
    rows = math.ceil(len(gates) / PANELS)
    layers = max(len(values) for means in gates.values() for values in means.values())
    widest = max(len(means) for means in gates.values())
    size = (1.2 + columns * (0.6 + 0.75 * widest), rows * (1.8 + 0.35 * layers))  # inches
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (name, means) in zip(panels, gates.items(), strict=False):
        image = draw_heat_map(panel, name, means)
    for panel in panels[len(gates) :]:
        panel.set_axis_off()
    figure.colorbar(image, ax=list(panels), label="mean gate over the dev set")
    return figure


def draw_heat_map(panel, name, means):
    """One run's gates in one panel. Returns the image."""
    cells = list(zip(*means.values(), strict=True))  # a row a layer, a column a submodule
    image = panel.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for layer, values in enumerate(cells):
        for column, g in enumerate(values):
            panel.text(column, layer, f"{g:.2f}", ha="center", va="center", color="black" if g > 0.5 else "white")
    panel.set_title(wrap(name, 9 * max(2, len(means))), fontsize="medium")
    panel.set_xticks(range(len(means)), [label.replace("_", "\n").replace(".", "\n") for label in means])
    panel.tick_params(axis="x", labelsize="small")
    panel.set_yticks(range(len(cells)))
    panel.set_ylabel("layer")
    return image


def wrap(name, width):
    """A long name on several lines, broken after its dashes where possible."""
    lines = [""]
    for word in name.replace("-", "-\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def draw_compare(scores):
    """Test scores as bars, with the trained parameters beside them."""
    from matplotlib.figure import Figure

    runs = list(scores.values())
    values = [run["score"] for run in runs]
    metrics = [run["metric"] for run in runs]
    same = len(set(metrics)) == 1

    longest = max(map(len, scores))
    figure = Figure(figsize=(7.5 + 0.09 * longest, 1.3 + 0.4 * len(runs)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(runs)), values)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(runs)), list(scores))
    axes.set_ylim(len(runs) - 0.5, -0.5)  # the first run on top
    lowest = 20 * math.floor(min(0, *values) / 20)
    axes.set_xlim(lowest, 100)
    ticks = range(-100, 101, 50 if lowest < -40 else 20)
    axes.set_xticks([tick for tick in ticks if tick >= lowest])
    axes.set_xlabel(f"test {metrics[0]}" if same else "test score")
    right_edge = 150 if same else 210  # of the column of parameters, in points beside the plot
    for row, run in enumerate(runs):
        shown = f"{run['score']:.2f}" if same else f"{run['score']:.2f} {run['metric']}"
        write_beside(axes, row, shown, 8, "left")
        write_beside(axes, row, f"{run['parameters']:,}", right_edge, "right")
    write_beside(axes, -0.8, "trained parameters", right_edge, "right")
    return figure


def write_beside(axes, row, text, points, side):
    """Write text in a row of bars, so many points to the right of the plot."""
    place = {"xycoords": axes.get_yaxis_transform(), "xytext": (points, 0), "textcoords": "offset points"}
    axes.annotate(text, (1, row), ha=side, va="center", annotation_clip=False, **place)


KINDS = {
    "curve": (read_curve, draw_curve),
    "gates": (read_gates, draw_gates),
    "compare": (read_score, draw_compare),
}


def write(figure, path):
    """Save a Figure as PNG or SVG, by suffix. An SVG keeps its text as text and is the same file each time."""
    import matplotlib

    kind = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else {}
    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minipelt"}):
        figure.savefig(drawn, format=kind, dpi=150, metadata=metadata)
    try:
        write_bytes(path, drawn.getvalue())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
