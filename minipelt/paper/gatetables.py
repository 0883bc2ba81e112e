"""What gatestudy.py measured as tables: how far gates spread, and what constants in their place cost.

A gate has a value for every task, seed, layer and sentence. Its spread over one of these is the standard deviation
(n - 1) of values that differ in this one alone, all others held, or averaged away where they lie inside of it:

    over sentences   in each layer of a run, of the values of all its test rows
    over layers      in each run, of the layers' means over the test rows
    over seeds       in each task and layer, of the runs' means over the test rows
    over tasks       in each layer, of the tasks' means over test rows and seeds

and then the mean over what was held.
"""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from minipelt.errors import InputError
from minipelt.glue import TASKS
from minipelt.paper import numbers
from minipelt.paper.markdown import markdown, number, with_deviation
from minipelt.paper.results import Line, kind_of_rows
from minipelt.paper.tables import company, label, order_of

SPREADS = ("over layers", "over sentences", "over seeds", "over tasks")


class Study:
    """All runs of one method at one K: lines of gates.jsonl by task and seed.

    lines        {task: {seed: line}}, tasks in the paper's order
    submodules   what has gates: prefix, lora_query ...
    cases        what stood in the gates' place: own mean, one half ...
    """

    def __init__(self, k: int | None, method: str, lines: dict[str, dict[int, Line]]):
        self.k, self.method = k, method
        self.lines = {task: lines[task] for task in numbers.COLUMNS if task in lines}
        first = self.all_lines()[0].record
        self.submodules = list(first["gates"])
        self.cases = list(first["replaced"])

    def all_lines(self) -> list[Line]:
        """The lines of all runs, task by task."""
        return [line for by_seed in self.lines.values() for line in by_seed.values()]

    @property
    def title(self) -> str:
        """For a heading: `apl`, K = 500."""
        return f"`{self.method}`, K = {self.k or 'all rows'}"


def gather(lines: list[Line], place: Path) -> list[Study]:
    """Lines of gates.jsonl -> a Study for each K and method.

    Raises InputError if there are none, for a line that is no such line, for runs on other rows or another base than
    the first, and for runs of one task, method, K and seed that differ in something else.
    """
    if not lines:
        raise InputError(f"{place}: no runs; expected the folders of finished runs with gates, to measure them")
    found = defaultdict(lambda: defaultdict(dict))
    first = lines[0].run
    for line_number, line in enumerate(lines, start=1):
        if not {"gates", "start", "scores", "replaced"} <= line.record.keys():
            raise InputError(f"{place}: line {line_number}: not a line that `python -m minipelt gates` wrote")
        run = line.run
        if company(run) != company(first):
            both = f"{first.name} and {run.name}"
            raise InputError(f"{place}: line {line_number}: mixes {both}; expected one base and one kind of rows")
        by_seed = found[run.k, label(run)][run.task]
        if run.recipe.seed in by_seed:
            raise InputError(f"{place}: line {line_number}: a second {run.name}; expected one protocol in a folder")
        by_seed[run.recipe.seed] = line
    groups = sorted(found, key=lambda group: (group[0] or math.inf, order_of(group[1])))
    return [Study(k, method, found[k, method]) for k, method in groups]


# ---- numbers


def deviation(values, axis: int = 0) -> np.ndarray:
    """The standard deviation (n - 1) along an axis; nan for a single value."""
    values = np.asarray(values)
    if values.shape[axis] < 2:
        return np.full(np.delete(values.shape, axis), math.nan)
    return values.std(axis=axis, ddof=1)


def mean_of_known(values: list[float]) -> float:
    """The mean of the values that are not nan; nan if all are."""
    known = [value for value in values if not math.isnan(value)]
    return np.mean(known).item() if known else math.nan


def gate_values(study: Study, task: str, submodule: str, what: str, when: str) -> np.ndarray:
    """(seeds, layers): the "mean" or the "deviation" over sentences of a submodule's gates, in the runs of a task.

    when: "gates", as trained, or "start".
    """
    return np.array([line.record[when][submodule][what] for line in study.lines[task].values()])


def spreads_of_task(study: Study, task: str, submodule: str, when: str = "gates") -> dict[str, tuple[float, float]]:
    """{mean gate, or a spread: (its mean over seeds and layers, its deviation over seeds)} in one task."""
    means = gate_values(study, task, submodule, "mean", when)  # (S, N)
    over_sentences = gate_values(study, task, submodule, "deviation", when)  # (S, N)
    by_run = {
        "mean gate": means.mean(axis=1),  # (S)
        "over layers": deviation(means, axis=1),  # (S)
        "over sentences": over_sentences.mean(axis=1),  # (S)
    }
    found = {name: (values.mean().item(), deviation(values).item()) for name, values in by_run.items()}
    found["over seeds"] = deviation(means).mean().item(), math.nan
    return found


def spreads(study: Study, submodule: str, when: str = "gates") -> dict[str, float]:
    """{mean gate, or a spread: its mean over the tasks}; a task with one seed tells nothing of seeds."""
    by_task = [spreads_of_task(study, task, submodule, when) for task in study.lines]
    found = {name: mean_of_known([each[name][0] for each in by_task]) for name in by_task[0]}
    of_tasks = [gate_values(study, task, submodule, "mean", when).mean(axis=0) for task in study.lines]  # (N) each
    found["over tasks"] = deviation(of_tasks).mean().item()
    return found


def task_score(line: Line, case: str | None = None) -> float:
    """The score of a line in percent, by its task's metric: with the gates as they are, or in a case."""
    scores = line.record["replaced"][case]["scores"] if case else line.record["scores"]
    return 100 * scores[line.run.spec.metrics[0]]


def by_seed(study: Study, task: str, case: str | None, minus_as_is: bool = False) -> list[float]:
    """The score of every seed of a task; for task `avg` the mean over the tasks, of the seeds that have them all."""
    if task == "avg":
        seeds = set.intersection(*(set(lines) for lines in study.lines.values()))
        each = [[lines[seed] for lines in study.lines.values()] for seed in sorted(seeds)]
    else:
        each = [[line] for line in study.lines[task].values()]

    def value(line):
        return task_score(line, case) - (task_score(line) if minus_as_is else 0.0)

    return [np.mean([value(line) for line in lines]) for lines in each]


# ---- Markdown


def score_cell(values: list[float], sign: str = "") -> str:
    """Scores, or differences of scores, by seed -> mean and deviation; empty for none."""
    return with_deviation(np.mean(values), deviation(values).item(), (2, 2), sign) if values else ""


def spread_table(study: Study, when: str = "gates") -> str:
    """A row a submodule: mean gate and all spreads, over all tasks."""
    rows = []
    for submodule in study.submodules:
        found = spreads(study, submodule, when)
        rows.append([submodule, *(number(found[name], 3) for name in ("mean gate", *SPREADS))])
    return markdown(["gates of", "mean gate", *SPREADS], rows)


def task_table(study: Study) -> str:
    """A row a task and submodule: mean gate and spreads, small the deviation over seeds."""
    rows = []
    for task in study.lines:
        for submodule in study.submodules:
            found = spreads_of_task(study, task, submodule)
            over_seeds, _ = found.pop("over seeds")
            means = [with_deviation(*each, (3, 3)) for each in found.values()]
            rows.append([task, submodule, *means, number(over_seeds, 3)])
    return markdown(["task", "gates of", "mean gate", *SPREADS[:3]], rows)


def task_rows(study: Study) -> list[str]:
    """The tasks, and the average where there are several."""
    return [*study.lines, "avg"] if len(study.lines) > 1 else list(study.lines)


def name_of_row(task: str) -> str:
    """`sst2 accuracy`, `average`."""
    return "average" if task == "avg" else f"{task} {TASKS[task].metrics[0]}"


def score_table(study: Study) -> str:
    """A row a task, a column a case: scores, small their deviations over seeds."""
    rows = []
    for task in task_rows(study):
        cells = [score_cell(by_seed(study, task, case)) for case in (None, *study.cases)]
        rows.append([name_of_row(task), *cells])
    return markdown(["", "as they are", *study.cases], rows)


def difference_table(study: Study) -> str:
    """A row a task, a column a case: score minus the score with the gates as they are, small its deviation."""
    rows = []
    for task in task_rows(study):
        cells = [score_cell(by_seed(study, task, case, minus_as_is=True), "+") for case in study.cases]
        rows.append([name_of_row(task), *cells])
    return markdown(["", *study.cases], rows)


def change_table(study: Study) -> str:
    """A row a task, a column a case: how many predictions change, or by how much."""
    rows = []
    for task, lines in study.lines.items():
        cells = []
        for case in study.cases:
            mean = np.mean([line.record["replaced"][case]["changed"] for line in lines.values()])
            cells.append(f"{100 * mean:.2f} %" if TASKS[task].labels else f"by {mean:.3f}")
        rows.append([task, *cells])
    return markdown(["", *study.cases], rows)


def report(studies: list[Study]) -> str:
    """The whole of gates.md."""
    runs = [line.run for study in studies for line in study.all_lines()]
    seeds = sorted({run.recipe.seed for run in runs})
    models = sorted({Path(run.model).name for run in runs})
    data = sorted({kind_of_rows(run) for run in runs})
    paragraphs = [
        "# Gates",
        f"{len(runs)} runs on {', '.join(models)} and {', '.join(data)}, seeds {', '.join(map(str, seeds))}; "
        "all test rows of each task. Small numbers are standard deviations over seeds (n - 1).",
        "![How far gates spread, by submodule: over layers, sentences, seeds and tasks](gates.svg)",
    ]
    for study in studies:
        paragraphs += section(study)
    return "\n\n".join(paragraphs) + "\n"


def section(study: Study) -> list[str]:
    """The paragraphs of one method at one K."""
    return [
        f"## {study.title}",
        "**How far the gates spread**, means over the tasks. Every spread is the standard deviation of a gate's values "
        "that differ in one thing alone: the layer, the sentence, the seed or the task.",
        spread_table(study),
        "The same before training: the gates as each run drew them, on the same rows.",
        spread_table(study, "start"),
        "After training, by task.",
        task_table(study),
        "**Scores** in percent, with the gates as they are and with constants in their place: every gate's own mean "
        "over the test rows, one constant a gate; one half; one; and the gates of one part shut in all layers. A shut "
        "prefix gate makes the prefix's keys and values zero; attention still sees them.",
        score_table(study),
        "**Minus the score with the gates as they are**, in points, paired by seed.",
        difference_table(study),
        "**Predictions that change**: rows that get another label, in percent; for scores, the mean distance on the "
        "task's own scale.",
        change_table(study),
    ]
