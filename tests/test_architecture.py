"""The shape of the house: which way imports point, what needs no torch, and how the text is written."""

import ast
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ENVIRONMENT, ROOT

from minipelt.settings import PARTS

PACKAGE = ROOT / "minipelt"
DOOR = PACKAGE / "__main__.py"  # the one file at the top that knows the commands
SPINE = sorted(path for path in PACKAGE.glob("*.py") if path != DOOR)
METHODS = sorted((PACKAGE / "methods").glob("*.py"))
ALL = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
UPSTAIRS = ("minipelt.paper", "minipelt.tools", "minipelt.commands")
FOR_METHODS = ("minipelt.bert", "minipelt.errors", "minipelt.gate", "minipelt.methods")
LONGEST_FUNCTION = 50  # lines
LONGEST_LINE = 120  # columns


@functools.cache
def parse(path):
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """The full name of everything that a file imports, at its top or inside a function: "minipelt.bert.BertModel"."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: an import relative to its folder"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def is_inside(name, modules):
    """Whether a full name is one of these modules or something in them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def functions(path):
    """Every function and method of a file, those inside others too."""
    return [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


# ---- imports


def test_there_is_something_to_look_at():
    assert len(SPINE) >= 12
    assert len(METHODS) >= 14
    assert len(TESTS) >= 25


@pytest.mark.parametrize("path", [*SPINE, *METHODS], ids=lambda path: path.stem)
def test_the_lecture_never_imports_the_machinery(path):
    assert [name for name in imports(path) if is_inside(name, UPSTAIRS)] == []


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_methods_know_the_encoder_and_the_gate_and_nothing_of_runs(path):
    own = [name for name in imports(path) if is_inside(name, ["minipelt"])]
    assert [name for name in own if not is_inside(name, FOR_METHODS)] == []


def test_the_loop_knows_no_method():
    for name in ("loop", "unipelt", "checkpoint", "bert", "gate", "settings"):
        found = imports(PACKAGE / f"{name}.py")
        assert not [each for each in found if is_inside(each, ["minipelt.methods"])], name


def test_tests_import_helpers_and_no_other_test():
    for path in TESTS:
        assert not [name for name in imports(path) if name.split(".")[0].startswith(("test_", "conftest"))], path
        assert not [name for name in imports(path) if is_inside(name, ["tests"])], path


LIGHT = ["errors", "files", "glue", "record", "settings", "splits", "commands", "__main__"]


def test_settings_data_and_commands_need_no_torch():
    """Not by way of others either: in a process of its own that imports them one by one."""
    commands = sorted(path.stem for path in (PACKAGE / "commands").glob("*.py") if path.stem != "__init__")
    names = [f"minipelt.{name}" for name in [*LIGHT, *(f"commands.{command}" for command in commands)]]
    program = (
        "import sys\n"
        "from importlib import import_module\n"
        f"for name in {names!r}:\n"
        "    import_module(name)\n"
        "    for heavy in ('torch', 'numpy', 'tokenizers', 'matplotlib'):\n"
        "        assert heavy not in sys.modules, f'{name} imports {heavy}'"
    )
    result = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# ---- methods


def test_every_row_of_the_table_has_its_file_and_every_file_its_row():
    assert {path.stem for path in METHODS} - {"__init__"} == set(PARTS)


@pytest.mark.parametrize("path", [path for path in METHODS if path.stem != "__init__"], ids=lambda path: path.stem)
def test_a_method_s_file_ends_in_how_it_is_attached(path):
    top = {node.name: node for node in parse(path).body if isinstance(node, ast.FunctionDef)}
    found = {"attach", "attach_layer"} & set(top)
    assert found
    for name in found:
        first = "model" if name == "attach" else "layer"
        assert [argument.arg for argument in top[name].args.args] == [first, "method", "gate"]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_part_is_named_as_its_file(path):
    """The class attribute `part` of a module is the name of the file that it stands in."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == "part" for target in node.targets):
            assert ast.literal_eval(node.value) == path.stem


# ---- the text


def test_no_function_is_longer_than_a_screen():
    long = []
    for path in ALL:
        for node in functions(path):
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert long == []


def test_no_line_is_longer_than_120_columns():
    long = []
    for path in [*ALL, *TESTS, ROOT / "train.py"]:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if len(line) > LONGEST_LINE:
                long.append(f"{path.relative_to(ROOT)}: line {number} has {len(line)} columns")
    assert long == []


def public(nodes):
    """The functions and classes among some nodes whose name does not begin with an underscore."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [node for node in nodes if isinstance(node, kinds) and not node.name.startswith("_")]


def test_everything_public_has_a_docstring():
    """Modules, classes, functions, and the methods of public classes."""
    bare = []
    for path in [*ALL, ROOT / "train.py", ROOT / "tests" / "helpers.py"]:
        place = path.relative_to(ROOT)
        tree = parse(path)
        if not ast.get_docstring(tree):
            bare.append(str(place))
        for node in public(tree.body):
            inner = public(node.body) if isinstance(node, ast.ClassDef) else []
            for each in (node, *inner):
                if not ast.get_docstring(each):
                    bare.append(f"{place}: {each.name}")
    assert bare == []


def test_every_test_file_says_what_it_is_about():
    assert [path.name for path in TESTS if not ast.get_docstring(parse(path))] == []


def test_ruff_is_content():
    ruff = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed")
    command = [ruff, "check", "--no-cache", "--output-format", "concise", "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
