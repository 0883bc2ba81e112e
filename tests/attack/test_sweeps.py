"""A sweep dies at random moments and at every file operation; the same command ends with the same lines."""

import shutil

import pytest
from attack.machinery import TALLY, disk, run, some, times, write_glue

from minipelt.checkpoint import load_tensors
from minipelt.files import read_lines


@pytest.fixture
def command(shared_base, tmp_path):
    """The command line of a sweep of three runs, without --out."""
    glue = write_glue(tmp_path / "glue")
    grid = ["--tasks", "rte", "--methods", "lora,bitfit", "apl", "--k", "10", "--seeds", "1", "--epochs", "3"]
    sizes = ["--batch-size", "4", "--max-length", "16", "--lr", "0.02", "--device", "cpu"]
    return ["sweep", *grid, *sizes, "--model", shared_base, "--glue", glue, "--keep-runs"]


@pytest.fixture
def whole(command, tmp_path):
    """The folder of a sweep that nothing disturbed."""
    assert run(*command, "--out", tmp_path / "whole")[0] == 0
    return tmp_path / "whole"


def tensors_of(out):
    """{run: bytes} of the trained tensors that a sweep kept."""
    return {path.parent.name: path.read_bytes() for path in out.glob("runs/*/trained.safetensors")}


def assert_goes_on(command, out, whole):
    """What is left is whole; the same command then ends with the lines and tensors of the undisturbed sweep."""
    for path in out.glob("runs/*/*.safetensors"):
        load_tensors(path)
    code, _, err = run(*command, "--out", out)
    assert code == 0, err
    assert sorted(read_lines(out / "results.jsonl")) == sorted(read_lines(whole / "results.jsonl"))
    assert tensors_of(out) == tensors_of(whole)
    assert not list(out.rglob("*.part"))


def test_dead_at_a_file_operation(command, whole, tmp_path, dice):
    with disk.dying_after(tmp_path / "count", 10**9):
        assert run(*command, "--out", tmp_path / "count")[0] == 0
    assert disk.count > 40
    for point in some(range(disk.count), dice):
        out = tmp_path / f"dead-{point}"
        with disk.dying_after(out, point):
            run(*command, "--out", out)
        disk.cut(dice)
        TALLY["crashes of sweeps at file operations"] += 1
        assert_goes_on(command, out, whole)
        shutil.rmtree(out)


def test_killed_at_random_moments(command, whole, tmp_path, dice, killer):
    """Some twice."""
    code, seconds = killer.run([*command, "--out", tmp_path / "time"])
    assert code == 0
    killed = 0
    while killed < times(2):
        out = tmp_path / f"killed-{killed}"
        code, _ = killer.run([*command, "--out", out], dice.uniform(0, seconds))
        if code == -9 and dice.random() < 0.3:
            killer.run([*command, "--out", out], dice.uniform(0, seconds))
        if code == -9:
            killed += 1
            TALLY["sweeps killed with SIGKILL"] += 1
            assert_goes_on(command, out, whole)
        shutil.rmtree(out, ignore_errors=True)
