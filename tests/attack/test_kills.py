"""A training run dies at random moments and at every file operation; gone on with, it ends as if nothing had been."""

import json
import re
import shutil

import pytest
from attack.machinery import TALLY, disk, options, run, some, times, without_seconds, write_rows

from minipelt.checkpoint import load_tensors
from minipelt.settings import PARTS

METHODS = [*PARTS, "apl"]
FINAL = ["metrics.jsonl", "run.json", "trained.safetensors"]


@pytest.fixture
def command(request, shared_base, tmp_path):
    """The command line of a run of the test's method, without --out."""
    train, dev = write_rows(tmp_path, "train.csv"), write_rows(tmp_path, "dev.csv", 12)
    method = request.node.callspec.params["method"]
    return options(method, shared_base, train, dev, epochs=5, lr=0.02)


@pytest.fixture
def whole(command, tmp_path):
    """The folder of a run that nothing disturbed."""
    assert run(*command, "--out", tmp_path / "whole")[0] == 0
    (folder,) = (tmp_path / "whole").iterdir()
    return folder


def saved_epochs(folder):
    """How many epochs a resume file holds; 0 without one."""
    path = folder / "resume.safetensors"
    return len(json.loads(load_tensors(path)[1]["reports"])) if path.is_file() else 0


def check_what_is_left(folder):
    """After a death: every file but the log and what is being written is whole; no best epoch is lost."""
    for path in folder.glob("*.safetensors"):
        load_tensors(path)
    if (folder / "run.json").is_file():
        json.loads((folder / "run.json").read_text())
    if (folder / "metrics.jsonl").is_file():
        lines = (folder / "metrics.jsonl").read_text().split("\n")[:-1]  # the last one may have been cut off
        if (folder / "resume.safetensors").is_file():
            assert max([0, *(json.loads(line)["best_epoch"] for line in lines)]) <= saved_epochs(folder)


def is_finished(folder):
    """Whether a run has its results."""
    return "results" in json.loads((folder / "run.json").read_text())


def go_on(command, out):
    """What a user does after a death: go on with the run's folder, or begin again if there is none yet.

    Returns the folder.
    """
    folders = [path for path in out.glob("*") if (path / "run.json").is_file()]
    if not folders:
        shutil.rmtree(out, ignore_errors=True)
        assert run(*command, "--out", out)[0] == 0
        return next(out.iterdir())
    (folder,) = folders
    check_what_is_left(folder)
    if is_finished(folder):  # it died between the results and the removal of the resume file
        (folder / "resume.safetensors").unlink(missing_ok=True)
        return folder
    done = saved_epochs(folder)
    code, said, err = run("train", "--resume", folder)
    assert code == 0, err
    assert [int(number) for number in re.findall(r"^epoch +(\d+)", said, re.MULTILINE)] == list(range(done + 1, 6))
    return folder


def assert_same(folder, whole):
    """Tensors, epoch reports and record are those of the undisturbed run, and no other file is left."""
    assert sorted(path.name for path in folder.iterdir()) == FINAL
    assert (folder / "trained.safetensors").read_bytes() == (whole / "trained.safetensors").read_bytes()
    for name in ("metrics.jsonl", "run.json"):
        assert without_seconds(folder / name) == without_seconds(whole / name)


@pytest.mark.parametrize("method", METHODS)
def test_dead_at_a_file_operation(method, command, whole, tmp_path, dice):
    """Before each of them, and in the middle of each writing; some die a second time on the way."""
    with disk.dying_after(tmp_path / "count", 10**9):
        assert run(*command, "--out", tmp_path / "count")[0] == 0
    assert disk.count > 15
    for point in some(range(disk.count), dice):
        out = tmp_path / f"dead-{point}"
        with disk.dying_after(out, point):
            run(*command, "--out", out)
        disk.cut(dice)
        (folder,) = out.glob("*/") if out.is_dir() and list(out.iterdir()) else [None]
        if folder and (folder / "run.json").is_file() and dice.random() < 0.3:
            check_what_is_left(folder)
            with disk.dying_after(out, dice.randrange(20)):
                run("train", "--resume", folder)
            disk.cut(dice)
        assert_same(go_on(command, out), whole)
        TALLY["crashes of training runs at file operations"] += 1
        shutil.rmtree(out)


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_moments(method, command, whole, tmp_path, dice, killer):
    code, seconds = killer.run([*command, "--out", tmp_path / "time"])
    assert code == 0
    killed = 0
    while killed < times(1):
        out = tmp_path / f"killed-{killed}"
        code, _ = killer.run([*command, "--out", out], dice.uniform(0, seconds))
        if code == -9:
            killed += 1
            TALLY["training runs killed with SIGKILL"] += 1
            assert_same(go_on(command, out), whole)
        shutil.rmtree(out, ignore_errors=True)
