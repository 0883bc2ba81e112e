"""The paper's tables from a sweep's results, as Markdown and CSV, each beside the paper's own numbers.

    python -m minipelt.report results/                writes results/report.md, table1.csv ... and a figure for each swept hyperparameter
    python -m minipelt.timing --out results/          first measures what Table 4 shows

Means are over seeds; the small numbers are standard deviations (of a sample: n - 1). Scores are percent.
"""

import argparse
import csv
import math
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minipelt import InputError, paper, run_command
from minipelt.checkpoint import load_json
from minipelt.experiment import Run, default_learning_rate
from minipelt.glue import TASKS
from minipelt.sweep import read_results
from minipelt.unipelt import HYPERPARAMETERS, Method, kept_parameters

METHODS = ("ft", "head", "bitfit", "adapter", "prefix", "lora")  # first in every table, in the paper's order; unions follow
PROTOCOL = ("model", "valid_rows", "max_length", "epochs", "patience", "batch_size")  # alike in all runs of a report


# ---- reading


class Grid:
    """What a sweep measured. `scores` is {(K, method, task): {seed: score in percent}}."""

    def __init__(self, records, place):
        records = [record | {"run": asdict(Run.from_dict(record["run"], place))} for record in records]  # settings newer than the file get their defaults
        self.records = [record for record in records if "results" in record]
        self.failed = [record for record in records if "error" in record]
        if not self.records: raise InputError(f"{place}: no finished run; expected lines that a sweep wrote")
        self.scores, self.parameters, self.heads, self.gates = defaultdict(dict), {}, {}, defaultdict(list)
        for record in self.records:
            run, results = record["run"], record["results"]
            cell = run["k"], label(run), run["task"]
            self.scores[cell][run["recipe"]["seed"]] = 100 * results["test"][TASKS[run["task"]].metrics[0]]
            self.parameters[cell[1]], self.heads[cell[1]] = kept_parameters(record["parameters"]), record["parameters"]["head"]
            for submodule, means in results["gates"].items(): self.gates[(*cell, submodule)].append(means)
        self.protocol = {name: self.only_value(name, place) for name in PROTOCOL}
        self.sizes = sorted({k for k, _, _ in self.scores}, key=lambda k: k or math.inf)
        self.tasks = [task for task in paper.COLUMNS if any(task == cell[2] for cell in self.scores)]

    def only_value(self, name, place):
        """The value of a setting that all runs must have alike. Raises InputError if they do not."""
        values = {(record["run"] | record["run"]["recipe"])[name] for record in self.records}
        if len(values) > 1:
            raise InputError(f"{place}: mixes runs with {name} {' and '.join(map(str, sorted(values)))}; expected one protocol in a folder")
        return values.pop()

    def methods(self, k):
        """The methods with runs at K, in the tables' order."""
        found = {method for size, method, _ in self.scores if size == k}
        return sorted(found, key=lambda method: (METHODS.index(method), "") if method in METHODS else (len(METHODS) + len(method.split("-")[0]), method))

    def values(self, k, method, task):
        """Scores by seed, {seed: score}; for task `avg` the mean over all tasks of the report, where a seed has all of them."""
        if task != "avg": return self.scores.get((k, method, task), {})
        each = [self.scores.get((k, method, name), {}) for name in self.tasks]
        return {seed: np.mean([scores[seed] for scores in each]) for seed in sorted(set.intersection(*map(set, each)))}


def label(run):
    """A method's name in the tables: apl, apl-nogate, lora-alpha4; what is not the default is in it."""
    method = run["method"]
    changed = [f"{name.replace('_', '')}{method[name]:g}" for name in HYPERPARAMETERS if method[name] != getattr(Method, name)]
    rate = run["recipe"]["learning_rate"]
    if rate != default_learning_rate(Method(**method)): changed.append(f"lr{rate:g}")
    return "-".join([method["name"], *["nogate"] * (not method["gate"]), *changed])


# ---- statistics


def mean_and_deviation(values):
    """Mean and sample standard deviation (nan for a single value) of the numbers in a dict."""
    numbers = list(values.values())
    return np.mean(numbers), np.std(numbers, ddof=1) if len(numbers) > 1 else math.nan


def paired_t_test(one, other):
    """Two {seed: score} -> (mean difference, two-sided p of Student's paired t-test, number of seeds in both); p is nan for one seed."""
    differences = np.array([one[seed] - other[seed] for seed in one if seed in other])
    n, mean = len(differences), differences.mean() if len(differences) else math.nan
    if n < 2: return mean, math.nan, n
    error = differences.std(ddof=1) / math.sqrt(n)
    if not error: return mean, 1.0 if mean == 0 else 0.0, n
    return mean, 1 - t_probability(abs(mean) / error, n - 1), n


def t_probability(t, freedom):
    """The probability that Student's t with whole degrees of freedom lies in (-t, t): Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    if freedom == 1: return 2 * angle / math.pi
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for i in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (i - 1) / i
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


# ---- tables: lists of rows, each a dict, as the CSV files have them


def table_1(grid):
    """Mean and deviation of every cell, and the paper's mean."""
    for k in grid.sizes:
        for method in grid.methods(k):
            for task in (*grid.tasks, "avg"):
                if values := grid.values(k, method, task):
                    mean, deviation = mean_and_deviation(values)
                    yield {"k": k or "all", "method": method, "task": task, "mean": mean, "deviation": deviation, "seeds": len(values),
                           "paper": paper.score(k, method, task)}


def table_2(grid):
    """Each union against its upper bound: for every task the best of its submodules alone, averaged over the tasks."""
    for k in grid.sizes:
        for method in grid.methods(k):
            name, *rest = method.split("-")
            parts = Method(name).parts
            alone = parts if len(parts) > 1 else ()
            means = [[np.mean(list(v.values())) for part in alone if (v := grid.values(k, part, task))] for task in grid.tasks]
            if rest or not alone or not all(len(each) == len(alone) for each in means) or not grid.values(k, method, "avg"): continue
            bound = np.mean([max(each) for each in means])
            average = mean_and_deviation(grid.values(k, method, "avg"))[0]
            theirs = paper.TABLE_2.get((k, name), (None, None))
            yield {"k": k or "all", "method": method, "average": average, "upper bound": bound, "difference": average - bound,
                   "paper": theirs[0], "paper's bound": theirs[1]}


def table_3(grid):
    """What the gates are worth: each union with them and without (NoGate), paired by seed."""
    for k in grid.sizes:
        for method in grid.methods(k):
            if f"{method}-nogate" not in grid.methods(k): continue
            for task in (*grid.tasks, "avg"):
                gated, ungated = grid.values(k, method, task), grid.values(k, f"{method}-nogate", task)
                if not gated.keys() & ungated.keys(): continue
                difference, p, n = paired_t_test(gated, ungated)
                yield {"k": k or "all", "method": method, "task": task, "gates": mean_and_deviation(gated)[0], "no gates": mean_and_deviation(ungated)[0],
                       "difference": difference, "p": p, "seeds": n}


def table_4(timing):
    """Parameters, and times relative to fine-tuning, as minipelt.timing measured them."""
    for row in timing["methods"]:
        theirs = paper.TABLE_4.get(row["method"], (None, None))
        yield {"method": row["method"], "parameters": row["parameters"], "share": 100 * row["parameters"] / timing["base"],
               "training": 100 * row["training"], "paper's training": theirs[0],
               "inference": 100 * row["inference"], "paper's inference": theirs[1]}


def comparisons(grid, reference):
    """`reference` minus every other method, on each task and on average, paired by seed."""
    for k in grid.sizes:
        for method in grid.methods(k):
            for task in (*grid.tasks, "avg"):
                one, other = grid.values(k, reference, task), grid.values(k, method, task)
                if method == reference or not one.keys() & other.keys(): continue
                difference, p, n = paired_t_test(one, other)
                yield {"k": k or "all", "reference": reference, "method": method, "task": task, "difference": difference, "p": p, "seeds": n}


def tradeoff(grid):
    """Score against trained parameters, the adapter paper's Figure 3: a row a method and size, with the distance to fine-tuning."""
    for k in grid.sizes:
        tuned = grid.values(k, "ft", "avg")
        for method in grid.methods(k):
            if values := grid.values(k, method, "avg"):
                mean, deviation = mean_and_deviation(values)
                distance, p, _ = paired_t_test(values, tuned)
                yield {"k": k or "all", "method": method, "parameters": grid.parameters[method] + grid.heads[method], "mean": mean, "deviation": deviation,
                       "minus fine-tuning": distance, "p": p, "seeds": len(values)}


def gate_table(grid):
    """Mean gates, over layers, examples and seeds."""
    for (k, method, task, submodule), means in grid.gates.items():
        yield {"k": k or "all", "method": method, "task": task, "submodule": submodule, "gate": np.mean(means), "seeds": len(means)}


def swept(grid):
    """{hyperparameter: rows} for each that takes two or more values within one method: the paper's Figures 2 and 3."""
    found = defaultdict(dict)
    for record in grid.records:
        run = record["run"]
        for name in (*HYPERPARAMETERS, "learning_rate"):
            others = {**run["method"], "learning_rate": run["recipe"]["learning_rate"]}
            value = others.pop(name)
            found[name, run["k"], run["task"], str(others)].setdefault(value, (run["method"], {}))[1][run["recipe"]["seed"]] = \
                100 * record["results"]["test"][TASKS[run["task"]].metrics[0]]
    tables = defaultdict(list)
    for (name, k, task, _), by_value in found.items():
        if len(by_value) < 2: continue
        for value, (method, scores) in sorted(by_value.items()):
            mean, deviation = mean_and_deviation(scores)
            tables[name].append({"k": k or "all", "task": task, "method": method["name"] + "-nogate" * (not method["gate"]), name: value,
                                 "mean": mean, "deviation": deviation, "seeds": len(scores)})
    return tables


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
        theirs = [paper.score(k, method, task) for task in columns]
        if len(grid.tasks) < len(TASKS) and k is not None and theirs[0] is not None: theirs[-1] = sum(theirs[:-1]) / len(grid.tasks)
        if any(value is not None for value in theirs): lines.append([f"*paper: {method}*", "", *map(number, theirs)])
    return markdown(["method", "parameters", *(f"{name}<br>{TASKS[name].metrics[0]}" for name in grid.tasks), "average"], lines)


def wide_table(rows, tasks, mark):
    """A tidy table with a row a (K, method) and a column a task: the difference, with its p."""
    lines = defaultdict(dict)
    for row in rows: lines[row["k"], row["method"]][row["task"]] = f"{row['difference']:+.2f}<sub>{number(row['p'])}</sub>"
    return markdown(["K", mark, *tasks, "average"], [[str(k), f"`{method}`", *(cells.get(task, "") for task in (*tasks, "avg"))] for (k, method), cells in lines.items()])


def plain_table(rows):
    """A tidy table as it is."""
    return markdown(list(rows[0]), [[f"`{value}`" if name == "method" else number(value) for name, value in row.items()] for row in rows])


def report(grid, timing):
    """(the whole report as Markdown, {file name: rows} for the CSV files)."""
    tables = {"table1": list(table_1(grid)), "table2": list(table_2(grid)), "table3": list(table_3(grid)), "gates": list(gate_table(grid))}
    if timing: tables["table4"] = list(table_4(timing))
    reference = next((name for name in ("apl", "ap") if any(name in grid.methods(k) for k in grid.sizes)), None)
    if reference: tables["comparisons"] = list(comparisons(grid, reference))
    seeds = sorted({seed for scores in grid.scores.values() for seed in scores})
    p = grid.protocol
    parts = ["# Report", f"{len(grid.records)} runs on {p['model']}, seeds {', '.join(map(str, seeds))}. At most {p['epochs']} epochs, patience {p['patience']}, "
             f"{p['valid_rows']:,} validation rows where K is a number, batches of {p['batch_size']}, at most {p['max_length']} tokens. Scores are percent "
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
                  "scores, as in the paper." + (" The paper's two columns are over all eight tasks." if len(grid.tasks) < len(TASKS) else ""), plain_table(tables["table2"])]
    if tables["table3"]:
        parts += ["## Table 3: with gates minus without", "Difference in points; below it the p of a paired t-test over the seeds.", wide_table(tables["table3"], grid.tasks, "method")]
    if timing:
        parts += ["## Table 4: parameters and time", f"Percent of fine-tuning, measured side by side in one process on {timing['device']} with {timing['threads']} "
                  f"threads: medians of {timing['repeats']} turns after a warm-up; {timing['model']}, batches of {timing['batch_size']} rows of {timing['task']}.",
                  plain_table(tables["table4"])]
    if tables["gates"]: parts += ["## Mean gates", "Over layers, examples of the dev set and seeds.", gates_markdown(tables["gates"])]
    sizes = swept(grid)
    if {"bottleneck", "top_layers"} & sizes.keys():
        tables["tradeoff"] = list(tradeoff(grid))
        parts += ["## Score against trained parameters", "Average over the tasks; the head's parameters are counted. p is of a paired t-test against fine-tuning.",
                  "![Average score against trained parameters](tradeoff.svg)", plain_table(tables["tradeoff"])]
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


def draw(name, rows, path):
    """Score against a hyperparameter, a line a (K, task, method), with a bar of one standard deviation."""
    from matplotlib.figure import Figure

    from minipelt.plot import write

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = defaultdict(list)
    for row in rows: lines[f"{row['task']} {row['method']}, K = {row['k']}"].append(row)
    for text, points in lines.items():
        axes.errorbar([row[name] for row in points], [row["mean"] for row in points], [np.nan_to_num(row["deviation"]) for row in points],
                      marker="o", capsize=3, label=text)
    axes.set_xscale("log", base=2)
    values = sorted({row[name] for row in rows})
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set(xlabel=name.replace("_", " "), ylabel="test score")
    axes.grid(alpha=0.3)
    axes.legend()
    write(figure, path)


def draw_tradeoff(rows, path):
    """Mean score against trained parameters, a line a method, with a bar of one standard deviation; the grey line is fine-tuning."""
    from matplotlib.figure import Figure

    from minipelt.plot import write

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = defaultdict(list)
    for row in rows: lines[row["method"].split("-")[0], row["k"]].append(row)
    for (name, k), points in lines.items():
        points.sort(key=lambda row: row["parameters"])
        if name == "ft": axes.axhline(points[0]["mean"], color="grey", linestyle=":", zorder=0)
        axes.errorbar([row["parameters"] for row in points], [row["mean"] for row in points], [np.nan_to_num(row["deviation"]) for row in points],
                      marker="o", capsize=3, label=f"{name}, K = {k}")
    axes.set_xscale("log")
    axes.set(xlabel="trained parameters, with the head", ylabel="average test score")
    axes.grid(alpha=0.3)
    axes.legend()
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
                writer.writerows({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()} for row in rows)
    except OSError as error: raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        if "tradeoff" in tables: draw_tradeoff(tables["tradeoff"], out / "tradeoff.svg")
        for name in tables.keys() & {*HYPERPARAMETERS, "learning_rate"}: draw(name, tables[name], out / f"{name}.svg")
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
