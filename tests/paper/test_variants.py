"""results/variants/variants.py: what is on record is read, and not done again, whatever a kill left behind."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers import call_script, load_script

import minipelt.paper
from minipelt.errors import InputError
from minipelt.paper.results import read_results, settings
from minipelt.settings import Method, Recipe, Run

FOLDER = Path(minipelt.paper.__file__).parent / "results/variants"


@pytest.fixture
def chapter():
    """variants.py, which lies outside the package."""
    return load_script(FOLDER / "variants.py")


def line_of(task, name, seed, glue="glue", validation=0.5, k=100):
    """A made-up line of variants.jsonl."""
    run = Run(task, Method("apl"), Recipe(1e-3, seed=seed), glue=glue, k=k)
    return {"variant": name, "task": task, "seed": seed, "validation": validation, "run": asdict(settings(run))}


def test_every_run_on_record_is_in_the_table(chapter, monkeypatch, capsys):
    call_script(chapter, monkeypatch, "--table")
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("| variant | ") and header.endswith(" | minus `apl` | p | seeds |")
    shown = {row.split(" | ")[0].removeprefix("| ") for row in rows if row.count("<sub>")}
    assert shown == {record["variant"] for _, record in read_results(FOLDER / "variants.jsonl")}


def test_the_results_page_has_the_table(chapter, monkeypatch, capsys):
    call_script(chapter, monkeypatch, "--table")
    assert capsys.readouterr().out.strip() in (FOLDER.parent / "README.md").read_text("utf-8")


def test_the_table(chapter, monkeypatch, tmp_path, capsys):
    scores = {("apl", 1): 0.5, ("apl", 2): 0.6, ("al", 1): 0.6, ("al", 2): 0.7, ("fast gates", 1): 0.25}
    lines = [line_of("sst2", name, seed, validation=score) for (name, seed), score in scores.items()]
    (tmp_path / "variants.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    call_script(chapter, monkeypatch, "--table", "--out", tmp_path / "variants.jsonl")
    shown = capsys.readouterr().out
    for row in ("| apl | 55.0<sub>7.1</sub> | +0.0 | 1.00 | 2 |", "| al | 65.0<sub>7.1</sub> | +10.0 | 0.00 | 2 |",
                "| fast gates | 25.0<sub>--</sub> | -25.0 | -- | 1 |"):
        assert row in shown
    assert "lora" not in shown  # it has no run


def test_a_killed_command_goes_on_where_it_was(chapter, monkeypatch, tmp_path):
    """A line that a kill cut off is dropped, and its run done again; the others stay as they are."""
    path = tmp_path / "out/variants.jsonl"
    path.parent.mkdir()
    first = json.dumps(line_of("stsb", "al", 1)) + "\n"
    path.write_text(first + '{"variant": "apl", "ta')
    did = []

    def do_run(task, name, seed, args):
        did.append((task, name, seed))
        return line_of(task, name, seed, args.glue)

    monkeypatch.setattr(chapter, "do_run", do_run)
    for _ in range(2):
        call_script(chapter, monkeypatch, "--tasks", "stsb", "--variants", "al", "apl", "--seeds", "2", "--out", path)
    assert did == [("stsb", "apl", 1), ("stsb", "al", 2), ("stsb", "apl", 2)]
    assert path.read_text().startswith(first) and len(read_results(path)) == 4


def test_a_file_holds_one_k(chapter, monkeypatch, tmp_path):
    path = tmp_path / "variants.jsonl"
    path.write_text(json.dumps(line_of("sst2", "apl", 1, k=500)) + "\n")
    monkeypatch.setattr("sys.argv", ["variants.py", "--out", str(path)])
    with pytest.raises(InputError, match="has runs with K = 500; expected a file of its own for K = 100"):
        chapter.main()
    assert len(read_results(path)) == 1
