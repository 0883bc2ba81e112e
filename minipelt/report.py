"""The paper's tables from a sweep's results, as Markdown and CSV, each beside the paper's own numbers.

    python -m minipelt.report results/                writes results/report.md, table1.csv ... and a figure for each swept hyperparameter
    python -m minipelt.timing --out results/          first measures what Table 4 shows

`tables.py` computes the numbers; this file writes them down.
"""

import argparse
import csv
import math
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from minipelt import InputError, paper, run_command
from minipelt.checkpoint import load_json
from minipelt.glue import TASKS
from minipelt.sweep import read_results
from minipelt.tables import Grid, comparisons, gate_table, label, swept, table_1, table_2, table_3, table_4, tradeoff
from minipelt.unipelt import HYPERPARAMETERS

SETTINGS = {*HYPERPARAMETERS, "learning_rate"}  # columns to be written as they were typed

# ---- Markdown


def number(value, digits=2):
    """A number for people; an empty cell for none, -- for one that cannot be known."""
    if value is None or value == "": return ""
    if isinstance(value, str) or isinstance(value, int): return f"{value:,}" if isinstance(value, int) else value
    return "--" if math.isnan(value) else f"{value:.{digits}f}"


def markdown(header, rows):
    """A Markdown table."""
    return "\n".join(["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |", *("| " + " | ".join(row) + " |" for row in rows)])


def ranked(cells):
    """Mark the best of a column's (mean, text) bold, the second underlined."""
    order = sorted({round(mean, 2) for mean, _ in cells if mean is not None}, reverse=True)
    marks = dict(zip(order, ("**{}**", "<u>{}</u>")))
    return [text if mean is None else marks.get(round(mean, 2), "{}").format(text) for mean, text in cells]


def score_table(grid, k, rows):
    """Table 1 for one K: methods down, tasks across, mean with deviation; below, the paper's means."""
    cells = {(row["method"], row["task"]): row for row in rows if row["k"] == (k or "all")}
    methods, columns = grid.methods(k), (*grid.tasks, "avg")

    def cell(method, task):
        row = cells.get((method, task))
        return (row["mean"], f"{row['mean']:.2f}<sub>{number(row['deviation'], 1)}</sub>") if row else (None, "")

    by_column = [ranked([cell(method, task) for method in methods]) for task in columns]
    lines = [[f"`{method}`", number(grid.parameters[method]), *texts] for method, *texts in zip(methods, *by_column)]
    for method in methods:
        theirs = [*(paper.score(k, method, task) for task in grid.tasks), paper.average(k, method, grid.tasks)]
        if any(value is not None for value in theirs): lines.append([f"*paper: {method}*", "", *map(number, theirs)])
    return markdown(["method", "parameters", *(f"{name}<br>{TASKS[name].metrics[0]}" for name in grid.tasks), "average"], lines)


def wide_table(rows, tasks, mark):
    """A tidy table with a row a (K, method) and a column a task: the difference, with its p."""
    lines = defaultdict(dict)
    for row in rows: lines[row["k"], row["method"]][row["task"]] = f"{row['difference']:+.2f}<sub>{'&lt;0.01' if row['p'] < 0.005 else number(row['p'])}</sub>"
    return markdown(["K", mark, *tasks, "average"], [[str(k), f"`{method}`", *(cells.get(task, "") for task in (*tasks, "avg"))] for (k, method), cells in lines.items()])


def plain_table(rows):
    """A tidy table as it is."""
    def cell(name, value):
        return f"`{value}`" if name == "method" else f"{value:g}" if name in SETTINGS else number(value)

    return markdown(list(rows[0]), [[cell(name, value) for name, value in row.items()] for row in rows])


def report(grid, timing):
    """(the whole report as Markdown, {file name: rows} for the CSV files)."""
    tables = {"table1": list(table_1(grid)), "table2": list(table_2(grid)), "table3": list(table_3(grid)), "gates": list(gate_table(grid))}
    if timing: tables["table4"] = list(table_4(timing))
    reference = next((name for name in ("apl", "ap") if any(name in grid.methods(k) for k in grid.sizes)), None)
    if reference: tables["comparisons"] = list(comparisons(grid, reference))
    seeds = sorted({seed for scores in grid.scores.values() for seed in scores})
    p = grid.protocol
    parts = ["# Report", f"{len(grid.records)} runs on {p['model']} and {p['data']}, seeds {', '.join(map(str, seeds))}. At most {p['epochs']} epochs, patience {p['patience']}, "
             f"{p['valid_rows']} validation rows where K is a number, batches of {p['batch_size']}, at most {p['max_length']} tokens. Scores are percent "
             "on the official dev set; small numbers are standard deviations over seeds (n - 1). Best bold, second underlined. The paper's numbers "
             "are for BERT-base, five seeds, 50 epochs and 1,000 validation rows."]
    if grid.failed: parts.append(f"{len(grid.failed)} runs failed: " + "; ".join(f"{r['run']['task']} {label(r['run'])}: {r['error']}" for r in grid.failed[:10]))
    for k in grid.sizes: parts += [f"## Table 1: K = {k or 'all rows'}", score_table(grid, k, tables["table1"])]
    if len(grid.tasks) < len(TASKS): parts.append(f"The average, the paper's too, is over the {len(grid.tasks)} tasks of this report.")
    if reference and tables["comparisons"]:
        parts += [f"## `{reference}` minus each other method", "Difference in points; below it the two-sided p of a paired t-test over the seeds. "
                  "Nothing is corrected for the number of comparisons: with this many, one in twenty falls under 0.05 by chance.",
                  wide_table(tables["comparisons"], grid.tasks, f"`{reference}` minus")]
    if tables["table2"]:
        parts += ["## Table 2: unions against the best of their submodules", "Upper bound: for each task the best submodule alone, chosen on the test "
                  "scores, as in the paper.", plain_table(tables["table2"])]
    if tables["table3"]:
        parts += ["## Table 3: with gates minus without", "Difference in points; below it the p of a paired t-test over the seeds.", wide_table(tables["table3"], grid.tasks, "method")]
    if timing:
        parts += ["## Table 4: parameters and time", f"Percent of fine-tuning, measured side by side in one process on {timing['device']} with {timing['threads']} "
                  f"threads: medians of {timing['repeats']} turns after a warm-up; {timing['model']}, batches of {timing['batch_size']} rows of {timing['task']}.",
                  plain_table(tables["table4"])]
    if tables["gates"]: parts += ["## Mean gates", "Over layers, examples of the dev set and seeds.", gates_markdown(tables["gates"])]
    sizes = swept(grid)
    if {"bottleneck", "top_layers"} & sizes.keys() and (rows := list(tradeoff(grid))):
        tables["tradeoff"] = rows
        parts += ["## Score against trained parameters", "The head's parameters are counted. The dotted line is fine-tuning.",
                  "![Score against trained parameters, a panel a task](tradeoff.svg)"]
        if compared := [row for row in rows if row["method"] != "ft" and not math.isnan(row["difference"])]:
            parts += ["Each method minus fine-tuning, in points; below it the p of a paired t-test over the seeds.", wide_table(compared, grid.tasks, "method")]
    for name, rows in sizes.items():
        tables[name] = rows
        parts += [f"## {name.replace('_', ' ').capitalize()}", f"![Score against {name}]({name}.svg)", plain_table(rows)]
    return "\n\n".join(parts) + "\n", tables


def gates_markdown(rows):
    """Mean gates, a row a (K, task, method), a column a submodule."""
    submodules = list(dict.fromkeys(row["submodule"] for row in rows))
    lines = defaultdict(dict)
    for row in rows: lines[row["k"], row["task"], row["method"]][row["submodule"]] = number(row["gate"])
    return markdown(["K", "task", "method", *submodules],
                    [[str(k), task, f"`{method}`", *(cells.get(name, "") for name in submodules)] for (k, task, method), cells in lines.items()])


# ---- files


def draw_line(axes, points, x, **style):
    """Mean score against the column `x` of some rows, with bars of one standard deviation."""
    axes.errorbar([row[x] for row in points], [row["mean"] for row in points], [np.nan_to_num(row["deviation"]) for row in points],
                  marker="o", capsize=3, **style)


def draw(name, rows, path):
    """Score against a hyperparameter, a line a (K, task, method)."""
    from matplotlib.figure import Figure

    from minipelt.plot import write

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = defaultdict(list)
    for row in rows: lines[f"{row['task']} {row['method']}, K = {row['k']}"].append(row)
    for text, points in lines.items(): draw_line(axes, points, name, label=text)
    if name != "top_layers": axes.set_xscale("log", base=2)
    values = sorted({row[name] for row in rows})
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set(xlabel=name.replace("_", " "), ylabel="test score")
    axes.grid(alpha=0.3)
    axes.legend()
    write(figure, path)


def draw_tradeoff(rows, path):
    """Score against trained parameters, a panel a (K, task), a line a method; the dotted line is fine-tuning."""
    from matplotlib.figure import Figure

    from minipelt.plot import write

    panels = defaultdict(lambda: defaultdict(list))
    one_task = len({row["task"] for row in rows}) == 2  # it and its average
    for row in rows:
        if row["task"] == "avg" and one_task: continue
        panels[row["k"], row["task"]][re.sub(r"-(bottleneck|toplayers)[^-]*", "", row["method"])].append(row)
    columns = min(3, len(panels))
    lines_of_panels = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.5 + 3.5 * columns, 3.8 * lines_of_panels), layout="constrained")
    grid = figure.subplots(lines_of_panels, columns, squeeze=False).flatten()
    for axes in grid[len(panels):]: axes.set_axis_off()
    grid = grid[: len(panels)]
    names = sorted({name for lines in panels.values() for name in lines})  # a method has one colour in all panels
    smallest, largest = (bound(row["parameters"] for row in rows) for bound in (min, max))
    for axes, ((k, task), lines) in zip(grid, panels.items()):
        for name, points in lines.items():
            points.sort(key=lambda row: row["parameters"])
            colour = f"C{names.index(name)}"
            if name == "ft": axes.axhline(points[0]["mean"], color=colour, linestyle=":", zorder=0)
            draw_line(axes, points, "parameters", color=colour, label=name)
        axes.set(xscale="log", xlim=(smallest / 2, 2 * largest), title=f"{'average' if task == 'avg' else task}, K = {k}",
                 xlabel="trained parameters, with the head", ylabel="test score")
        axes.grid(alpha=0.3)
    span = max(high - low for low, high in (axes.get_ylim() for axes in grid))
    for axes in grid:  # a point has one height in all panels, so that noise looks like noise
        middle = sum(axes.get_ylim()) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)
    figure.legend(*zip(*{text: (line, text) for axes in grid for line, text in zip(*axes.get_legend_handles_labels())}.values()), loc="outside lower center", ncols=6)
    write(figure, path)


def write_report(args):
    """Read, compute, write, and print the report."""
    folder, out = Path(args.results), Path(args.out or args.results)
    if not (folder / "results.jsonl").is_file(): raise InputError(f"{folder}/results.jsonl: no such file; expected a folder that a sweep wrote")
    grid = Grid(read_results(folder / "results.jsonl"), folder / "results.jsonl")
    timing = load_json(folder / "timing.json") if (folder / "timing.json").is_file() else None
    text, tables = report(grid, timing)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.md").write_text(text, encoding="utf-8")
        for name, rows in tables.items():
            if not rows: continue
            with open(out / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows({key: f"{value:.4f}" if isinstance(value, float) and key not in SETTINGS else value for key, value in row.items()} for row in rows)
    except OSError as error: raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        if "tradeoff" in tables: draw_tradeoff(tables["tradeoff"], out / "tradeoff.svg")
        for name in tables.keys() & SETTINGS: draw(name, tables[name], out / f"{name}.svg")
    except ImportError:
        print('the figures need matplotlib; install it with: pip install -e ".[plot]"', file=sys.stderr)
    print(text)
    if not timing: print(f"Table 4 is missing; measure it with: python -m minipelt.timing --out {folder}", file=sys.stderr)
    print(f"written: {out}/report.md and {', '.join(sorted(f'{name}.csv' for name, rows in tables.items() if rows))}", file=sys.stderr)


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minipelt.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS", help="the folder that a sweep wrote")
    parser.add_argument("--out", metavar="FOLDER", help="where the report goes (default: beside the results)")
    return parser


def main(argv=None):
    """The command. Returns the exit code."""
    return run_command(lambda: write_report(make_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
