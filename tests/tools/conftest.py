"""Fixtures of the tools' tests: trained tiny runs, and the one door to all commands."""

from dataclasses import asdict, replace

import pytest
from helpers import disturb, tiny_run

from minipelt.__main__ import main
from minipelt.checkpoint import save_tensors, trained_tensors
from minipelt.experiment import build, new_folder
from minipelt.files import save_json
from minipelt.settings import Data


@pytest.fixture
def trained(tiny_folder, tmp_path):
    """trained("sst2", "lora") -> a run folder on the tiny base; what trains has random values, no time is spent.

    data: a settings.Data in place of the task's sample rows; settings: fields of Method.
    """

    def make(task="sst2", method="lora", data=None, **settings):
        run = tiny_run(tiny_folder, task, method, data=data)
        run = replace(run, method=replace(run.method, **settings))
        model, _ = build(run, "cpu")
        disturb(model)
        folder = new_folder(run, tmp_path / "runs")
        save_tensors(trained_tensors(model), folder / "trained.safetensors")
        save_json({"run": asdict(run)}, folder / "run.json")
        return folder

    return make


@pytest.fixture
def own_data(tmp_path):
    """Six rows with two texts and three classes in a CSV file: columns first, second and topic."""
    path = tmp_path / "own.csv"
    rows = ["a,b", '"c, d",e', "f,g", "h,i", "j,k", "l,m"]
    topics = ["art", "law", "sea"] * 2
    lines = [f"{row},{topic}\n" for row, topic in zip(rows, topics, strict=True)]
    path.write_text("first,second,topic\n" + "".join(lines))
    return Data(str(path), str(path), text="first", text_b="second", label="topic", labels=("art", "law", "sea"))


@pytest.fixture
def command(capsys):
    """command("predict", ...) -> (exit code, standard output, standard error) of `python -m minipelt predict ...`."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
