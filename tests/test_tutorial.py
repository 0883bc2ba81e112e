"""The lecture cannot drift: quotes stand in the source, Python runs and prints what is shown, its recipe works."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from typing import NamedTuple

import pytest
import torch
from helpers import ENVIRONMENT, ROOT, write_tiny_folder

from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.commands import COMMANDS
from minipelt.settings import PARTS, Method
from minipelt.unipelt import attach, count_parameters, kept_parameters

TUTORIAL = (ROOT / "tutorial.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block: ```language info, then text."""

    line: int  # number of the text's first line in tutorial.md
    language: str
    info: str
    text: str


BLOCKS = [
    Block(TUTORIAL.count("\n", 0, match.start(3)) + 1, match[1], match[2].strip(), match[3])
    for match in re.finditer(r"^```(\w*)(.*)\n((?:(?!```).*\n)*)```$", TUTORIAL, re.MULTILINE)
]
QUOTES = [block for block in BLOCKS if block.info.startswith("from=")]
RUNNABLE = [block for block in BLOCKS if block.language == "python"]
NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?"


# ---- what is shown


def tokens(text):
    """The numbers and words of an output."""
    return re.findall(rf"{NUMBER}|[^\s\d]+", text)


def same_token(shown, printed, share):
    """Decimal numbers to within 0.001 and `share` of the one shown, whole numbers and words exactly."""
    if "." in shown and re.fullmatch(NUMBER, shown) and re.fullmatch(NUMBER, printed):
        expected, found = (float(token.replace(",", "")) for token in (shown, printed))
        return abs(expected - found) <= 0.001 + share * abs(expected)
    return shown == printed


def same_output(shown, printed, share=0.02):
    """Whether two outputs are equal, token by token."""
    one, two = tokens(shown), tokens(printed)
    return len(one) == len(two) and all(same_token(a, b, share) for a, b in zip(one, two, strict=True))


def test_the_comparison_of_outputs():
    assert same_output("loss 0.500 in 1,234 steps", "loss 0.505 in 1,234 steps")
    assert same_output("ratio 1.0", "ratio 1.2", share=0.3)
    assert not same_output("ratio 1.0", "ratio 1.2")
    for other in ("loss 0.520 in 12 steps", "loss 0.500 in 13 steps", "cost 0.500 in 12 steps", "loss 0.500 in 12"):
        assert not same_output("loss 0.500 in 12 steps", other)


def run(block, namespace):
    """Run a block of Python as a part of the lecture; returns what it printed. Tracebacks name its line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.text, "tutorial.md", "exec"), namespace)
    return printed.getvalue()


@pytest.mark.slow
def test_the_python_prints_what_the_tutorial_shows(tmp_path, monkeypatch, loaded_minilm):
    """loaded_minilm: or a block would print the download."""
    monkeypatch.chdir(tmp_path)  # what a block writes lands there
    namespace = {"__name__": "tutorial"}
    for block in RUNNABLE:
        printed = run(block, namespace)
        place = BLOCKS.index(block) + 1
        shown = BLOCKS[place] if BLOCKS[place].language == "text" else Block(0, "text", "", "")
        share = float(shown.info.removeprefix("about=").removesuffix("%")) / 100 if shown.info else 0.02
        message = f"tutorial.md, line {block.line}: expected\n{shown.text}\nprinted\n{printed}"
        assert same_output(shown.text, printed, share), message


# ---- what is quoted


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: f"line{quote.line}")
def test_quotes_stand_in_the_source(quote):
    lines = quote.text.splitlines()
    path = quote.info.removeprefix("from=")
    source = (ROOT / path).read_text(encoding="utf-8").splitlines()
    windows = (source[start : start + len(lines)] for start in range(len(source)))
    found = any(textwrap.dedent("\n".join(window)).splitlines() == lines for window in windows)
    assert found, f"tutorial.md, line {quote.line}: {path} has other lines today; copy them again"


def quotes_of(path):
    """All that is quoted of a file, as one text without indentation."""
    return "\n".join(quote.text for quote in QUOTES if quote.info == f"from={path}")


IN_WORDS = ("ft", "head")  # no module, and nothing to quote
HEART = {"diff": ("forward", "mask", "expected_share", "prune", "settle")}  # of its module only these


def to_quote(part, source):
    """The definitions in a method's file that the lecture has to quote."""
    nodes = list(ast.walk(ast.parse(source)))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    functions = {node.name: node for node in reversed(nodes) if isinstance(node, ast.FunctionDef)}  # the first wins
    if part in HEART:
        return [functions[name] for name in HEART[part]]
    return classes or [functions["attach"]]  # what only chooses parameters has no class


@pytest.mark.parametrize("part", [part for part in PARTS if part not in IN_WORDS])
def test_every_method_s_module_is_quoted_whole_and_once(part):
    path = f"minipelt/methods/{part}.py"
    source = (ROOT / path).read_text(encoding="utf-8")
    for node in to_quote(part, source):
        text = textwrap.dedent("\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno]))
        assert quotes_of(path).count(text) == 1, f"{path}: {node.name}"


def test_the_loop_is_quoted_whole():
    source = (ROOT / "minipelt/loop.py").read_text(encoding="utf-8")
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "train")
    assert "\n".join(source.splitlines()[function.lineno - 1 : function.end_lineno]) in quotes_of("minipelt/loop.py")


# ---- the table of methods

ROWS = [
    [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
    for line in TUTORIAL.splitlines()
    if re.match(r"\| `\w+` \|", line)
]
SIZES = {"N": 6, "D": 384, "M": 48, "P": 10, "R": 8}  # of MiniLM, and the defaults


def evaluate(formula):
    """`N (2 M D + D)` with the letters of SIZES -> a number."""
    formula = formula.partition(",")[0]
    product = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula)
    return eval(product, dict(SIZES))


def test_the_table_has_every_method_in_order_with_its_rate_and_gate():
    assert [row[0].strip("`") for row in ROWS] == list(PARTS)
    for row, part in zip(ROWS, PARTS.values(), strict=True):
        assert len(row) == 9, row
        assert float(row[8]) == part.learning_rate, part.name
        assert bool(row[6]) == part.gateable, part.name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_the_table_counts_right(row):
    name = row[0].strip("`")
    if name in ("ft", "head", "diff"):  # all, none, and a rounding for each matrix
        return
    config = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    with torch.device("meta"):
        counts = count_parameters(attach(BertClassifier(BertModel(config), 2), Method(name)))
    assert evaluate(row[5]) == kept_parameters(counts)


# ---- commands, pictures, links, shape


def test_every_command_parses(monkeypatch):
    lines = [line for block in BLOCKS if block.language == "shell" for line in block.text.splitlines()]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:2] == ["pip", "install"]:
            continue
        if words[:2] == ["python", "train.py"]:
            words[:2] = ["python", "-m", "minipelt", "train"]
        assert words[:3] == ["python", "-m", "minipelt"] and words[3] in COMMANDS, line
        importlib.import_module(f"minipelt.commands.{words[3]}").make_parser(words[3]).parse_args(words[4:])


def test_figures_and_links_exist():
    prose = re.sub(r"```.*?```", "", TUTORIAL, flags=re.DOTALL)
    links = re.findall(r"(!?)\[([^\]]*)\]\(([^)]+)\)", prose)
    for _, text, target in links:
        assert text, f"{target}: no text, or no alt text"
        if not target.startswith("http"):
            assert (ROOT / target).is_file(), target
    pictures = [target.rsplit("/", 1)[1] for bang, _, target in links if bang]
    assert pictures == [
        "layer.svg", "bottleneck.svg", "prefix.svg", "lora.svg", "padding.svg", "gates.svg", "tradeoff.svg",
    ]


def test_every_chapter_is_whole():
    chapters = re.split(r"^## (?=\d+ )", TUTORIAL, flags=re.MULTILINE)[1:]
    assert [int(chapter.split()[0]) for chapter in chapters] == list(range(1, 11))
    for chapter in chapters:
        assert re.search(r"^```python\n", chapter, re.MULTILINE)
        assert re.search(r"^```text", chapter, re.MULTILINE)
        assert 1 <= chapter.count("<summary>Answer</summary>") == chapter.count("</details>") <= 3, chapter[:40]
    assert all(re.search(r"^```py from=", chapter, re.MULTILINE) for chapter in chapters[:9])


def test_no_line_of_code_or_prose_is_longer_than_120_columns():
    """But for tables, pictures, and paragraphs with an address in them."""
    long = [line for line in TUTORIAL.splitlines() if len(line) > 120 and not re.search(r"^\||^!\[|https?://", line)]
    assert long == []


# ---- a method of one's own

USE = """
import torch
from minipelt.__main__ import main
from minipelt.experiment import load_base, load_run
from minipelt.settings import Method
from minipelt.unipelt import count_parameters, detach

options = "--task sst2 --model tiny --k 64 --valid-rows 64 --epochs 2 --device cpu --threads 1"
for command in (
    f"train --method red {options}",
    "train --eval runs/sst2-sample-tiny-red-k64-seed1",
    f"train --method red+l {options}",
    "describe red --model tiny",
    "describe red+l --model tiny",
):
    assert main(command.split()) == 0, command

run, results, model, tokenizer = load_run("runs/sst2-sample-tiny-red-k64-seed1")
plain, _ = load_base(run.model, torch.device("cpu"))
ids = torch.tensor([tokenizer.encode("a warm , clever film .").ids])
print("trained", {part: n for part, n in count_parameters(model).items() if part not in ("base", "head")})
print("moved", not torch.equal(model.bert(ids).pooled, plain(ids).pooled))
print("taken out", torch.equal(detach(model).bert(ids).pooled, plain(ids).pooled))
print("united", Method("red+l").name, Method("red+l").gated, Method("red", rank=4).canonical.rank)
"""


@pytest.mark.slow
def test_adding_a_method_takes_the_file_and_the_row_that_the_lecture_shows(tmp_path):
    """In a copy of the package: the file, the row, and then it trains, is scored again, described and taken out."""
    shutil.copytree(ROOT / "minipelt", tmp_path / "minipelt", ignore=shutil.ignore_patterns("__pycache__", "results"))
    (file,) = [block for block in BLOCKS if block.info.startswith("file=")]
    (tmp_path / file.info.removeprefix("file=")).write_text(file.text, encoding="utf-8")
    (row,) = [block for block in BLOCKS if block.info.startswith("row=")]
    settings = tmp_path / row.info.removeprefix("row=")
    before, after = settings.read_text(encoding="utf-8").split("    )\n}\nLETTERS")  # the end of PARTS
    settings.write_text(f"{before}        {row.text}    )\n}}\nLETTERS{after}", encoding="utf-8")
    write_tiny_folder(tmp_path / "tiny")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", USE]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    score, recorded = re.search(r"test accuracy +(\S+) \(recorded: (\S+)\)", result.stdout).groups()
    assert score == recorded
    for line in (
        "f = f + (w * f + b)", "f = f + g * (w * f + b)",  # described, alone and under a gate
        "trained {'red': 192}",  # 2 D in each of 3 layers
        "moved True", "taken out True", "united lora+red True 8",
    ):
        assert line in result.stdout, line


# ---- as a notebook


def test_a_converter_makes_the_runnable_blocks_cells_and_nothing_else():
    jupytext = pytest.importorskip("jupytext")
    notebook = jupytext.reads(TUTORIAL, fmt="md")
    cells = [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]
    assert cells == [block.text.strip() for block in RUNNABLE]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch, loaded_minilm):
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, ENVIRONMENT[name])
    notebook = jupytext.reads(TUTORIAL, fmt="md")
    nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code")
