"""results/README.md: its commands parse, its links lead somewhere, its tables say what the reports say."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import minipelt.paper
from minipelt.__main__ import main
from minipelt.commands import COMMANDS
from minipelt.glue import get_task
from minipelt.paper.grid import grid
from minipelt.paper.results import read_results, read_sweep, settings
from minipelt.paper.tables import label, score
from minipelt.settings import Method

RESULTS = Path(minipelt.paper.__file__).parent / "results"
README = (RESULTS / "README.md").read_text(encoding="utf-8")
PLACEHOLDERS = {"TASK": "sst2", "METHOD": "apl", "RATE": "1e-3"}


def commands():
    """Every command line of the page, in code blocks and in the text."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL).replace("\n", " ")
    return [*"".join(blocks).splitlines(), *re.findall(r"`(python [^`]+)`", text)]


def parse(line):
    """A command line -> (command, its arguments as parsed)."""
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)]
    name, rest = ("train", words[2:]) if words[1] == "train.py" else (words[3], words[4:])
    assert words[1] == "train.py" or words[1:3] == ["-m", "minipelt"], line
    assert name in COMMANDS, line
    if not rest:  # only named, as in "`python -m minipelt report` makes ..."
        return name, None
    return name, import_module(f"minipelt.commands.{name}").make_parser(name).parse_args(rest)


def section(title):
    """The part of the page under a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_command_parses():
    parsed = [parse(line) for line in commands()]
    assert [name for name, _ in parsed].count("sweep") >= 6 and len(parsed) >= 12
    for name, args in parsed:
        if name == "train":
            Method(args.method)
            get_task(args.task)


@pytest.mark.parametrize("folder", [
    "k500", "rates-k500", "full", "k100", "heads-k100", "figure3", "figure3-k500", "others",
])
def test_the_commands_are_those_of_the_results(folder):
    """Each run on record is in the grid of a command that writes into its folder, and no other run is."""
    sweeps = [line for line in commands() if " sweep " in line and line.endswith(f" --out results/{folder}")]
    if folder == "k100":
        sweeps += [f"{line} --methods apl --no-gate" for line in sweeps]  # "and both again"
    found = set()
    for line in sweeps:
        _, args = parse(f"{line} --glue glue")
        found.update(settings(run) for run in grid(args))
    path = RESULTS / folder / "results.jsonl"
    assert found == {settings(line.run) for line in read_results(path)}


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (RESULTS / target).is_file(), target


@pytest.mark.parametrize("folder, title, tables", [
    ("k500", "K = 500: five tasks that this base learns", 2),
    ("k100", "The paper's grid at K = 100", 3),
])
def test_the_tables_of_the_grid_are_those_of_the_report(folder, title, tables):
    report = (RESULTS / folder / "report.md").read_text(encoding="utf-8").splitlines()
    found = [block for block in section(title).split("\n\n") if block.startswith("| ")][:tables]
    rows = "\n".join(found).splitlines()
    assert len(found) == tables and len(rows) > 20
    for row in rows:
        assert row in report, row


def test_bfloat16_stands_beside_float32_as_measured():
    """Every cell: seed 1 in float32 and in bf16."""
    scores = []
    for folder in ("k500", "k500-bf16"):
        lines = [line for line in read_sweep(RESULTS / folder / "results.jsonl") if line.run.recipe.seed == 1]
        scores.append({(label(line.run), line.run.task): f"{score(line):.2f}" for line in lines})
    pair = r"([\d.]+), ([\d.]+) \|"
    stated = re.findall(rf"^\| `([\w-]+)` \| {pair} {pair} {pair}$", README, flags=re.MULTILINE)
    assert len(stated) == 8
    for method, *cells in stated:
        assert cells == [each[method, task] for task in ("sst2", "stsb", "qqp") for each in scores]


def test_the_figure_s_table_is_that_of_the_reports():
    """Score and deviation of every cell, from the rows of the two reports."""
    cells = set()
    for folder in ("figure3", "figure3-k500"):
        for line in (RESULTS / folder / "report.md").read_text(encoding="utf-8").splitlines():
            cells.update(re.findall(r"-?\d+\.\d\d<sub>\d+\.\d</sub>", line))
    stated = re.findall(r"-?\d+\.\d\d<sub>\d+\.\d</sub>", section("Score against trained parameters"))
    assert len(stated) == 10 * 6 and set(stated) <= cells


def test_the_folders_hold_as_many_runs_as_the_page_says():
    for folder, count in re.findall(r"^\| \[(.+?)\]\(.*\| (\d+) \|$", README, flags=re.MULTILINE):
        assert len(read_results(RESULTS / folder / "results.jsonl")) == int(count)


def test_the_old_runs_are_on_record():
    """Every score of the two tables at K = 500."""
    lines = (RESULTS / "../figures/runs.jsonl").read_text(encoding="utf-8").splitlines()
    scores = set()
    for line in lines:
        record = json.loads(line)
        metric = get_task(record["run"]["task"]).metrics[0]
        scores.add(f"{100 * record['results']['test'][metric]:.2f}")
    text = section("K = 500, one seed")
    rows = re.findall(r"^\| `?(?:\w+)[^|]*\| (.*) \|$", text, flags=re.MULTILINE)
    stated = [row.split(" | ")[2] for row in rows if " of " in row]
    assert len(stated) == 20 and set(stated) <= scores


def test_what_it_says_of_the_gates_is_what_the_runs_say():
    """The figures of the seventh finding."""
    first, others, rte = [], [], {}
    for run, record in read_results(RESULTS / "k100/results.jsonl"):
        gates = record["results"]["gates"]
        if not gates:
            continue
        values = [value for name, means in gates.items() if name != "prefix" for value in means]
        mean = sum(values) / len(values)
        (first if record["results"]["best_epoch"] == 1 else others).append((run.task, mean))
        if run.task == "rte" and run.method.name == "apl":
            rte[run.recipe.seed] = (round(mean, 2), round(max(values), 2))
    assert (len(first), len(others)) == (13, 17)
    tasks = [task for task, _ in first]
    assert (tasks.count("cola"), tasks.count("mrpc"), tasks.count("rte")) == (6, 5, 2)
    for runs, (low, high) in ((first, (0.50, 0.53)), (others, (0.56, 0.75))):
        means = [round(mean, 2) for _, mean in runs]
        assert (min(means), max(means)) == (low, high)
    assert rte == {1: (0.50, 0.53), 2: (0.73, 0.86), 3: (0.75, 0.94)}


def test_the_table_of_speed_is_what_was_measured():
    """Each row's times and shares, and the figures beside the targets."""
    record = json.loads((RESULTS / "speed/timing.json").read_text(encoding="utf-8"))
    lines = [line.strip("| ").split(" | ") for line in section("Speed").splitlines()]
    shown = {(line[0], line[1].strip("`")): line[2:] for line in lines if len(line) >= 9}
    rows = [*record["methods"], *record["merged"], *record["peers"]]
    for row in rows:
        cells = [cell for cell in shown[row["library"], row["method"]] if cell]
        expected = []
        for length in ("padded", "real"):
            cell = row[length]["training"]
            if cell:
                expected += [f"{cell['milliseconds']:.0f}", f"{cell['of_ft']:.2f}", f"{cell['ours_of_theirs']:.2f}"]
                expected += [f"{cell['of_limit']:.2f}"] if length == "padded" else []
        for length in ("padded", "real"):
            cell = row[length]["inference"]
            expected += [f"{cell['of_ft']:.2f}", f"{cell['ours_of_theirs']:.2f}"]
        assert cells == expected, row["library"]
    assert {(row["library"], row["method"]) for row in rows} < set(shown)


def test_growth_comes_out_again_from_its_points(tmp_path):
    for name in ("growth.json", "growth.md"):
        (tmp_path / name).write_bytes((RESULTS / "speed" / name).read_bytes())
    assert main(["growth", "--redraw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "growth.md").read_bytes() == (RESULTS / "speed/growth.md").read_bytes()
    slopes = (tmp_path / "growth.md").read_text(encoding="utf-8").split("\n\n")[3]
    assert slopes in section("Speed")


@pytest.mark.parametrize("folder, title", [
    ("k500", "K = 500: five tasks that this base learns"),
    ("heads-k100", "Heads, frozen or trained"),
])
def test_the_tables_of_heads_are_those_of_the_report(folder, title):
    report = (RESULTS / folder / "report.md").read_text(encoding="utf-8").split("## Heads, frozen or trained")[1]
    text = section(title).split("Table 1 twice")[1]
    found = [block for block in text.split("\n\n") if block.startswith("| ")][:3]
    assert len(found) == 3
    for table in found:
        assert table in report
