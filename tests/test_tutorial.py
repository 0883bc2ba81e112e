"""The lecture cannot drift: its quotes stand in the source, its Python runs and prints what it shows, its commands parse, its figures exist."""

import contextlib
import importlib
import io
import re
import shlex
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import train as command
from minipelt.glue import TASKS
from minipelt.unipelt import Method

ROOT = Path(__file__).parents[1]
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
RUNNABLE = [block for block in BLOCKS if block.language == "python" and block not in QUOTES]
NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?"


def same_output(expected, printed, share=0.02):
    """Equal token by token: decimal numbers to within 0.001 plus `share` of the expected value, whole numbers and words exactly."""
    one, two = (re.findall(rf"{NUMBER}|[^\s\d]+", text) for text in (expected, printed))
    return len(one) == len(two) and all(
        abs(float(a.replace(",", "")) - float(b.replace(",", ""))) <= 0.001 + share * abs(float(a.replace(",", "")))
        if re.fullmatch(NUMBER, a) and "." in a and re.fullmatch(NUMBER, b)
        else a == b
        for a, b in zip(one, two)
    )


def test_the_comparison_of_outputs():
    assert same_output("loss 0.500  in 1,234 steps", "loss 0.505 in 1,234 steps")
    assert same_output("ratio 1.0", "ratio 1.2", share=0.3) and not same_output("ratio 1.0", "ratio 1.2")
    for other in ("loss 0.520 in 1,234 steps", "loss 0.500 in 1,235 steps", "cost 0.500 in 1,234 steps", "loss 0.500 in 1,234"):
        assert not same_output("loss 0.500 in 1,234 steps", other)


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: f"line{quote.line}")
def test_quotes_stand_in_the_source(quote):
    lines = textwrap.dedent(quote.text).splitlines()
    source = (ROOT / quote.info.removeprefix("from=")).read_text(encoding="utf-8").splitlines()
    windows = (source[start : start + len(lines)] for start in range(len(source)))
    assert any(textwrap.dedent("\n".join(window)).splitlines() == lines for window in windows), f"{quote.info} no longer has these lines"


def test_the_python_prints_what_the_tutorial_shows(tmp_path, monkeypatch, loaded_minilm):  # loaded: or a block would print the download
    monkeypatch.chdir(tmp_path)  # what a block writes lands there
    namespace = {"__name__": "tutorial"}
    for block in RUNNABLE:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (block.line - 1) + block.text, "tutorial.md", "exec"), namespace)  # so that tracebacks name the line
        following = BLOCKS[BLOCKS.index(block) + 1 :][:1]
        shown = following[0] if following and following[0].language == "text" else Block(0, "text", "", "")
        share = float(shown.info[len("about=") : -1]) / 100 if shown.info else 0.02
        assert same_output(shown.text, printed.getvalue(), share), f"tutorial.md, line {block.line}: expected\n{shown.text}\nprinted\n{printed.getvalue()}"


def test_every_command_parses():
    lines = [line for block in BLOCKS if block.language == "bash" for line in block.text.splitlines()]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(re.sub(r"^torchrun .*?(?=train\.py|-m )", "python ", line), comments=True)
        if words[:2] == ["pip", "install"]: continue
        if words[:2] == ["python", "train.py"]:
            args = command.make_parser().parse_args(words[2:])
            assert args.eval or args.resume or (Method(args.method) and (args.task in TASKS or (args.train and args.dev)))
        else:
            assert words[:2] == ["python", "-m"] and (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), line
            module = importlib.import_module(words[2])
            if hasattr(module, "make_parser"): module.make_parser().parse_args(words[3:])


def test_figures_and_links_exist():
    prose = re.sub(r"```.*?```", "", TUTORIAL, flags=re.DOTALL)
    for bang, text, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)]+)\)", prose):
        assert text, f"{target}: no text, or no alt text"
        if not target.startswith(("http", "#")): assert (ROOT / target).is_file(), target
    assert len(re.findall(r"!\[", prose)) == 5


def test_every_chapter_is_whole():
    chapters = re.split(r"^## (?=\d+ )", TUTORIAL, flags=re.MULTILINE)[1:]
    assert [int(chapter.split()[0]) for chapter in chapters] == list(range(1, 16))
    for chapter in chapters:
        assert re.search(r"^```python from=", chapter, re.MULTILINE) and re.search(r"^```python\n", chapter, re.MULTILINE)
        assert re.search(r"^```text", chapter, re.MULTILINE)
        assert chapter.count("<summary>Answer</summary>") == chapter.count("</details>") in (2, 3), chapter[:40]
