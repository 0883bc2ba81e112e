"""Table 1 and Table 2 twice: with heads as the authors' public code trains them, and with every head trained.

In that code LoRA, prefix-tuning and BitFit alone train on a frozen, random head; adapters and unions train theirs. A
sweep has such runs with `--frozen-head`. Only tasks count here on which every method with a frozen head ran both ways,
and the mean is over those.
"""

from collections.abc import Iterator

from minipelt.paper import numbers
from minipelt.paper.markdown import difference_table, markdown, plain_table, with_deviation
from minipelt.paper.tables import Results, mean_and_deviation, paired_t_test, parts_of_union, upper_bound

FROZEN = "-frozenhead"
WAYS = ("as the public code", "every head trained")


def make_head_tables(results: Results) -> dict[str, list[dict]]:
    """{name of the CSV file: its rows}; nothing where no run has a frozen head."""
    tables = {"heads": list(heads(results)), "head_bounds": list(head_bounds(results))}
    return {name: rows for name, rows in tables.items() if rows}


def with_both(results: Results, k: int | None) -> tuple[list[str], list[str]]:
    """(the methods that ran both ways, the tasks on which all of them did)."""
    measured = results.methods(k)
    methods = [name for name in measured if name + FROZEN in measured]
    labels = [name + end for name in methods for end in ("", FROZEN)]
    tasks = [task for task in results.tasks if labels and all(results.values(k, name, task) for name in labels)]
    return methods, tasks


def values(results: Results, k: int | None, method: str, task: str, tasks: list[str]) -> dict[int, float]:
    """Scores by seed; for task `avg` the mean over `tasks`."""
    return results.average(k, method, tasks) if task == "avg" else results.values(k, method, task)


def columns(results: Results, tasks: list[str]) -> list[str]:
    """The tasks, and `avg` where they are several that have a mean."""
    return [*tasks, "avg"] if len(tasks) > 1 and "avg" in results.columns else tasks


def heads(results: Results) -> Iterator[dict]:
    """Each method that ran both ways: mean and deviation of both, the difference, and its p, paired by seed."""
    for k in results.sizes:
        methods, tasks = with_both(results, k)
        for method in methods:
            for task in columns(results, tasks):
                frozen = values(results, k, method + FROZEN, task, tasks)
                trained = values(results, k, method, task, tasks)
                difference, p, seeds = paired_t_test(trained, frozen)
                if seeds:
                    yield {
                        "k": k or "all", "method": method, "task": task,
                        "frozen": mean_and_deviation(frozen)[0], "trained": mean_and_deviation(trained)[0],
                        "difference": difference, "p": p, "seeds": seeds,
                    }


def head_bounds(results: Results) -> Iterator[dict]:
    """Each union against its upper bound, with the bound's heads both ways; the paper's beside the first."""
    for k in results.sizes:
        methods, tasks = with_both(results, k)
        if "avg" not in columns(results, tasks):
            continue
        names = [results.runs[task].task for task in tasks] if set(tasks) <= set(results.in_paper()) else []
        for union in results.methods(k):
            parts = parts_of_union(union)
            scores = results.average(k, union, tasks)
            as_published = [part + FROZEN if part in methods else part for part in parts]
            for way, labels in zip(WAYS, (as_published, parts), strict=True):
                bound = upper_bound(results, k, labels, tasks) if parts and scores else None
                if bound is None:
                    continue
                average, _ = mean_and_deviation(scores)
                paper = names and labels is as_published
                yield {
                    "k": k or "all", "method": union, "heads": way,
                    "average": average, "upper bound": bound, "difference": average - bound,
                    "paper": numbers.average(k, union, names) if paper else None,
                    "paper's bound": numbers.upper_bound(k, parts, names) if paper else None,
                }


# ---- Markdown


def heads_section(results: Results, tables: dict) -> list[str]:
    """The part of a report about heads."""
    if "heads" not in tables:
        return []
    paragraphs = ["## Heads, frozen or trained"]
    for k in results.sizes:
        _, tasks = with_both(results, k)
        if tasks:
            paragraphs += [
                f"Table 1 twice, K = {k or 'all rows'}: in the authors' public code LoRA, prefix-tuning and BitFit "
                "alone train on a frozen, random head.",
                both_ways(results, k, tasks),
            ]
    paragraphs += [
        "What training the head adds, in points; below it the p of a paired t-test over the seeds.",
        difference_table(tables["heads"], list(dict.fromkeys(row["task"] for row in tables["heads"])), "method"),
    ]
    if "head_bounds" in tables:
        paragraphs += [
            "Table 2 twice: unions, and the best of their parts, averaged over these tasks.",
            plain_table(tables["head_bounds"]),
        ]
    return paragraphs


def both_ways(results: Results, k: int | None, tasks: list[str]) -> str:
    """Methods down; for every task two columns, as the public code and with every head trained."""
    methods, _ = with_both(results, k)
    rows = []
    for name in results.methods(k):
        if name.endswith(FROZEN):
            continue
        cells = [f"`{name}`"]
        for task in columns(results, tasks):
            for each in (name + FROZEN if name in methods else name, name):
                cells.append(cell(values(results, k, each, task, tasks)))
        rows.append(cells)
    header = ["method"]
    for task in columns(results, tasks):
        title = "average" if task == "avg" else f"{task} {results.metric(task)}"
        header += [f"{title},<br>{way}" for way in WAYS]
    return markdown(header, rows)


def cell(scores: dict[int, float]) -> str:
    """Mean with deviation; nothing where nothing was measured."""
    return with_deviation(*mean_and_deviation(scores)) if scores else ""
