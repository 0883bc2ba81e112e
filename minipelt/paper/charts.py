"""The figures of a report: score against a hyperparameter, and against trained parameters. Needs matplotlib, an extra.

rows: as tables.py has them. An SVG keeps its text as text and is the same file each time.
"""

import math
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from minipelt.errors import InputError


def draw_setting(name: str, rows: list[dict], path: Path) -> None:
    """Score against a hyperparameter, a line a (K, task, method)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = defaultdict(list)
    for row in rows:
        lines[f"{row['task']} {row['method']}, K = {row['k']}"].append(row)
    for text, points in lines.items():
        draw_line(axes, points, name, label=text)
    if name != "top_layers":
        axes.set_xscale("log", base=2)
    values = sorted({row[name] for row in rows})
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set(xlabel=name.replace("_", " "), ylabel="test score")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def draw_tradeoff(rows: list[dict], path: Path) -> None:
    """Score against trained parameters, a panel a (K, task), a line a method; the dotted line is fine-tuning."""
    panels = sort_into_panels(rows)
    figure, grid = make_panels(len(panels))
    methods = sorted({method for lines in panels.values() for method in lines})
    counts = [row["parameters"] for row in rows]
    across = min(counts) / 2, 2 * max(counts)
    for axes, ((k, task), lines) in zip(grid, panels.items(), strict=True):
        for method, points in lines.items():
            points.sort(key=lambda row: row["parameters"])
            colour = f"C{methods.index(method)}"  # a method has one colour in all panels
            if method == "ft":
                axes.axhline(points[0]["mean"], color=colour, linestyle=":", zorder=0)
            draw_line(axes, points, "parameters", color=colour, label=method)
        title = f"{'average' if task == 'avg' else task}, K = {k}"
        labels = {"xlabel": "trained parameters, with the head", "ylabel": "test score"}
        axes.set(xscale="log", xlim=across, title=title, **labels)
        axes.grid(alpha=0.3)
    share_one_height(grid)
    add_legend(figure, grid)
    save(figure, path)


def draw_line(axes, points: list[dict], x: str, **style) -> None:
    """Mean score against the column `x` of some rows, with bars of one standard deviation."""
    values = [row[x] for row in points]
    means = [row["mean"] for row in points]
    deviations = [np.nan_to_num(row["deviation"]) for row in points]
    axes.errorbar(values, means, deviations, marker="o", capsize=3, **style)


def sort_into_panels(rows: list[dict]) -> dict:
    """{(K, task): {method without its size: [rows]}}. The average has no panel where it would repeat the only task."""
    tasks = {row["task"] for row in rows}
    panels = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["task"] == "avg" and len(tasks) == 2:
            continue
        method = re.sub(r"-(bottleneck|toplayers)[^-]*", "", row["method"])
        panels[row["k"], row["task"]][method].append(row)
    return panels


def draw_growth(axes: list[dict], path: Path) -> None:
    """Milliseconds against each size that grows, both in logarithms; dotted what the count of multiplications predicts,
    through the last point. axes: as growth.json has them.
    """
    figure, grid = make_panels(len(axes))
    for panel, each in zip(grid, axes, strict=True):
        points = each["points"]
        values = [point["value"] for point in points]
        for colour, cost in zip(("C0", "C1"), ("training", "inference"), strict=True):
            panel.plot(values, [point[cost] for point in points], marker="o", color=colour, label=cost)
            scale = points[-1][cost] / points[-1][f"{cost}_flops"]
            predicted = [scale * point[f"{cost}_flops"] for point in points]
            panel.plot(values, predicted, linestyle=":", color=colour, label=f"{cost}, predicted")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(values, [str(value) for value in values])
        name = each["axis"].replace("_", " ")
        panel.set(title=f"{name}, {each['method']}", xlabel=name, ylabel="milliseconds")
        panel.grid(alpha=0.3)
    add_legend(figure, grid)
    save(figure, path)


def make_panels(size: int):
    """(a Figure, its `size` axes), three in a row."""
    from matplotlib.figure import Figure

    across = min(3, size)
    down = math.ceil(size / across)
    figure = Figure(figsize=(1.5 + 3.5 * across, 3.8 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes in grid[size:]:
        axes.set_axis_off()
    return figure, grid[:size]


def share_one_height(grid) -> None:
    """Give a point one height in all panels, so that noise looks like noise."""
    span = 0.0
    for axes in grid:
        low, high = axes.get_ylim()
        span = max(span, high - low)
    for axes in grid:
        middle = sum(axes.get_ylim()) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)


def add_legend(figure, grid) -> None:
    """One legend for all panels, each method once."""
    lines = {}
    for axes in grid:
        for line, text in zip(*axes.get_legend_handles_labels(), strict=True):
            lines[text] = line
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=6)


def save(figure, path: Path) -> None:
    """Write a Figure as SVG. Raises InputError if it cannot be written."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minipelt"}):
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None})
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
