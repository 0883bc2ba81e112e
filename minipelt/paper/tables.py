"""From a sweep's results to the paper's tables: means over seeds, upper bounds, gates against none, paired tests.

Each table is a list of rows, a row a dict, as the CSV files have them. Scores are percent; a deviation is that of a
sample (n - 1).
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from minipelt.errors import InputError
from minipelt.paper import numbers
from minipelt.paper.results import PROTOCOL, Line, kind_of_rows, protocol
from minipelt.settings import HYPERPARAMETERS, Method, Run, method_label
from minipelt.unipelt import kept_parameters

FIRST_METHODS = ("ft", "head", "bitfit", "adapter", "prefix", "lora")  # in the paper's order; unions follow
SETTINGS = (*HYPERPARAMETERS, "learning_rate")  # what a sweep takes lists of


# ---- reading


class Results:
    """What a sweep measured, gathered from the lines of its results.jsonl.

    scores      {(K, method, task): {seed: score in percent}}
    gates       {(K, method, task, submodule): [the mean of each layer, a list a seed]}
    parameters  {method: {task: trained parameters that a run keeps, without the head}}
    heads       {method: {task: parameters of the head}}
    ungated     {method: the same without gates}
    runs        {task: a Run of it}
    protocol    {setting: its value, for people}, of the settings that all runs of a task have alike
    sizes, tasks: every K, smallest first, and every task, in the paper's order, own data behind
    columns     the tasks, and `avg` where they have a mean: all on one kind of rows and one base
    lines, failed: those of runs that ended well, and those of runs that failed

    A task is called what Run.subject calls it: `sst2`, `sst2-sample` for the sample rows, `sst2-bert-base-uncased`.

    Raises InputError if no run ended well, or if runs of one task differ in the protocol.
    """

    def __init__(self, lines: list[Line], place: Path):
        self.lines = [line for line in lines if "results" in line.record]
        self.failed = [line for line in lines if "error" in line.record]
        if not self.lines:
            raise InputError(f"{place}: no finished run; expected lines that a sweep wrote")
        self.scores = defaultdict(dict)
        self.gates = defaultdict(list)
        self.parameters = defaultdict(dict)
        self.heads = defaultdict(dict)
        self.ungated = {}
        self.runs = {}
        for line in self.lines:
            self.add(line)
        self.protocol = {name: self.protocol_of(name, place) for name in PROTOCOL}
        self.sizes = sorted({k for k, _, _ in self.scores}, key=lambda k: k or math.inf)
        self.tasks = sorted(self.runs, key=self.order_of_task)
        alike = len({company(run) for run in self.runs.values()}) == 1
        self.columns = [*self.tasks, "avg"] if alike else self.tasks

    def add(self, line: Line) -> None:
        """Sort a line into scores, gates and parameters."""
        run, counts = line.run, line.record["parameters"]
        k, method, task = run.k, label(run), run.subject
        self.runs.setdefault(task, run)
        self.scores[k, method, task][run.recipe.seed] = score(line)
        self.parameters[method][task] = kept_parameters(counts)
        self.heads[method][task] = counts["head"]
        self.ungated[method] = label(replace(run, method=replace(run.method, gate=False)))
        for submodule, means in line.record["results"]["gates"].items():
            self.gates[k, method, task, submodule].append(means)

    def protocol_of(self, name: str, place: Path) -> str:
        """A setting that the runs of a task have alike, for people: `20`, or `20 (mrpc, rte: 5)` where tasks differ."""
        found = defaultdict(set)
        for run, _ in self.lines:
            found[run.task].add(protocol(run)[name])
        tasks = defaultdict(list)  # {value as text: the tasks that have it}
        for task, values in found.items():
            if len(values) > 1:
                both = " and ".join(map(str, sorted(values)))
                raise InputError(f"{place}: mixes runs of {task} with {name} {both}; expected one protocol for a task")
            (value,) = values
            tasks[f"{value:,}" if isinstance(value, int) else value].append(task)
        usual, *others = sorted(tasks, key=lambda value: -len(tasks[value]))
        if not others:
            return usual
        exceptions = [f"{', '.join(tasks[value])}: {value}" for value in others]
        return f"{usual} ({'; '.join(exceptions)})"

    def order_of_task(self, task: str) -> tuple:
        """A key that sorts tasks: GLUE's as the paper's tables have them, then own data by name."""
        run = self.runs[task]
        return (len(numbers.COLUMNS) if run.data else numbers.COLUMNS.index(run.task)), task

    def metric(self, task: str) -> str:
        """The metric that a task is scored by."""
        return self.runs[task].spec.metrics[0]

    def in_paper(self) -> list[str]:
        """The paper's names of the tasks, in their order: those on GLUE's own rows, and no others."""
        return [self.runs[task].task for task in self.tasks if kind_of_rows(self.runs[task]) == "GLUE"]

    def paper(self, k: int | None, method: str, task: str) -> float | None:
        """The paper's mean for a cell. None where it has none, as for own data, and beside the sample rows."""
        names = self.in_paper()
        if task == "avg":
            return numbers.average(k, method, names) if len(names) == len(self.tasks) else None
        run = self.runs[task]
        return numbers.score(k, method, run.task) if kind_of_rows(run) == "GLUE" else None

    def size(self, method: str) -> int | None:
        """Trained parameters of a method, without the head. None where tasks differ in it, as on different bases."""
        sizes = set(self.parameters[method].values())
        return sizes.pop() if len(sizes) == 1 else None

    def size_with_head(self, method: str, task: str) -> int:
        """Trained parameters of a method on a task, the head's among them; for task `avg` their mean over the tasks."""
        sizes = {name: size + self.heads[method][name] for name, size in self.parameters[method].items()}
        return sizes[task] if task in sizes else round(np.mean(list(sizes.values())))

    def methods(self, k: int | None) -> list[str]:
        """The methods with runs at K, in the tables' order."""
        return sorted({method for size, method, _ in self.scores if size == k}, key=order_of)

    def cells(self) -> Iterator[tuple]:
        """Every (K, method, task), in the tables' order; `avg` follows the tasks."""
        for k in self.sizes:
            for method in self.methods(k):
                for task in self.columns:
                    yield k, method, task

    def values(self, k: int | None, method: str, task: str) -> dict[int, float]:
        """Scores by seed; for task `avg` the mean over all tasks of the report, where a seed has all of them."""
        if task != "avg":
            return self.scores.get((k, method, task), {})
        each = [self.scores.get((k, method, name), {}) for name in self.tasks]
        seeds = set.intersection(*map(set, each))
        return {seed: np.mean([scores[seed] for scores in each]) for seed in sorted(seeds)}


def company(run: Run) -> tuple:
    """Runs have a mean where this is alike: on one kind of rows, or on the same own files, and on one base."""
    return kind_of_rows(run), run.task if run.data else "", Path(run.model).name


def label(run: Run, without: str | None = None) -> str:
    """`method_label` of a run, with its departures from this package's own protocol: `apl-frozenhead`."""
    return "-".join([method_label(run.method, run.recipe.learning_rate, without), *run.variants])


def score(line: Line) -> float:
    """The test score of a line in percent, by the metric that its task is scored by."""
    return 100 * line.record["results"]["test"][line.run.spec.metrics[0]]


def order_of(method: str) -> tuple:
    """A key that sorts methods as the tables have them: the paper's single ones, then by length; 8 before 64."""
    if method in FIRST_METHODS:
        return FIRST_METHODS.index(method), ""
    name = method.split("-")[0]
    padded = re.sub(r"\d+", lambda digits: digits[0].zfill(9), method)
    return len(FIRST_METHODS) + len(name), padded


# ---- statistics


def mean_and_deviation(values: dict[int, float]) -> tuple[float, float]:
    """Mean and sample standard deviation (nan for a single value) of the numbers in a dict."""
    each = list(values.values())
    deviation = np.std(each, ddof=1) if len(each) > 1 else math.nan
    return np.mean(each), deviation


def paired_t_test(one: dict[int, float], other: dict[int, float]) -> tuple[float, float, int]:
    """Two {seed: score} -> (mean difference, two-sided p of Student's paired t-test, number of seeds in both).

    p is nan for a single seed; without a common one, the difference is nan too.
    """
    differences = np.array([one[seed] - other[seed] for seed in one if seed in other])
    n = len(differences)
    if n == 0:
        return math.nan, math.nan, 0
    mean = differences.mean()
    if n == 1:
        return mean, math.nan, 1
    error = differences.std(ddof=1) / math.sqrt(n)
    if error == 0:
        return mean, 1.0 if mean == 0 else 0.0, n
    p = 1 - t_probability(abs(mean) / error, n - 1)
    return mean, max(0.0, p), n


def t_probability(t: float, freedom: int) -> float:
    """The probability that Student's t with whole degrees of freedom lies in (-t, t).

    Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for i in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (i - 1) / i
    total *= math.sin(angle)
    if odd:
        return 2 / math.pi * (angle + total)
    return total


# ---- tables


def make_tables(results: Results, timing: dict | None, reference: str | None) -> dict[str, list[dict]]:
    """{name of the CSV file: its rows}; a table that the results have nothing for is left out."""
    tables = {
        "table1": list(table_1(results)),
        "table2": list(table_2(results)),
        "table3": list(table_3(results)),
        "gates": list(gate_table(results)),
    }
    if timing:
        tables["table4"] = list(table_4(timing))
    if reference:
        tables["comparisons"] = list(comparisons(results, reference))
    by_setting = swept(results)
    if "bottleneck" in by_setting or "top_layers" in by_setting:
        tables["tradeoff"] = list(tradeoff(results))
    tables |= by_setting
    return {name: rows for name, rows in tables.items() if rows}


def find_reference(results: Results) -> str | None:
    """The method that the others are compared with: apl, else ap, else none."""
    measured = {method for k in results.sizes for method in results.methods(k)}
    for method in ("apl", "ap"):
        if method in measured:
            return method
    return None


def table_1(results: Results) -> Iterator[dict]:
    """Mean and deviation of every cell, and the paper's mean."""
    for k, method, task in results.cells():
        values = results.values(k, method, task)
        if not values:
            continue
        mean, deviation = mean_and_deviation(values)
        yield {
            "k": k or "all", "method": method, "task": task, "mean": mean, "deviation": deviation,
            "seeds": len(values), "paper": results.paper(k, method, task),
        }


def table_2(results: Results) -> Iterator[dict]:
    """Each union against its upper bound: for every task the best of its submodules alone, averaged over the tasks.

    Nothing where the tasks have no average.
    """
    names = results.in_paper()
    for k in results.sizes if "avg" in results.columns else ():
        for method in results.methods(k):
            parts = parts_of_union(method)
            values = results.values(k, method, "avg")
            bound = upper_bound(results, k, parts) if parts else None
            if bound is None or not values:
                continue
            average, _ = mean_and_deviation(values)
            yield {
                "k": k or "all", "method": method,
                "average": average, "upper bound": bound, "difference": average - bound,
                "paper": results.paper(k, method, "avg"),
                "paper's bound": numbers.upper_bound(k, parts, names) if names else None,
            }


def parts_of_union(method: str) -> tuple[str, ...]:
    """`apl` -> ("adapter", "prefix", "lora"); () for what is no union, and for one with settings of its own."""
    name, *settings = method.split("-")
    parts = Method(name).parts
    return parts if len(parts) > 1 and not settings else ()


def upper_bound(results: Results, k: int | None, parts: tuple[str, ...]) -> float | None:
    """The best single submodule of each task, averaged over the tasks. None where one was not measured on a task."""
    best = []
    for task in results.tasks:
        by_part = [results.values(k, part, task) for part in parts]
        if not all(by_part):
            return None
        best.append(max(mean_and_deviation(values)[0] for values in by_part))
    return np.mean(best)


def table_3(results: Results) -> Iterator[dict]:
    """What the gates are worth: each union with them and without (NoGate), paired by seed."""
    for k, method, task in results.cells():
        gated = results.values(k, method, task)
        ungated = results.values(k, results.ungated[method], task)
        difference, p, seeds = paired_t_test(gated, ungated)
        if seeds and method != results.ungated[method]:
            yield {
                "k": k or "all", "method": method, "task": task,
                "gates": mean_and_deviation(gated)[0], "no gates": mean_and_deviation(ungated)[0],
                "difference": difference, "p": p, "seeds": seeds,
            }


def table_4(timing: dict) -> Iterator[dict]:
    """Parameters, and times relative to fine-tuning, as timing.py measured them."""
    for row in timing["methods"]:
        training, inference = numbers.TABLE_4.get(row["method"], (None, None))
        line = {
            "method": row["method"], "parameters": row["parameters"],
            "share of base": 100 * row["parameters"] / timing["base"],
            "training": 100 * row["training"], "paper's training": training,
            "inference": 100 * row["inference"], "paper's inference": inference,
        }
        if "real" in row:  # older files have one length
            for kind, cell in row["real"].items():
                line[f"{kind}, real batches"] = 100 * cell["of_ft"]
        yield line


def comparisons(results: Results, reference: str) -> Iterator[dict]:
    """`reference` minus every other method, on each task and on average, paired by seed."""
    for k, method, task in results.cells():
        difference, p, seeds = paired_t_test(results.values(k, reference, task), results.values(k, method, task))
        if seeds and method != reference:
            yield {
                "k": k or "all", "reference": reference, "method": method, "task": task,
                "difference": difference, "p": p, "seeds": seeds,
            }


def tradeoff(results: Results) -> Iterator[dict]:
    """Score against trained parameters, the adapter paper's Figure 3, with the distance to fine-tuning."""
    for k, method, task in results.cells():
        values = results.values(k, method, task)
        if not values:
            continue
        mean, deviation = mean_and_deviation(values)
        difference, p, _ = paired_t_test(values, results.values(k, "ft", task))
        yield {
            "k": k or "all", "method": method, "parameters": results.size_with_head(method, task), "task": task,
            "mean": mean, "deviation": deviation, "difference": difference, "p": p, "seeds": len(values),
        }


def gate_table(results: Results) -> Iterator[dict]:
    """Mean gates, over layers, examples and seeds."""
    for (k, method, task, submodule), means in results.gates.items():
        yield {
            "k": k or "all", "method": method, "task": task, "submodule": submodule,
            "gate": np.mean(means), "seeds": len(means),
        }


def swept(results: Results) -> dict[str, list[dict]]:
    """{hyperparameter: rows} for each that takes two or more values while all else stays: the paper's Figures 2, 3."""
    found = defaultdict(lambda: defaultdict(dict))  # {(name, K, task, method without it): {value: {seed: score}}}
    for line in results.lines:
        run = line.run
        values = asdict(run.method) | asdict(run.recipe)
        for name in SETTINGS:
            curve = name, run.k, run.subject, label(run, without=name)
            found[curve][values[name]][run.recipe.seed] = score(line)
    tables = defaultdict(list)
    for (name, k, task, method), by_value in found.items():
        if len(by_value) < 2:
            continue
        for value, scores in sorted(by_value.items()):
            mean, deviation = mean_and_deviation(scores)
            tables[name].append({
                "k": k or "all", "task": task, "method": method, name: value,
                "mean": mean, "deviation": deviation, "seeds": len(scores),
            })
    return tables
