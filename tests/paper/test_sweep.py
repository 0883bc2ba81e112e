"""sweep.py: the work, kills, several processes, failures; on the tiny model, as a user would start it."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, TORCHRUN, interrupt_at, launch, write_tiny_folder

from minipelt import experiment
from minipelt.__main__ import main
from minipelt.commands.sweep import make_parser
from minipelt.files import alone_in, read_lines
from minipelt.paper import sweep as chapter
from minipelt.paper.grid import grid
from minipelt.paper.results import read_results
from minipelt.settings import PARTS

RECIPE = ["--epochs", "2", "--valid-rows", "20", "--max-length", "24", "--glue", "miniglue", "--device", "cpu"]
TWO_TASKS = ["--tasks", "sst2", "stsb", "--methods", "lora,apl", "ft", "--k", "20", "--seeds", "2", *RECIPE]
ONE_RUN = ["--tasks", "sst2", "--methods", "lora", "--k", "20", "--seeds", "1", *RECIPE]
NUM_RUNS = 12  # of TWO_TASKS
FAILING_SWEEP = """
import sys
import time
from minipelt import experiment
from minipelt.__main__ import main

real = experiment.train

def train(model, rows, recipe, *rest):
    if recipe.learning_rate > 1:
        raise RuntimeError("too hot")
    time.sleep(6)
    return real(model, rows, recipe, *rest)

experiment.train = train
sys.exit(main())
"""


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    """A tiny encoder as a folder, one for all tests of this file."""
    torch.manual_seed(1)
    return write_tiny_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_base):
    """The folder of a sweep over TWO_TASKS that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["sweep", *TWO_TASKS, "--model", str(tiny_base), "--out", str(out)]) == 0
    return out


def lines(folder):
    """The lines of a folder's results.jsonl, in an order of their own."""
    return sorted(read_lines(folder / "results.jsonl"))


def interrupt(*_, **__):
    """What Ctrl-C does."""
    raise KeyboardInterrupt


# ---- what a sweep leaves


@pytest.mark.slow
def test_every_run_is_a_line_without_times(whole):
    lines = read_results(whole / "results.jsonl")
    assert len(lines) == NUM_RUNS
    for _, record in lines:
        assert set(record["results"]) == {"test", "gates", "validation", "best_epoch", "epochs"}
        assert record["processes"] == 1 and "commit" in record
    times = [json.loads(line) for line in read_lines(whole / "times.jsonl")]
    assert {entry["name"] for entry in times} >= {"sst2-sample-tiny-lora-k20-seed1", "stsb-sample-tiny-ft-k20-seed2"}
    assert all(entry["seconds"] > 0 for entry in times)
    assert not list((whole / "runs").iterdir())


@pytest.mark.slow
def test_a_run_of_a_sweep_is_the_run_alone(whole, tmp_path):
    for run, record in read_results(whole / "results.jsonl")[-4:]:
        alone = experiment.run_experiment(experiment.prepare(run), experiment.new_folder(run, tmp_path))
        assert alone["results"]["test"] == record["results"]["test"]
        assert alone["results"]["gates"] == record["results"]["gates"]
        assert alone["parameters"] == record["parameters"]


@pytest.mark.slow
def test_running_again_does_nothing(whole, tiny_base):
    before = (whole / "results.jsonl").read_bytes()
    assert main(["sweep", *TWO_TASKS, "--model", str(tiny_base), "--out", str(whole)]) == 0
    assert (whole / "results.jsonl").read_bytes() == before


@pytest.mark.slow
def test_runs_are_kept_where_that_is_asked(tiny_base, tmp_path):
    assert main(["sweep", *ONE_RUN, "--model", str(tiny_base), "--out", str(tmp_path), "--keep-runs"]) == 0
    run, results, _, _ = experiment.load_run(tmp_path / "runs/sst2-sample-tiny-lora-k20-seed1")
    (line,) = read_results(tmp_path / "results.jsonl")
    assert run == line.run and results["test"] == line.record["results"]["test"]


@pytest.mark.slow
def test_threads_are_those_that_were_asked_for(tiny_base, tmp_path):
    before = torch.get_num_threads()
    try:
        command = ["sweep", *ONE_RUN, "--model", str(tiny_base), "--out", str(tmp_path), "--threads", "2"]
        assert main(command) == 0
    finally:
        torch.set_num_threads(before)
    (line,) = read_results(tmp_path / "results.jsonl")
    assert line.record["threads"] == 2


@pytest.mark.slow
def test_a_dry_run_lists_and_trains_nothing(whole, tiny_base, tmp_path, capsys):
    command = ["sweep", *TWO_TASKS, "--model", str(tiny_base), "--dry-run", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.count("at most") == NUM_RUNS + 1 and "12 of 12 runs to do" in out
    assert not (tmp_path / "out").exists()
    assert main([*command, str(whole)]) == 0
    assert "0 of 12 runs to do" in capsys.readouterr().out


# ---- own data


@pytest.fixture
def own_files(tmp_path):
    """The options for a training, a dev and a test file of one's own; a line of the first is no row."""
    for name, size in (("train", 12), ("dev", 6), ("test", 4)):
        rows = "".join(f"text {number},{'yes' if number % 2 else 'no'}\n" for number in range(size))
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows + ("bad,row,here\n" if name == "train" else ""))
    files = [f"--{name}={tmp_path / name}.csv" for name in ("train", "dev", "test")]
    return [*files, "--name", "mine", "--skip-bad-rows"]


OWN_RECIPE = ["--methods", "lora,ft", "--seeds", "2", "--epochs", "1", "--max-length", "24", "--device", "cpu"]


@pytest.mark.slow
def test_own_data_from_the_sweep_to_the_picture(own_files, tiny_base, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["sweep", *own_files, *OWN_RECIPE, "--model", str(tiny_base), "--keep-runs", "--out", str(out)]
    assert main([*command, "--dry-run"]) == 0
    assert "4 of 4 runs to do" in capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out.count("1 bad row skipped") == 1  # a file is read once
    assert main(command) == 0  # nothing is left to do
    records = [line.record for line in read_results(out / "results.jsonl")]
    assert len(records) == 4
    assert records[0]["rows"] == {"train": 12, "validation": 6, "test": 4}
    assert set(records[0]["results"]["test"]) == {"accuracy", "macro_f1"}

    folder = out / "runs/mine-tiny-lora-seed1"
    assert main(["train", "--eval", str(folder)]) == 0
    recorded = records[0]["results"]["test"]["macro_f1"]
    assert f"{recorded!r} (recorded: {recorded!r})" in capsys.readouterr().out
    assert main(["report", str(out)]) == 0
    text = (out / "report.md").read_text()
    assert "4 runs on " in text and "tiny and own files" in text
    assert "| method | parameters | mine-tiny<br>accuracy" in text
    pytest.importorskip("matplotlib")
    folders = [str(folder) for folder in sorted((out / "runs").iterdir())]
    for kind in ("compare", "curve"):
        picture = tmp_path / f"{kind}.svg"
        assert main(["plot", *folders, "--kind", kind, "--out", str(picture)]) == 0
        assert "mine-tiny-ft-seed2" in picture.read_text()


@pytest.mark.slow
def test_a_name_is_of_one_set_of_files(own_files, tiny_base, tmp_path, capsys):
    command = ["sweep", *OWN_RECIPE, "--methods", "lora", "--seeds", "1", "--model", str(tiny_base)]
    command += ["--out", str(tmp_path / "out")]
    assert main([*command, *own_files]) == 0
    train, *others = own_files
    (tmp_path / "other.csv").write_text((tmp_path / "train.csv").read_text())
    assert main([*command, f"--train={tmp_path}/other.csv", *others]) == 2
    err = capsys.readouterr().err
    assert "has runs of mine with files train " in err and "expected another --out" in err
    assert len(read_results(tmp_path / "out/results.jsonl")) == 1


@pytest.mark.parametrize("arguments, message", [
    (["--train", "x.csv", "--tasks", "sst2"], "--tasks and --train: expected one of them"),
    (["--train", "x.csv", "--glue", "glue"], "--glue has no effect on your own files"),
    (["--train", "x.csv", "--valid-rows", "9"], "--valid-rows has no effect on your own files"),
    (["--dev", "x.csv", "--regression"], "--dev, --regression: these belong to --train, for your own files"),
])
def test_options_that_do_not_go_with_own_files(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--methods", "lora", *arguments])
    assert message in capsys.readouterr().err


# ---- wrong input


@pytest.mark.parametrize("arguments, message", [
    (["--tasks", "wnli", "--methods", "ft"], "unknown task 'wnli'"),
    (["--methods", "ft", "--k", "many"], "--k many: expected a number of training rows, or all"),
    (["--methods", "ft", "--k", "100000"], "leaves none for validation"),
    (["--methods", "ft", "--glue", "nowhere"], "no such file"),
    (["--methods", "top", "--top-layers", "9"], "top_layers is 9; "),
    (["--methods", "ft", "--max-length", "1000"], "has 128 positions"),
])
def test_wrong_input_is_found_before_anything_is_written(tmp_path, monkeypatch, capsys, tiny_base, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--model", str(tiny_base), "--max-length", "24", *arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err
    assert not Path("results").exists()


@pytest.mark.slow
def test_another_protocol_wants_another_folder(whole, tiny_base, capsys):
    assert main(["sweep", *TWO_TASKS, "--model", str(tiny_base), "--out", str(whole), "--epochs", "3"]) == 2
    assert "has runs of sst2 with epochs 2; for 3, expected another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_folder_is_made_once(tiny_base, tmp_path, monkeypatch):
    made, real = [], Path.mkdir

    def mkdir(path, *rest, **options):
        made.append(path)
        return real(path, *rest, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    out = tmp_path / "out"
    assert main(["sweep", *ONE_RUN, "--model", str(tiny_base), "--out", str(out)]) == 0
    assert made.count(out) == 1


@pytest.mark.slow
def test_one_run_with_one_thread_is_said_so(tiny_base, tmp_path, capsys):
    command = ["sweep", *ONE_RUN, "--model", str(tiny_base), "--threads", "1", "--out", str(tmp_path)]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 run to do: at most" in out and out.endswith("; cpu, 1 thread\n")
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 run on record in ")


def test_an_unwritable_folder_is_found_before_the_first_run(tiny_base, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["sweep", *ONE_RUN, "--model", str(tiny_base), "--out", str(tmp_path / "file")]) == 2
    assert "file: file exists; expected a folder that can be made" in capsys.readouterr().err


# ---- kills


@pytest.mark.slow
def test_a_killed_and_resumed_sweep_equals_an_uninterrupted_one(whole, tiny_base, tmp_path):
    """SIGKILL after the second run; a half-written line is left behind as well."""
    command = [sys.executable, "-m", "minipelt", "sweep", *TWO_TASKS, "--model", str(tiny_base), "--out", "out"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **quiet)
    path = tmp_path / "out/results.jsonl"
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= path.read_bytes().count(b"\n") < NUM_RUNS
    with open(path, "ab") as file:
        file.write(b'{"run": {"task": "ss')
    launch(command, tmp_path)
    assert lines(tmp_path / "out") == lines(whole)


@pytest.fixture
def leave_a_run(tiny_base):
    """A function that leaves the run of ONE_RUN in a sweep's folder as a kill after its first epoch does."""
    def leave(out):
        command = ["--model", str(tiny_base), "--out", str(out), *ONE_RUN]
        (run,) = grid(make_parser("sweep").parse_args(command))
        folder = out / "runs" / run.name
        folder.mkdir(parents=True)

        with pytest.raises(KeyboardInterrupt):
            options = {"say": interrupt_at(1), "resume": False, "save_seconds": 0}
            experiment.run_experiment(experiment.prepare(run), folder, **options)
        assert (folder / "resume.safetensors").is_file()

    return leave


@pytest.fixture
def resumed(monkeypatch):
    """A list of whether each run of a sweep, from now on, goes on with what a kill left."""
    found = []
    real = experiment.run_experiment

    def watch(prepared, folder, **options):
        found.append(options["resume"])
        return real(prepared, folder, **options)

    monkeypatch.setattr(experiment, "run_experiment", watch)
    return found


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_killed(leave_a_run, tiny_base, tmp_path, resumed):
    leave_a_run(tmp_path / "killed")
    resumed.clear()
    command = ["sweep", *ONE_RUN, "--model", str(tiny_base), "--keep-runs", "--out"]
    assert main([*command, str(tmp_path / "killed")]) == 0
    assert main([*command, str(tmp_path / "fresh")]) == 0
    assert resumed == [True, False]
    assert_same_run(tmp_path / "killed", tmp_path / "fresh")


@pytest.mark.slow
def test_a_run_s_leftovers_are_used_only_by_the_same_run(leave_a_run, tiny_base, tmp_path, monkeypatch, resumed):
    """Another run of the same name, with more epochs, begins anew; it is killed, too, before its first epoch ended."""
    leave_a_run(tmp_path / "killed")
    resumed.clear()
    command = ["sweep", *ONE_RUN, "--epochs", "4", "--model", str(tiny_base), "--keep-runs", "--out"]
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train", interrupt)
        assert main([*command, str(tmp_path / "killed")]) == 130
    assert main([*command, str(tmp_path / "killed")]) == 0
    assert main([*command, str(tmp_path / "fresh")]) == 0
    assert resumed == [False, False, False]
    assert_same_run(tmp_path / "killed", tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("name, damage", [
    ("run.json", lambda data: b"[]"),
    ("run.json", lambda data: data[:50]),
    ("run.json", lambda data: data.replace(b'"lora"', b'"lorra"')),
    ("resume.safetensors", lambda data: data[:-10]),
    ("resume.safetensors", lambda data: data.replace(b"score", b"secor")),
    ("trained.safetensors", lambda data: data[:100]),
])
def test_damaged_leftovers_are_begun_anew(leave_a_run, tiny_base, tmp_path, name, damage):
    leave_a_run(tmp_path / "killed")
    (folder,) = (tmp_path / "killed/runs").iterdir()
    data = (folder / name).read_bytes()
    assert damage(data) != data
    (folder / name).write_bytes(damage(data))
    command = ["sweep", *ONE_RUN, "--model", str(tiny_base), "--keep-runs", "--out"]
    assert main([*command, str(tmp_path / "killed")]) == 0
    assert main([*command, str(tmp_path / "fresh")]) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "fresh")


def assert_same_run(one, other):
    """The folders of two sweeps over one run hold the same line, and the same trained tensors."""
    assert lines(one) == lines(other)
    trained = "runs/sst2-sample-tiny-lora-k20-seed1/trained.safetensors"
    assert (one / trained).read_bytes() == (other / trained).read_bytes()


def test_an_interrupt_says_how_to_go_on(tiny_base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chapter, "do_run", interrupt)
    assert main(["sweep", *ONE_RUN, "--model", str(tiny_base), "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err


# ---- failures


@pytest.mark.slow
def test_a_failed_run_is_recorded_and_the_others_go_on(tiny_base, tmp_path, monkeypatch, capsys):
    real = experiment.train

    def fail_for_lora(model, *rest):
        if model.method.name == "lora":
            raise RuntimeError("out of something")
        return real(model, *rest)

    command = ["sweep", *ONE_RUN, "--methods", "lora,apl", "--model", str(tiny_base), "--out", str(tmp_path)]
    path = tmp_path / "results.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train", fail_for_lora)
        assert main(command) == 1
    assert "failed: RuntimeError('out of something')" in capsys.readouterr().out
    lines = read_results(path)
    assert [(run.method.name, "error" in record) for run, record in lines] == [("lora", True), ("apl", False)]
    assert main(command) == 0 and read_results(path) == lines  # a failure is not tried again by itself
    assert main([*command, "--methods", "apl", "--retry-failed"]) == 0
    assert read_results(path) == lines  # nor is it forgotten by a sweep that does not hold it
    assert main([*command, "--retry-failed"]) == 0
    assert not any("error" in line.record for line in read_results(path))


@pytest.mark.slow
def test_a_disk_that_fails_stops_the_sweep(tiny_base, tmp_path, monkeypatch, capsys):
    """Were it recorded as a failure of the run, the whole grid would fail in seconds."""
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experiment, "run_experiment", no_space)
    assert main(["sweep", *ONE_RUN, "--model", str(tiny_base), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "No space left on device; the sweep stops here, and the same command goes on with it" in err
    assert not read_results(tmp_path / "results.jsonl")


# ---- several processes


@pytest.mark.slow
def test_two_processes_equal_one(whole, tiny_base, tmp_path):
    command = [*TORCHRUN, "-m", "minipelt", "sweep", *TWO_TASKS, "--model", str(tiny_base), "--out", "out"]
    printed = launch(command, tmp_path)
    assert lines(tmp_path / "out") == lines(whole)
    assert sorted(map(int, re.findall(r"^ *(\d+) of 12 ", printed, flags=re.MULTILINE))) == list(range(1, 13))


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_other_process(tiny_base, tmp_path):
    """One process works for long; the other fails twice at once, and waits: torchrun stops all when one ends badly."""
    (tmp_path / "failing.py").write_text(FAILING_SWEEP)
    arguments = [*ONE_RUN, "--lr", "1e-3,9,8", "--model", str(tiny_base), "--out", "out"]
    command = [*TORCHRUN, str(tmp_path / "failing.py"), "sweep", *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode and "3 runs on record" in result.stdout
    errors = [line.record.get("error", "") for line in read_results(tmp_path / "out/results.jsonl")]
    assert sorted(errors) == ["", "RuntimeError('too hot')", "RuntimeError('too hot')"]


def test_each_number_is_claimed_once():
    workers = chapter.Workers()
    assert list(workers.claims(3)) == [0, 1, 2]
    assert list(workers.claims(5)) == [4]  # as where another process came to its end: number 3 was asked for


# ---- estimates


def test_a_run_costs_what_goes_through_the_encoder(tiny_base, monkeypatch):
    """Rows of 24 tokens at most; K = 20 rows train twice forward and back, 20 validate, all of dev tests once."""
    def runs(*more):
        return grid(make_parser("sweep").parse_args([*ONE_RUN, "--model", str(tiny_base), *more]))

    shared = chapter.Shared()
    (lora,) = runs()
    length, dev_length = shared.mean_length(lora, "train"), shared.mean_length(lora, "dev")
    assert 8 < length < 24 and 8 < dev_length <= 24
    test = 132 * dev_length
    methods = {"lora": 2, "ft": 3, "head": 1, "side": 1, "lora+side": 2, "lora+top": 3, "ia3": 4}
    monkeypatch.setitem(PARTS, "ia3", replace(PARTS["ia3"], passes=4))  # a row of the table is enough
    for method, passes in methods.items():
        (run,) = runs("--methods", method)
        assert chapter.cost(run, shared) == pytest.approx(2 * (20 * length * passes + 20 * length) + test)
    (whole_file,) = runs("--k", "all")
    assert chapter.cost(whole_file, shared) == pytest.approx(2 * (264 * length * 2 + test) + test)


def test_a_second_sweep_in_one_folder_is_refused(tiny_base, tmp_path, capsys):
    """It says so, and records nothing."""
    with alone_in(tmp_path):
        assert main(["sweep", *ONE_RUN, "--model", str(tiny_base), "--out", str(tmp_path)]) == 2
    assert "another process is at work there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
