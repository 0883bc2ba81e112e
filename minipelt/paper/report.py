"""The paper's tables from a sweep's results, as Markdown and CSV, each beside the paper's own numbers.

`tables.py` computes the numbers and `charts.py` draws them; this file writes them down.
"""

import csv
import io
import math
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

from minipelt.errors import InputError, plural
from minipelt.files import write_text
from minipelt.glue import TASKS
from minipelt.paper import charts
from minipelt.paper.headtables import heads_section, make_head_tables
from minipelt.paper.markdown import difference_table, markdown, number, plain_table, with_deviation
from minipelt.paper.results import kind_of_rows, read_sweep, read_timing
from minipelt.paper.tables import SETTINGS, Results, find_reference, label, make_tables

# ---- tables of one report


def ranked(cells: list[tuple]) -> list[str]:
    """A column of (mean, text) -> its texts, the best one bold, the second underlined. No score: mean None."""
    order = sorted({round(mean, 2) for mean, _ in cells if mean is not None}, reverse=True)
    marks = dict(zip(order, ("**{}**", "<u>{}</u>"), strict=False))
    texts = []
    for mean, text in cells:
        mark = "{}" if mean is None else marks.get(round(mean, 2), "{}")
        texts.append(mark.format(text))
    return texts


def score_table(results: Results, k: int | None, rows: list[dict]) -> str:
    """Table 1 for one K: methods down, tasks across, mean with deviation; below, the paper's means."""
    cells = {(row["method"], row["task"]): row for row in rows if row["k"] == (k or "all")}
    methods = results.methods(k)

    def column(task):
        found = []
        for method in methods:
            row = cells.get((method, task))
            if row:
                found.append((row["mean"], with_deviation(row["mean"], row["deviation"])))
            else:
                found.append((None, ""))
        return ranked(found)

    columns = [column(task) for task in results.columns]
    lines = []
    for place, method in enumerate(methods):
        lines.append([f"`{method}`", number(results.size(method)), *(texts[place] for texts in columns)])
    for method in methods:
        theirs = [results.paper(k, method, task) for task in results.columns]
        if any(value is not None for value in theirs):
            lines.append([f"*paper: {method}*", "", *map(number, theirs)])
    titles = ["average" if task == "avg" else f"{task}<br>{results.metric(task)}" for task in results.columns]
    return markdown(["method", "parameters", *titles], lines)


def gates_markdown(rows: list[dict]) -> str:
    """Mean gates, a row a (K, task, method), a column a submodule."""
    submodules = list(dict.fromkeys(row["submodule"] for row in rows))
    lines = defaultdict(dict)
    for row in rows:
        lines[row["k"], row["task"], row["method"]][row["submodule"]] = number(row["gate"])
    texts = []
    for (k, task, method), cells in lines.items():
        texts.append([str(k), task, f"`{method}`", *(cells.get(name, "") for name in submodules)])
    return markdown(["K", "task", "method", *submodules], texts)


# ---- the report


def report(results: Results, timing: dict | None) -> tuple[str, dict[str, list[dict]]]:
    """(the whole report as Markdown, the tables by the name of their CSV files). timing: what timing.json holds."""
    reference = find_reference(results)
    tables = make_tables(results, timing, reference) | make_head_tables(results)
    paragraphs = [
        *introduction(results),
        *scores_section(results, tables),
        *comparisons_section(results, tables, reference),
        *unions_section(tables),
        *gates_section(results, tables),
        *heads_section(results, tables),
        *timing_section(timing, tables),
        *mean_gates_section(tables),
        *tradeoff_section(results, tables),
        *settings_sections(tables),
    ]
    return "\n\n".join(paragraphs) + "\n", tables


def introduction(results: Results) -> list[str]:
    """What was run, and how to read it; the first failures, if there are any."""
    seeds = sorted({seed for scores in results.scores.values() for seed in scores})
    p = results.protocol
    precision = "" if p["precision"] == "float32" else f", matrix products in {p['precision']}"
    validation = f"{p['valid_rows']} validation rows where K is a number"
    if all(run.data for run in results.runs.values()):
        validation = "the dev file picks the best epoch"
    theirs = "The paper's numbers are for BERT-base, five seeds, 50 epochs and 1,000 validation rows."
    text = (
        f"{plural(len(results.lines), 'run')} on {p['model']} and {p['data']}, seeds {', '.join(map(str, seeds))}. "
        f"At most {p['epochs']} epochs, patience {p['patience']}, {validation}, batches of {p['batch_size']}, "
        f"at most {p['max_length']} tokens{precision}. Scores are percent on {test_rows(results)}; "
        "small numbers are standard deviations over seeds (n - 1). Best bold, second underlined."
    )
    paragraphs = ["# Report", f"{text} {theirs}" if results.in_paper() else text]
    if results.failed:
        failures = [f"{run.subject} {label(run)}: {record['error']}" for run, record in results.failed[:10]]
        paragraphs.append(f"{plural(len(results.failed), 'run')} failed: {'; '.join(failures)}")
    return paragraphs


TEST_ROWS = {
    "GLUE": "the official dev set",
    "the sample rows": "the sample rows' own dev set, which says nothing about GLUE",
    "own files": "the own test file, or the dev file where there is none",
}


def test_rows(results: Results) -> str:
    """What the scores are on, for each kind of rows."""
    kinds = dict.fromkeys(kind_of_rows(results.runs[task]) for task in results.tasks)
    if len(kinds) == 1:
        return TEST_ROWS[next(iter(kinds))]
    return ", and ".join(f"({kind}) {TEST_ROWS[kind]}" for kind in kinds)


def scores_section(results: Results, tables: dict) -> list[str]:
    """Table 1, once for each K."""
    paragraphs = []
    for k in results.sizes:
        paragraphs += [f"## Table 1: K = {k or 'all rows'}", score_table(results, k, tables["table1"])]
    if "avg" not in results.columns:
        paragraphs.append("No average: these tasks differ in their base or in their kind of rows.")
    elif len(results.tasks) < len(TASKS):
        tasks = "one task" if len(results.tasks) == 1 else f"{len(results.tasks)} tasks"
        whose = "The average, the paper's too, is" if results.in_paper() else "The average is"
        paragraphs.append(f"{whose} over the {tasks} of this report.")
    return paragraphs


def comparisons_section(results: Results, tables: dict, reference: str | None) -> list[str]:
    """The reference against all other methods."""
    if "comparisons" not in tables:
        return []
    return [
        f"## `{reference}` minus each other method",
        "Difference in points; below it the two-sided p of a paired t-test over the seeds. "
        "Nothing is corrected for the number of comparisons: with this many, one in twenty falls under 0.05 by chance.",
        difference_table(tables["comparisons"], results.columns, f"`{reference}` minus"),
    ]


def unions_section(tables: dict) -> list[str]:
    """Table 2."""
    if "table2" not in tables:
        return []
    return [
        "## Table 2: unions against the best of their submodules",
        "Upper bound: for each task the best submodule alone, chosen on the test scores, as in the paper.",
        plain_table(tables["table2"]),
    ]


def gates_section(results: Results, tables: dict) -> list[str]:
    """Table 3."""
    if "table3" not in tables:
        return []
    return [
        "## Table 3: with gates minus without",
        "Difference in points; below it the p of a paired t-test over the seeds.",
        difference_table(tables["table3"], results.columns, "method"),
    ]


def timing_section(timing: dict | None, tables: dict) -> list[str]:
    """Table 4."""
    if "table4" not in tables:
        return []
    padding = ""
    if "max_length" in timing:  # older files have one length, that of the batch's longest row
        padding = (
            f", padded to {timing['max_length']} tokens; real batches: {timing['lengths']['real']['batches']} others, "
            f"each as long as its longest row; {timing['precision']}"
        )
    return [
        "## Table 4: parameters and time",
        f"Percent of fine-tuning, measured side by side in one process on {timing['device']} with "
        f"{plural(timing['threads'], 'thread')}: medians of {plural(timing['repeats'], 'turn')} after a warm-up; "
        f"{timing['model']}, "
        f"batches of {timing['batch_size']} rows of {timing['task']}{padding}.",
        plain_table(tables["table4"]),
    ]


def mean_gates_section(tables: dict) -> list[str]:
    """How far the gates are open."""
    if "gates" not in tables:
        return []
    return ["## Mean gates", "Over layers, examples of the dev set and seeds.", gates_markdown(tables["gates"])]


def tradeoff_section(results: Results, tables: dict) -> list[str]:
    """The adapter paper's Figure 3, and the distances to fine-tuning."""
    if "tradeoff" not in tables:
        return []
    paragraphs = [
        "## Score against trained parameters",
        "The head's parameters are counted. The dotted line is fine-tuning.",
        "![Score against trained parameters, a panel a task](tradeoff.svg)",
    ]
    compared = [row for row in tables["tradeoff"] if row["method"] != "ft" and not math.isnan(row["difference"])]
    if compared:
        paragraphs += [
            "Each method minus fine-tuning, in points; below it the p of a paired t-test over the seeds.",
            difference_table(compared, results.columns, "method"),
        ]
    return paragraphs


def settings_sections(tables: dict) -> list[str]:
    """Each hyperparameter that took several values: a figure and a table."""
    paragraphs = []
    for name, rows in tables.items():
        if name in SETTINGS:
            title = name.replace("_", " ").capitalize()
            paragraphs += [f"## {title}", f"![Score against {name}]({name}.svg)", plain_table(rows)]
    return paragraphs


# ---- the command


def write_report(args: Namespace) -> None:
    """Read, compute, write, and print the report."""
    folder = Path(args.results)
    out = Path(args.out or args.results)
    path = folder / "results.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a folder that a sweep wrote")
    results = Results(read_sweep(path), path)
    timing = None
    if (folder / "timing.json").is_file():
        timing = read_timing(folder / "timing.json")
    text, tables = report(results, timing)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "report.md", text)
        for name, rows in tables.items():
            write_text(out / f"{name}.csv", csv_text(rows))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    draw_charts(tables, out)
    print(text)
    if not timing:
        print(f"Table 4 is missing; measure it with: python -m minipelt timing --out {folder}", file=sys.stderr)
    names = ", ".join(f"{name}.csv" for name in sorted(tables))
    print(f"written: {out}/report.md and {names}", file=sys.stderr)


def csv_text(rows: list[dict]) -> str:
    """A CSV file: four decimals, but for settings, which are written as they were typed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {}
        for name, value in row.items():
            rounded = isinstance(value, float) and name not in SETTINGS
            cells[name] = f"{value:.4f}" if rounded else value
        writer.writerow(cells)
    return text.getvalue()


def draw_charts(tables: dict, out: Path) -> None:
    """The figures of a report, or a line that says what they need."""
    try:
        if "tradeoff" in tables:
            charts.draw_tradeoff(tables["tradeoff"], out / "tradeoff.svg")
        for name, rows in tables.items():
            if name in SETTINGS:
                charts.draw_setting(name, rows, out / f"{name}.svg")
    except ImportError:
        print('the figures need matplotlib; install it with: pip install -e ".[plot]"', file=sys.stderr)
