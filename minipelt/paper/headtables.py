"""Table 1 and Table 2 twice: with heads as the authors' public code trains them, and with every head trained.

In that code LoRA, prefix-tuning and BitFit alone train on a frozen, random head; adapters and unions train theirs. A
sweep has such runs with `--frozen-head`. Only tasks count here on which every method with a frozen head ran both ways,
and the average is over those.
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


def both_ways(results: Results) -> Iterator[tuple[Results, int | None, list[str]]]:
    """For each K with frozen heads: (the results of the tasks that count, K, the methods that ran both ways)."""
    for k in results.sizes:
        measured = results.methods(k)
        methods = [name for name in measured if name + FROZEN in measured]
        labels = [name + end for name in methods for end in ("", FROZEN)]
        tasks = [task for task in results.tasks if all(results.values(k, name, task) for name in labels)]
        if methods and tasks:
            lines = [line for line in results.lines if line.run.k == k and line.run.subject in tasks]
            yield Results(lines, "heads"), k, methods


def heads(results: Results) -> Iterator[dict]:
    """Each method that ran both ways: its mean both ways, the difference, and the p of it, paired by seed."""
    for part, k, methods in both_ways(results):
        for method in methods:
            for task in part.columns:
                frozen = part.values(k, method + FROZEN, task)
                trained = part.values(k, method, task)
                difference, p, seeds = paired_t_test(trained, frozen)
                if seeds:
                    yield {
                        "k": k or "all", "method": method, "task": task,
                        "frozen": mean_and_deviation(frozen)[0], "trained": mean_and_deviation(trained)[0],
                        "difference": difference, "p": p, "seeds": seeds,
                    }


def head_bounds(results: Results) -> Iterator[dict]:
    """Each union against its upper bound, with the bound's heads both ways; the paper's beside the first."""
    for part, k, methods in both_ways(results):
        names = part.in_paper()
        for union in part.methods(k):
            parts = parts_of_union(union)
            scores = part.values(k, union, "avg") if "avg" in part.columns else {}
            as_published = tuple(name + FROZEN if name in methods else name for name in parts)
            for way, labels in zip(WAYS, (as_published, parts), strict=True):
                bound = upper_bound(part, k, labels) if parts and scores else None
                if bound is None:
                    continue
                average, _ = mean_and_deviation(scores)
                published = names and labels is as_published
                yield {
                    "k": k or "all", "method": union, "heads": way,
                    "average": average, "upper bound": bound, "difference": average - bound,
                    "paper": part.paper(k, union, "avg") if published else None,
                    "paper's bound": numbers.upper_bound(k, parts, names) if published else None,
                }


# ---- Markdown


def heads_section(results: Results, tables: dict) -> list[str]:
    """The part of a report about heads. tables: with those of `make_head_tables`."""
    if "heads" not in tables:
        return []
    paragraphs = ["## Heads, frozen or trained"]
    for part, k, methods in both_ways(results):
        paragraphs += [
            f"Table 1 twice, K = {k or 'all rows'}: in the authors' public code LoRA, prefix-tuning and BitFit alone "
            "train on a frozen, random head.",
            scores_both_ways(part, k, methods),
        ]
    tasks = list(dict.fromkeys(row["task"] for row in tables["heads"]))
    paragraphs += [
        "What training the head adds, in points; below it the p of a paired t-test over the seeds.",
        difference_table(tables["heads"], tasks, "method"),
    ]
    if "head_bounds" in tables:
        paragraphs += [
            "Table 2 twice: unions, and the best of their parts, averaged over these tasks.",
            plain_table(tables["head_bounds"]),
        ]
    return paragraphs


def scores_both_ways(part: Results, k: int | None, methods: list[str]) -> str:
    """Methods down; for every task two columns. A method that has no frozen runs stands in both."""
    rows = []
    for name in part.methods(k):
        if name.endswith(FROZEN):
            continue
        cells = [f"`{name}`"]
        for task in part.columns:
            for label in (name + FROZEN if name in methods else name, name):
                scores = part.values(k, label, task)
                cells.append(with_deviation(*mean_and_deviation(scores)) if scores else "")
        rows.append(cells)
    header = ["method"]
    for task in part.columns:
        title = "average" if task == "avg" else f"{task} {part.metric(task)}"
        header += [f"{title},<br>{way}" for way in WAYS]
    return markdown(header, rows)
