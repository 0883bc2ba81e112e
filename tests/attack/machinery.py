"""What the attack's tests share: how much of it, dice, crashes, kills, mangled values, and commands in this process.

    MINIPELT_ATTACK=20 pytest tests/attack        the whole attack; by default a twentieth of it
"""

import contextlib
import copy
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from helpers import ENVIRONMENT, ROOT, TINY, WORDS, tiny_bert, write_tiny_folder
from tokenizers.implementations import BertWordPieceTokenizer

from minipelt.__main__ import main
from minipelt.settings import Method

SIZE = float(os.environ.get("MINIPELT_ATTACK", "1"))
WHOLE = 20  # the size at which nothing is left out
SERVER = "from attack.machinery import serve; serve()"


TALLY = Counter()  # what was done, printed at the end: {"kills of training runs": 320}


# ---- how much, and which


def times(number):
    """How often something random is to be done, from the number for the default size."""
    return max(1, round(number * SIZE))


def some(cases, dice, share=1 / WHOLE):
    """A random share of the cases, in their order; all of them in the whole attack."""
    cases = list(cases)
    number = min(len(cases), max(1, round(len(cases) * share * SIZE)))
    return [cases[i] for i in sorted(dice.sample(range(len(cases)), number))]


# ---- commands


def run(*arguments):
    """A command line in this process -> (exit code, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # argparse
            code = stopped.code
    return code, out.getvalue(), err.getvalue()


def assert_refused(result, place):
    """The command said no, in one line that is no traceback."""
    code, _, err = result
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(said) == 1, f"{place}: exit code {code}\n{err}"
    assert "Traceback" not in err, f"{place}: {err}"
    assert len(said[0]) < 1000, f"{place}: a line of {len(said[0]):,} characters"


# ---- rows and bases to work with


def write_rows(folder, name="rows.csv", number=24):
    """Rows that a tiny model learns: a CSV file with two texts and the labels 0 and 1. Returns its path."""
    lines = ["first,second,label"]
    for i in range(number):
        label = i * 7 % 3 % 2
        lines.append(f"{'ab'[label] * (1 + i % 4)} {'xyz'[i % 3]},row {i},{label}")
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def write_glue(folder, rows=20):
    """A folder of GLUE's form with a few rows of RTE. Returns it."""
    (folder / "RTE").mkdir(parents=True)
    for split in ("train", "dev"):
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for i in range(rows):
            label = ("entailment", "not_entailment")[i * 7 % 3 % 2]
            lines.append(f"{i}\t{split} {'abc'[i % 3]} {i}\t{'xyz'[i * 7 % 3]} {i}\t{label}")
        (folder / "RTE" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_base(folder, tokenizer=False):
    """The tiny encoder as a folder, with all the files that a base can have: tokenizer.json too, if that is wanted."""
    write_tiny_folder(folder, tiny_bert(TINY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "model_max_length": 64}))
    if tokenizer:
        words = {word: number for number, word in enumerate(WORDS)}
        BertWordPieceTokenizer(words, lowercase=True)._tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def options(method, base, train, dev, **more):
    """The command line of a small run on rows of its own."""
    sizes = {"bottleneck": 4, "prefix_length": 3, "rank": 2, "share": 0.02}
    used = Method(method).uses
    words = ["train", "--train", train, "--dev", dev, "--text-column", "first", "--text-b-column", "second"]
    words += ["--method", method, "--model", base, "--device", "cpu", "--max-length", "16", "--batch-size", "8"]
    for name, value in (sizes | more).items():
        if name in more or name in used:
            words += [f"--{name.replace('_', '-')}", value]
    return words


# ---- crashes: the process dies at a file operation


class Dead(BaseException):
    """What a crash raises: nothing may catch it but the test."""


class Disk:
    """Counts the operations on files below a folder, and lets the process die before one of them.

    A dead process does nothing any more: what comes after in `except` and `finally` does not reach the disk either.
    """

    EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree")

    def __init__(self):
        self.folder = None

    def watch(self, event, arguments):
        """Python calls it before every operation of many kinds."""
        if self.folder is None or event not in self.EVENTS:
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if not path.startswith(self.folder):
            return
        if self.count >= self.last:
            raise Dead
        self.count += 1
        self.written = None
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            before = os.path.getsize(path) if os.path.exists(path) and not arguments[2] & os.O_TRUNC else 0
            self.written = path, before

    @contextlib.contextmanager
    def dying_after(self, folder, operations):
        """While open, so many operations below `folder` are done, and no more."""
        self.folder, self.count, self.last, self.written = str(folder), 0, operations, None
        try:
            yield self
        except Dead:
            pass
        finally:
            self.folder = None

    def cut(self, dice):
        """Where the process died in the middle of writing a file, leave a part of what it wrote."""
        if self.written and os.path.exists(self.written[0]):
            path, before = self.written
            os.truncate(path, dice.randint(before, os.path.getsize(path)))


disk = Disk()
sys.addaudithook(disk.watch)


# ---- kills: a process of its own, with SIGKILL


def serve():
    """What the second process does: for each command line on standard input fork, run it, and kill it after a while."""
    for module in ("minipelt.paper.sweep", "minipelt.tools.train", "torch._dynamo"):  # AdamW's first step needs seconds
        import_module(module)
    for line in sys.stdin:
        arguments, seconds = json.loads(line)
        started = time.perf_counter()
        child = os.fork()
        if not child:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os._exit(main(arguments))
        ended = 0
        while not ended and (seconds is None or time.perf_counter() - started < seconds):
            time.sleep(0.0005)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - started]), flush=True)


class Killer:
    """Command lines in processes that are killed. The one that forks them imports everything once."""

    def __init__(self):
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], env=ENVIRONMENT | {"PYTHONPATH": paths}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )

    def run(self, arguments, seconds=None):
        """A command line, killed after so many seconds -> (exit code, -9 for a killed one; seconds that it ran)."""
        self.server.stdin.write(json.dumps([[str(word) for word in arguments], seconds]) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def stop(self):
        """End the server."""
        self.server.stdin.close()
        self.server.wait()


# ---- mangled JSON

DEEP = "@deep@"
REMOVED = object()
VALUES = {
    "removed": REMOVED,
    "null": None,
    "true": True,
    "false": False,
    "negative": -1,
    "zero": 0,
    "huge": 10**30,
    "half": 0.5,
    "large": 1e300,
    "nan": float("nan"),
    "infinite": float("inf"),
    "empty": "",
    "string": "x",
    "surrogate": "\ud800",
    "list": ["x"],
    "numbers": [3, -1],
    "dict": {"x": 1},
    "nested": json.loads("[" * 50 + "]" * 50),
    "deep": DEEP,
}


def places(value, place=()):
    """The place of every field of a JSON value, as keys from the outside in. Of a list, that of its first item too."""
    if isinstance(value, dict):
        items = value.items()
    else:
        items = enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def at(value, place):
    """What a JSON value has at a place."""
    for key in place:
        value = value[key]
    return value


def mangled(value, place, kind):
    """The text of a JSON value that has something else at a place; place (): the value itself. None: nothing changes.

    kind: a key of VALUES.
    """
    changed, new = copy.deepcopy(value), VALUES[kind]
    if not place:
        changed = "" if new is REMOVED else new
    elif new is REMOVED:
        del at(changed, place[:-1])[place[-1]]
    elif type(at(value, place)) is type(new) and at(value, place) == new:
        return None
    else:
        at(changed, place[:-1])[place[-1]] = new
    return json.dumps(changed).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)


def mangle_all(value):
    """(a name, the place, the kind, the text) of every mangled form of a JSON value."""
    for place in [(), *places(value)]:
        for kind in VALUES:
            text = mangled(value, place, kind)
            if text is not None:
                yield f"{'.'.join(map(str, place)) or 'all'} {kind}", place, kind, text


# ---- what stays equal


SECONDS = re.compile(r'"(train|validation|test|total)_seconds": [0-9.e-]+')


def without_seconds(path):
    """A JSON file's text with all measured times at 0."""
    return SECONDS.sub(r'"\1_seconds": 0', Path(path).read_text())


def new_dice(name):
    """(random numbers for a test, the seed that gives them again). MINIPELT_TEST_SEED tries others."""
    seed = f"{name} {os.environ.get('MINIPELT_TEST_SEED', '')}"
    return random.Random(seed), seed
