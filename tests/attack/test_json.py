"""Every field of every JSON file, mangled: each command that reads it is right as before, or says no in one line."""

import json
import math
import shutil

import pytest
from attack.machinery import (
    TALLY,
    VALUES,
    assert_refused,
    disk,
    mangle_all,
    options,
    run,
    some,
    write_base,
    write_glue,
    write_rows,
)

from minipelt.batches import encode
from minipelt.errors import InputError
from minipelt.glue import Example
from minipelt.weights import load

NAMES = {"model", "glue", "device", "train", "dev", "text", "text_b", "label", "commit", "minipelt", "torch", "python"}
SCORES = {"accuracy", "macro_f1", "score", "best_score"}
AMOUNTS = {"loss", "train_seconds", "test_seconds", "total_seconds", "validation_seconds", "training", "inference"}
COUNTS = {"train", "validation", "test", "adapter", "prefix", "prefix network", "lora", "gates", "bitfit", "parameters"}


def is_plausible(place, kind):
    """Whether another value could as well be the right one there: nobody can tell from the file."""
    value, name = VALUES[kind], place[-1] if place else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return isinstance(value, str) and name in NAMES
    if name in SCORES:
        return -1 <= value <= 1
    if name in AMOUNTS:
        return 0 <= value < math.inf
    if name in COUNTS | {"head", "base", "best_epoch", "epochs", "threads", "processes", "repeats", "batch_size"}:
        return isinstance(value, int) and value >= 0
    return False


def files_of(folder):
    """{name: bytes} of the files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check(path, value, cases, commands, may_change=is_plausible, write=lambda text: text):
    """Give a file all mangled forms of its JSON value, and run the commands on each.

    cases: what `mangle_all` gives, or some of it; commands: {name: a function -> (result of `run`, its answer)};
    may_change(place, kind): whether the answer may be another; write(text) -> what the file holds.
    """
    whole = path.read_bytes()
    answers = {name: command() for name, command in commands.items()}
    for name, (result, _) in answers.items():
        assert result[0] == 0, f"{name}: {result}"
    refused, wrong, done = 0, [], 0
    for name, place, kind, text in cases:
        path.write_text(write(text), encoding="utf-8", errors="surrogatepass")
        for which, command in commands.items():
            done += 1
            where = f"{path.name}: {name}: {which}"
            try:
                result, answer = command()
                if result[0]:
                    refused += 1
                    assert_refused(result, where)
                elif answer != answers[which][1] and not may_change(place, kind):
                    wrong.append(f"{where}: another answer, and not a word: {result[1][:200]!r}")
            except Exception as error:
                wrong.append(f"{where}: {error!r}"[:500])
    path.write_bytes(whole)
    TALLY[f"commands on mangled {path.name}"] += done
    TALLY["commands on mangled JSON refused"] += refused
    assert wrong == [], f"{len(wrong)} of {done}\n" + "\n".join(wrong[:50])
    assert done < 100 or 0 < refused < done


# ---- what is mangled


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a base, rows, and runs of lora and apl that have ended."""
    folder = tmp_path_factory.mktemp("json")
    base = write_base(folder / "base")
    train, dev = write_rows(folder, "train.csv"), write_rows(folder, "dev.csv", 12)
    for method in ("apl", "lora"):
        command = options(method, base, train, dev, epochs=3, lr=0.02)
        code, _, err = run(*command, "--out", folder / "runs")
        assert code == 0, err
        next((folder / "runs").glob(f"*{method}*")).rename(folder / method)
    assert run("export", folder / "lora", "--to", "peft", "--out", folder / "peft")[0] == 0
    command = options("apl", base, train, dev, epochs=3, lr=0.02)
    with disk.dying_after(folder / "begun", 17):
        run(*command, "--out", folder / "begun")
    return folder


def ask(work, name):
    """Commands that load a finished run."""
    folder, dev, out = work / name, work / "dev.csv", work / "out"

    def printed(*arguments):
        result = run(*arguments)
        return result, result[1]

    def exported(*arguments):
        result = run("export", folder, *arguments, "--out", out)
        answer = files_of(out) if out.exists() else None
        shutil.rmtree(out, ignore_errors=True)
        return result, answer

    commands = {
        "eval": lambda: printed("train", "--eval", folder),
        "text": lambda: printed("predict", folder, "--text", "ab x", "--text-b", "row 1", "--gates"),
        "input": lambda: printed("predict", folder, "--input", dev),
    }
    if name == "lora":
        commands["peft"] = lambda: exported("--to", "peft")
        commands["merge"] = lambda: exported("--merge")
    return commands


def drawings(work, name, kinds):
    """Commands that draw a run."""
    pytest.importorskip("matplotlib")
    out = work / "out.svg"

    def drawn(kind):
        out.unlink(missing_ok=True)
        result = run("plot", work / name, "--kind", kind, "--out", out)
        return result, out.read_bytes() if out.exists() else None

    return {kind: lambda kind=kind: drawn(kind) for kind in kinds}


# ---- runs


@pytest.mark.parametrize("name", ["apl", "lora"])
def test_run_json_of_a_finished_run(name, work, dice):
    path = work / name / "run.json"
    value = json.loads(path.read_text())

    def may_change(place, kind):
        """The score and rows on record are shown as they are, and that there are none is said."""
        shown = place[:1] in (("results",), ("rows",)) and (is_plausible(place, kind) or kind == "removed")
        return shown or place in (("run", "glue"), ("fingerprints", "test"))

    check(path, value, some(mangle_all(value), dice), ask(work, name), may_change)
    if name == "apl":
        drawn = some(mangle_all({"results": value["results"], "parameters": value["parameters"]}), dice)
        whole = [(n, p, k, json.dumps(value | json.loads(t))) for n, p, k, t in drawn if p and k != "deep"]

        def gates_may_change(place, kind):
            """Nothing else tells how far they were open, or which there were."""
            return is_plausible(place, kind) or "gates" in place[1:] and kind in ("zero", "half", "removed")

        check(path, value, whole, drawings(work, name, ["gates", "compare"]), gates_may_change)


def test_run_json_of_a_run_that_goes_on(work, dice):
    (begun,) = (work / "begun").iterdir()
    value, copy = json.loads((begun / "run.json").read_text()), work / "goes-on"

    def go_on():
        text = path.read_bytes()
        shutil.rmtree(copy)
        shutil.copytree(begun, copy)
        path.write_bytes(text)
        result = run("train", "--resume", copy)
        return result, (copy / "trained.safetensors").read_bytes()

    shutil.copytree(begun, copy)
    path = copy / "run.json"
    check(path, value, some(mangle_all(value), dice), {"resume": go_on})


def test_metrics(work, dice):
    path = work / "apl" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        before, after = lines[:number], lines[number + 1 :]

        def write(text, before=before, after=after):
            return "\n".join([*before, text, *after]) + "\n"

        def may_change(place, kind):
            return place[-1:] != ("best_score",) and is_plausible(place, kind)

        value = json.loads(line)
        check(path, value, some(mangle_all(value), dice), drawings(work, "apl", ["curve"]), may_change, write)


# ---- bases


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_base_s_settings(name, work, dice):
    """A run knows its base by a fingerprint; one that begins must not end in a traceback."""
    path = work / "base" / name
    value = json.loads(path.read_text())
    command = options("lora", work / "base", work / "train.csv", work / "dev.csv", epochs=1)

    def begin():
        result = run(*command, "--out", work / "new")
        shutil.rmtree(work / "new", ignore_errors=True)
        return result, None

    def may_change(place, kind):
        """A merged folder has the base's own settings: what is missing has its default, which is the same."""
        return name == "tokenizer_config.json" and place == ("model_max_length",) or kind == "removed"

    check(path, value, some(mangle_all(value), dice), ask(work, "lora") | {"begin": begin}, may_change)


def test_a_tokenizer(tmp_path, dice):
    base = write_base(tmp_path / "base", tokenizer=True)
    train, dev = write_rows(tmp_path, "train.csv"), write_rows(tmp_path, "dev.csv", 12)
    command = options("lora", base, train, dev, epochs=1)
    assert run(*command, "--out", tmp_path / "runs")[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    path = base / "tokenizer.json"
    value = json.loads(path.read_text())

    def predict():
        result = run("predict", folder, "--input", dev)
        return result, result[1]

    def begin():
        """What a new run does first: it loads the base, and makes numbers of its rows."""
        try:
            tokenizer = load(str(base))[1]
        except InputError as error:
            return (2, "", f"error: {error}\n"), None
        encode([Example("ab", "row 1", 1), Example("", "\u1234", 0)], tokenizer, 16)
        return (0, "", ""), None

    check(path, value, some(mangle_all(value), dice), {"predict": predict, "begin": begin})


# ---- PEFT


@pytest.mark.parametrize("name", ["adapter_config.json", "minipelt.json"])
def test_a_peft_folder(name, work, dice):
    path, out = work / "peft" / name, work / "out"
    value = json.loads(path.read_text())

    def read_back():
        result = run("export", work / "peft", "--from", "peft", "--out", out)
        answer = files_of(out) if out.exists() else None
        shutil.rmtree(out, ignore_errors=True)
        return result, answer

    def may_change(place, kind):
        """An adapter's scale can be any number; names are the user's, and so is whether there is a second text."""
        is_name = place[-1:] in (("task",), ("text",), ("text_b",), ("label",)) or place[:2] == ("data", "labels")
        free = isinstance(VALUES[kind], str) or place[-1:] == ("text_b",) and kind in ("removed", "null")
        return place[-1:] == ("lora_alpha",) and isinstance(VALUES[kind], int | float) or is_name and free

    check(path, value, some(mangle_all(value), dice), {"from": read_back}, may_change)


# ---- sweeps


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(the folder of a sweep of two runs, its command line)."""
    folder = tmp_path_factory.mktemp("swept")
    base, glue = write_base(folder / "base"), write_glue(folder / "glue")
    command = ["sweep", "--tasks", "rte", "--methods", "lora,apl", "--k", "10", "--seeds", "1", "--epochs", "1"]
    command += ["--max-length", "16", "--device", "cpu", "--model", base, "--glue", glue, "--out", folder / "out"]
    code, _, err = run(*command)
    assert code == 0, err
    methods = [{"method": name, "parameters": 7, "training": 0.5, "inference": 1.25} for name in ("ft", "lora")]
    timing = {"model": "tiny", "task": "rte", "batch_size": 4, "repeats": 3, "threads": 1, "device": "cpu", "base": 99}
    (folder / "out" / "timing.json").write_text(json.dumps(timing | {"methods": methods}))
    return folder / "out", command


def report_of(out):
    """The command that reports a sweep's folder."""
    result = run("report", out, "--out", out.parent / "report")
    return result, result[1]


def valid_other_run(place, kind):
    """Whether a line's settings are those of another run, that a sweep could have done."""
    other = {
        ("run", "k"): ("removed", "null"),
        ("run", "recipe", "seed"): ("zero",),
        ("run", "method", "gate"): ("false",),
    }
    flags = {"frozen_head", "zero_start"}
    numbers = {"warmup", "weight_decay", "clip", "learning_rate", "alpha"}
    in_run = place[:1] == ("run",)
    if kind in other.get(place, ()) or in_run and place[-1] in flags and kind == "true":
        return True
    if in_run and (kind == "removed" or place[-1] in numbers and isinstance(VALUES[kind], int | float)):
        return True
    if in_run and place[-1] in ("top_layers",) and kind == "zero" or place[-1:] == ("share",) and kind == "half":
        return True
    return is_plausible(place, kind) or "gates" in place and kind in ("zero", "half", "removed", "dict")


@pytest.mark.parametrize("line", [0, 1])
def test_results(line, swept, dice):
    out, command = swept
    path = out / "results.jsonl"
    lines = path.read_text().splitlines()
    value = json.loads(lines[line])

    def write(text):
        return "\n".join([*lines[:line], text, *lines[line + 1 :]]) + "\n"

    def go_on():
        result = run(*command)
        answer = sorted(path.read_text().splitlines())
        return result, answer if result[0] == 0 else None

    def report():
        return report_of(out)

    check(path, value, some(mangle_all(value), dice), {"report": report}, valid_other_run, write)
    again = some(mangle_all(value), dice, share=1 / 60)
    check(path, value, again, {"sweep": go_on}, lambda place, kind: True, write)


def test_timing(swept, dice):
    out, _ = swept
    path = out / "timing.json"
    value = json.loads(path.read_text())

    def may_change(place, kind):
        names = {"model", "task", "device"}
        return is_plausible(place, kind) or place[-1] in names and isinstance(VALUES[kind], str)

    check(path, value, some(mangle_all(value), dice), {"report": lambda: report_of(out)}, may_change)


def test_times_are_read_by_nothing(swept):
    out, command = swept
    before = report_of(out)
    for text in ("", "{", "[" * 100_000, "\ud800", "\0"):
        (out / "times.jsonl").write_text(text, errors="surrogatepass")
        assert report_of(out) == before
        assert run(*command)[0] == 0
