"""results/peers/peers.py: the libraries' runs stand beside minipelt's of the same settings, and beside no others."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers import call_script, load_script

import minipelt.paper
from minipelt.paper.results import settings

FOLDER = Path(minipelt.paper.__file__).parent / "results/peers"


@pytest.fixture
def script():
    """peers.py, which lies outside the package."""
    return load_script(FOLDER / "peers.py")


def line_of(run, score, **more):
    """A made-up line."""
    return json.dumps({"run": asdict(settings(run)), "results": {"test": {run.spec.metrics[0]: score}}, **more}) + "\n"


def test_the_committed_table_comes_out_again(script, monkeypatch, tmp_path):
    (tmp_path / "peers.jsonl").write_bytes((FOLDER / "peers.jsonl").read_bytes())
    call_script(script, monkeypatch, "--table", "--out", tmp_path / "peers.jsonl")
    assert (tmp_path / "peers.md").read_text("utf-8") == (FOLDER / "peers.md").read_text("utf-8")


def test_the_results_page_has_the_committed_table():
    page = (FOLDER.parent / "README.md").read_text("utf-8")
    rows = [line for line in (FOLDER / "peers.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 8 and "\n".join(rows) in page


def test_differences_are_paired_by_seed(script, monkeypatch, tmp_path):
    """Of minipelt's lines those with other settings, a lower rate here, do not count."""
    runs = [script.run_of("sst2", "lora", seed, "anywhere") for seed in (1, 2, 3)]
    slower = [replace(run, recipe=replace(run.recipe, learning_rate=1e-4)) for run in runs]
    ours = [line_of(run, score) for run, score in zip(runs, (0.75, 0.50, 0.25), strict=True)]
    ours += [line_of(run, 0.9) for run in slower]
    versions = {"torch": "2", "peft": "0.1"}
    theirs = [line_of(run, score, versions=versions) for run, score in zip(runs[:2], (0.75, 0.70), strict=True)]
    (tmp_path / "ours.jsonl").write_text("".join(ours))
    (tmp_path / "peers.jsonl").write_text("".join(theirs))
    call_script(script, monkeypatch, "--table", "--out", tmp_path / "peers.jsonl", "--ours", tmp_path / "ours.jsonl")
    row = "| sst2 | `lora` | 62.50<sub>17.7</sub> | peft 0.1 | 72.50<sub>3.5</sub> | -10.00 | 0.50 | 2 |"
    assert row in (tmp_path / "peers.md").read_text("utf-8")


def test_a_run_that_is_not_in_the_sweep_is_named(script, monkeypatch, tmp_path):
    run = script.run_of("stsb", "ft", 7, "anywhere")
    sweep = tmp_path / "ours.jsonl"
    sweep.write_text("")
    (tmp_path / "peers.jsonl").write_text(line_of(run, 0.5, versions={"torch": "2", "peft": "0.1"}))
    with pytest.raises(script.InputError, match="ours.jsonl: no stsb-ft-k500-seed7 "):
        call_script(script, monkeypatch, "--table", "--out", tmp_path / "peers.jsonl", "--ours", sweep)
