"""From a sweep's results to the numbers of the paper's tables: means over seeds, upper bounds, gates against none, paired tests.

Each table is a list of rows, a row a dict, as the CSV files have them. Scores are percent; a deviation is that of a sample (n - 1).
"""

import math
import re
from collections import defaultdict
from dataclasses import asdict

import numpy as np

from minipelt import InputError, paper
from minipelt.glue import TASKS
from minipelt.run import Run, method_label
from minipelt.unipelt import HYPERPARAMETERS, Method, kept_parameters

METHODS = ("ft", "head", "bitfit", "adapter", "prefix", "lora")  # first in every table, in the paper's order; unions follow
PROTOCOL = ("data", "model", "valid_rows", "max_length", "epochs", "patience", "batch_size")  # alike in all runs of a task


# ---- reading


class Grid:
    """What a sweep measured. `scores` is {(K, method, task): {seed: score in percent}}."""

    def __init__(self, records, place):
        records = [record | {"run": asdict(Run.from_dict(record["run"], place))} for record in records]  # settings newer than the file get their defaults
        self.records = [record for record in records if "results" in record]
        self.failed = [record for record in records if "error" in record]
        if not self.records: raise InputError(f"{place}: no finished run; expected lines that a sweep wrote")
        self.scores, self.parameters, self.heads, self.gates = defaultdict(dict), {}, defaultdict(dict), defaultdict(list)
        for record in self.records:
            run, results = record["run"], record["results"]
            cell = run["k"], label(run), run["task"]
            self.scores[cell][run["recipe"]["seed"]] = 100 * results["test"][TASKS[run["task"]].metrics[0]]
            self.parameters[cell[1]], self.heads[cell[1]][run["task"]] = kept_parameters(record["parameters"]), record["parameters"]["head"]
            for submodule, means in results["gates"].items(): self.gates[(*cell, submodule)].append(means)
        self.protocol = {name: self.protocol_of(name, place) for name in PROTOCOL}
        self.sizes = sorted({k for k, _, _ in self.scores}, key=lambda k: k or math.inf)
        self.tasks = [task for task in paper.COLUMNS if any(task == cell[2] for cell in self.scores)]

    def protocol_of(self, name, place):
        """A setting that a task's runs must have alike, for people: `20`, or `20 (mrpc, rte: 5)` where tasks differ. Raises InputError if runs do."""
        values = defaultdict(set)
        for record in self.records: values[record["run"]["task"]].add(protocol(record["run"])[name])
        for task, found in values.items():
            if len(found) > 1:
                raise InputError(f"{place}: mixes runs of {task} with {name} {' and '.join(map(str, sorted(found)))}; expected one protocol for a task")
        tasks = defaultdict(list)
        for task, (value,) in values.items(): tasks[f"{value:,}" if isinstance(value, int) else value].append(task)
        usual, *others = sorted(tasks, key=lambda value: -len(tasks[value]))
        return usual + (f" ({'; '.join(', '.join(tasks[value]) + ': ' + value for value in others)})" if others else "")

    def methods(self, k):
        """The methods with runs at K, in the tables' order."""
        def place(method):
            if method in METHODS: return METHODS.index(method), ""
            return len(METHODS) + len(method.split("-")[0]), re.sub(r"\d+", lambda digits: digits[0].zfill(9), method)  # 8 before 64

        return sorted({method for size, method, _ in self.scores if size == k}, key=place)

    def values(self, k, method, task):
        """Scores by seed, {seed: score}; for task `avg` the mean over all tasks of the report, where a seed has all of them."""
        if task != "avg": return self.scores.get((k, method, task), {})
        each = [self.scores.get((k, method, name), {}) for name in self.tasks]
        return {seed: np.mean([scores[seed] for scores in each]) for seed in sorted(set.intersection(*map(set, each)))}


def protocol(run):
    """{name: value} of the settings that all runs of a task in one results folder have alike; `run` as on record."""
    data = "the sample rows" if run["glue"] == "miniglue" else "GLUE"
    return {name: (run | run["recipe"] | {"data": data})[name] for name in PROTOCOL}


def label(run, without=None):
    """`method_label` of a run on record."""
    return method_label(Method(**run["method"]), run["recipe"]["learning_rate"], without)


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
    return mean, max(0.0, 1 - t_probability(abs(mean) / error, n - 1)), n


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


# ---- tables


def table_1(grid):
    """Mean and deviation of every cell, and the paper's mean."""
    for k in grid.sizes:
        for method in grid.methods(k):
            for task in (*grid.tasks, "avg"):
                if values := grid.values(k, method, task):
                    mean, deviation = mean_and_deviation(values)
                    yield {"k": k or "all", "method": method, "task": task, "mean": mean, "deviation": deviation, "seeds": len(values),
                           "paper": paper.average(k, method, grid.tasks) if task == "avg" else paper.score(k, method, task)}


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
            yield {"k": k or "all", "method": method, "average": average, "upper bound": bound, "difference": average - bound,
                   "paper": paper.average(k, name, grid.tasks), "paper's bound": paper.upper_bound(k, alone, grid.tasks)}


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
        yield {"method": row["method"], "parameters": row["parameters"], "share of base": 100 * row["parameters"] / timing["base"],
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
    """Score against trained parameters, the adapter paper's Figure 3: a row a method, size and task, with the distance to fine-tuning."""
    for k in grid.sizes:
        for method in grid.methods(k):
            for task in (*grid.tasks, "avg"):
                if not (values := grid.values(k, method, task)): continue
                mean, deviation = mean_and_deviation(values)
                difference, p, _ = paired_t_test(values, grid.values(k, "ft", task))
                head = grid.heads[method].get(task) or round(np.mean(list(grid.heads[method].values())))
                yield {"k": k or "all", "method": method, "parameters": grid.parameters[method] + head, "task": task, "mean": mean,
                       "deviation": deviation, "difference": difference, "p": p, "seeds": len(values)}


def gate_table(grid):
    """Mean gates, over layers, examples and seeds."""
    for (k, method, task, submodule), means in grid.gates.items():
        yield {"k": k or "all", "method": method, "task": task, "submodule": submodule, "gate": np.mean(means), "seeds": len(means)}


def swept(grid):
    """{hyperparameter: rows} for each that takes two or more values while all else stays: the paper's Figures 2 and 3."""
    found = defaultdict(lambda: defaultdict(dict))
    for record in grid.records:
        run = record["run"]
        values = {**run["method"], "learning_rate": run["recipe"]["learning_rate"]}
        for name in (*HYPERPARAMETERS, "learning_rate"):
            others = label(run, without=name)
            score = 100 * record["results"]["test"][TASKS[run["task"]].metrics[0]]
            found[name, run["k"], run["task"], others][values[name]][run["recipe"]["seed"]] = score
    tables = defaultdict(list)
    for (name, k, task, others), by_value in found.items():
        if len(by_value) < 2: continue
        for value, scores in sorted(by_value.items()):
            mean, deviation = mean_and_deviation(scores)
            tables[name].append({"k": k or "all", "task": task, "method": others, name: value, "mean": mean, "deviation": deviation, "seeds": len(scores)})
    return tables
