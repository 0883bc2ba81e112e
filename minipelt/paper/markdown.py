"""Tables of numbers as Markdown, for reports and for the scripts beside the results."""

import math
from collections import defaultdict

from minipelt.paper.tables import SETTINGS


def number(value, digits: int = 2) -> str:
    """A number for people; an empty cell for none, -- for one that cannot be known. A text stays as it is."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "--"
    return f"{value:.{digits}f}"


def with_deviation(mean: float, deviation: float, digits: tuple[int, int] = (2, 1), sign: str = "") -> str:
    """A mean, and behind it, small, its deviation. digits: of both; sign: "+" for differences."""
    mean = round(mean, digits[0]) + 0.0  # no -0.00
    return f"{mean:{sign}.{digits[0]}f}<sub>{number(deviation, digits[1])}</sub>"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    safe = [[cell.replace("|", "\\|") for cell in cells] for cells in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in safe)


def difference_table(rows: list[dict], columns: list[str], title: str) -> str:
    """A row a (K, method), a column a task: the difference, with its p. title: of the column with the methods.

    columns: tasks, and `avg` behind them where they have an average.
    """
    lines = defaultdict(dict)
    for row in rows:
        p = "&lt;0.01" if row["p"] < 0.005 else number(row["p"])
        lines[row["k"], row["method"]][row["task"]] = f"{row['difference']:+.2f}<sub>{p}</sub>"
    texts = []
    for (k, method), cells in lines.items():
        texts.append([str(k), f"`{method}`", *(cells.get(task, "") for task in columns)])
    titles = ["average" if task == "avg" else task for task in columns]
    return markdown(["K", title, *titles], texts)


def plain_table(rows: list[dict]) -> str:
    """Rows of a table as they are; a setting is written as it was typed."""
    def cell(name, value):
        if name == "method":
            return f"`{value}`"
        if name in SETTINGS:
            return f"{value:g}"
        return number(value)

    return markdown(list(rows[0]), [[cell(name, value) for name, value in row.items()] for row in rows])
