"""The README and the documents beside the tools: commands parse, links lead somewhere, tables and outputs are true."""

import re
import shlex
from importlib import import_module

import pytest
import torch
from helpers import ROOT, tiny_run

from minipelt.bert import BertClassifier, BertModel
from minipelt.commands import COMMANDS
from minipelt.experiment import prepare, run_experiment
from minipelt.glue import TASKS
from minipelt.settings import DEFAULT_MODEL, PARTS, Method, default_learning_rate
from minipelt.tools.describe import CONFIGS, describe
from minipelt.unipelt import attach, count_parameters, detach, kept_parameters

TOOLS = "minipelt/tools/README.md"
DOCUMENTS = (
    "README.md", TOOLS, "minipelt/paper/README.md", "minipelt/paper/results/README.md", "minipelt/miniglue/README.md",
    "weights/README.md",
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PLACEHOLDERS = {"TASK": "sst2", "METHOD": "apl", "NAME": "reviews", "RATE": "1e-3", "RUN": "runs/sst2-sample-apl-seed1"}
LONGEST = 150  # lines of the README
WIDEST = 120  # columns of prose


# ---- reading a document


def read(document):
    """A document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document, kind):
    """The texts of a document's fenced blocks of a kind: bash, python, or "" for output."""
    return [text for found, text in BLOCK.findall(read(document)) if found == kind]


def prose(document):
    """A document without its fenced blocks."""
    return BLOCK.sub("", read(document))


def shell_lines(document):
    """The lines of a document's bash blocks, without their comments."""
    lines = "".join(blocks(document, "bash")).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def commands(document):
    """Every command of a document, those inside its sentences too, as lists of words."""
    inline = re.findall(r"`((?:python|torchrun) [^`]+)`", prose(document).replace("\n", " "))
    found = []
    for line in [*shell_lines(document), *inline]:
        for command in line.split("&&"):
            words = shlex.split(command.replace("...", ""))
            found.append([PLACEHOLDERS.get(word, word) for word in words])
    return found


# ---- commands


def command_line(words):
    """(name of a command of minipelt, its arguments) of a command's words, or None for another program."""
    if words[0] == "torchrun":
        places = [place for place, word in enumerate(words) if word in ("train.py", "-m")]
        words = ["python", *words[places[0]:]]
    if words[:2] == ["python", "train.py"]:
        return "train", words[2:]
    if words[:3] == ["python", "-m", "minipelt"] and len(words) > 3:
        return words[3], words[4:]
    return None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_parses(document):
    for words in commands(document):
        found = command_line(words)
        if found is None:
            known = words[:1] == ["pip"] or words in (["pytest"], ["python", "-m", "minipelt"])
            assert known or (ROOT / words[1]).is_file(), words
            continue
        name, arguments = found
        assert name in COMMANDS, words
        if arguments == ["--help"]:
            continue
        if not arguments:  # `python -m minipelt timing`, the name of a command in a sentence
            continue
        check_arguments(name, arguments)


def check_arguments(name, arguments):
    """Fail if a command refuses its arguments, or names a method or task that is none."""
    command = import_module(f"minipelt.commands.{name}")
    parser = command.make_parser(name)
    args = parser.parse_args(arguments)  # SystemExit, with a message, for what does not parse
    output = getattr(args, "output", None)
    if hasattr(command, "check") and output is None:  # with --output, it looks for the folder
        command.check(parser, args)
    for method in getattr(args, "methods", None) or [getattr(args, "method", None) or "apl"]:
        Method(method)
    tasks = getattr(args, "tasks", None) or [getattr(args, "task", None) or "all"]
    assert set(tasks) <= {*TASKS, "all"}


def test_the_documents_show_the_commands():
    shown = {}
    for document in DOCUMENTS:
        shown[document] = [command_line(words) for words in commands(document)]
    named = {found[0] for lines in shown.values() for found in lines if found}
    assert named == set(COMMANDS)
    in_readme = {found[0] for found in shown["README.md"] if found}
    assert {"train", "fetch", "predict", "describe", "sweep", "report"} <= in_readme


def test_ci_runs_the_two_commands_at_the_top():
    first, second = shell_lines("README.md")[:2]
    assert first == "pip install -e . && python train.py --task sst2 --method apl"
    assert second == 'pip install -e ".[test]" && pytest'
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert first in script and second in script
    assert "run: bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


# ---- shape and links


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= LONGEST


@pytest.mark.parametrize("document", DOCUMENTS)
def test_prose_fits_a_screen(document):
    for line in prose(document).splitlines():
        table_or_picture = line.startswith(("|", "!["))
        assert len(line) <= WIDEST or table_or_picture, line


def anchor(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", target.read_text(encoding="utf-8")), flags=re.MULTILINE)
            assert heading in map(anchor, headings), link


# ---- the table of methods


def table_of_methods():
    """{method: (trains, where, count on BERT-base, count on MiniLM, learning rate)} as the README has them."""
    rows = {}
    for line in read("README.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.match(r"`([\w+]+)`", cells[0])
        if name and len(cells) == 7:
            letter = re.search(r", `(\w)`$", cells[0])
            assert (letter[1] if letter else "") == getattr(PARTS.get(name[1]), "letter", ""), line
            assert re.fullmatch(r"[\d.]+ ± [\d.]+", cells[6]), line
            rows[name[1]] = tuple(cells[1:6])
    return rows


def test_the_table_of_methods_has_the_rows_of_settings():
    rows = table_of_methods()
    assert list(rows) == [*PARTS, "ap", "apl"]
    for name, (trains, where, _, _, rate) in rows.items():
        if name in PARTS:
            assert (trains, where) == (PARTS[name].trains, PARTS[name].where)
        assert float(rate) == default_learning_rate(Method(name)), name


@pytest.mark.parametrize(("column", "model"), [(2, "bert-base-uncased"), (3, DEFAULT_MODEL)])
def test_the_table_of_methods_states_the_counts(column, model):
    with torch.device("meta"):  # shapes without numbers
        classifier = BertClassifier(BertModel(CONFIGS[model]), 2)
    for name, cells in table_of_methods().items():
        counts = count_parameters(attach(classifier, Method(name)))
        assert cells[column] == f"{kept_parameters(counts):,}", name
        detach(classifier)


def test_a_method_is_a_file_a_row_a_test_and_a_paragraph():
    files = {path.stem for path in (ROOT / "minipelt" / "methods").glob("*.py")} - {"__init__"}
    assert files == set(PARTS)
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "methods").glob("test_*.py")]
    tutorial = read("tutorial.md")
    for name in PARTS:
        assert any(re.search(rf"\b{name}\.py", text) for text in tests), name
        assert re.search(rf'\b{name}\.py|--method {name}\b|`{name}`|"{name}"', tutorial), name


# ---- what the README shows


def test_the_described_method_is_what_the_command_prints():
    page = "minipelt/tools/README.md"
    (shown,) = [text for text in blocks(page, "") if text.startswith("lora on bert-base-uncased")]
    assert "python -m minipelt describe lora" in shell_lines(page)
    assert shown.strip() == describe(Method("lora"))


def run_block(text, names=None):
    """Run a document's Python."""
    names = {} if names is None else names
    exec(compile(text, "README.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_readme_s_python_runs(capsys):
    (text,) = blocks("README.md", "python")
    names = run_block(text)
    assert names["logits"].shape == (1, 2)
    printed = capsys.readouterr().out.splitlines()  # on a fresh clone, what fetching the weights says comes first
    assert printed[-1].startswith("[tensor([0.")


@pytest.mark.slow
def test_the_tools_python_runs(capsys, tiny_folder, tmp_path, monkeypatch):
    """On tiny runs that have the names of those in the text."""
    several_runs, gates = blocks(TOOLS, "python")
    monkeypatch.chdir(tmp_path)
    for task, method, name in (("sst2", "apl", "sst2-sample-apl-seed1"), ("cola", "lora", "films-lora-seed1")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        run = tiny_run(tiny_folder, task, method, epochs=1, k=20, valid_rows=20)
        run_experiment(prepare(run), folder)
    run_block(several_runs)
    assert re.fullmatch(r"(positive|negative)  \(.*\)\n(un)?acceptable  \(.*\)\n", capsys.readouterr().out)
    run_block(gates)
    as_trained, shut = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\{.*'label'.*\} \[[\d., ]+\]", as_trained)
    assert shut.count("'label'") == 2


# ---- the page on reliability and verification


def test_every_test_file_that_the_page_of_the_tests_names_is_there():
    named = set(re.findall(r"`((?:\w+/)*(?:test_\w+\.py|golden\.safetensors))`", read("tests/README.md")))
    assert len(named) >= 20
    assert [path for path in named if not (ROOT / "tests" / path).is_file()] == []
