"""gatestudy.py: what constants in the gates' place give, by algebra; which runs are measured, and once each."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers import disturb, tiny_run

from minipelt import experiment
from minipelt.__main__ import main
from minipelt.checkpoint import save_tensors, trained_tensors
from minipelt.experiment import load_run, prepare
from minipelt.files import save_json
from minipelt.gate import Gate, force_gates, record_gates
from minipelt.glue import get_task
from minipelt.loop import predict
from minipelt.paper import gatestudy as chapter
from minipelt.paper.results import read_results
from minipelt.settings import Data, Recipe


def finished(folder, run, change=disturb):
    """Write the folder of a run that ended, without training it: `change` moves its model. Returns the test rows."""
    _, model, rows = prepare(run)
    change(model)
    folder.mkdir(parents=True)
    save_tensors(trained_tensors(model), folder / "trained.safetensors")
    results = {"test": {run.spec.metrics[0]: 0.5}, "gates": {}}
    save_json({"run": asdict(run), "rows": {"test": len(rows["test"])}, "results": results}, folder / "run.json")
    return rows["test"]


def constant_gates(model):
    """Move what trains, but leave every gate at sigmoid(0), whatever it reads."""
    disturb(model)
    for module in model.modules():
        if isinstance(module, Gate):
            torch.nn.init.zeros_(module.linear.weight)
            torch.nn.init.zeros_(module.linear.bias)


def small_run(tiny_folder, task="sst2", method="apl", seed=1):
    """The settings of a run on the sample rows."""
    run = tiny_run(tiny_folder, task, method, k=8, valid_rows=1)
    return replace(run, recipe=Recipe(1e-3, seed=seed))


# ---- one run


@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_gates_that_read_nothing(tiny_folder, tmp_path, task):
    """They have no spread, and their own mean, one half, is what they are: the same answers to the bit."""
    rows = finished(tmp_path / "run", small_run(tiny_folder, task), constant_gates)
    line = chapter.measure(tmp_path / "run")
    assert line["rows"] == len(rows)
    for layers in line["gates"].values():
        assert layers == {"mean": [0.5] * 3, "deviation": [0.0] * 3}
    for what in ("own mean", "one half"):
        assert line["replaced"][what] == {"scores": line["scores"], "changed": 0.0}
    if task == "stsb":
        assert line["replaced"]["one"]["changed"] > 0.001


def test_the_line_is_that_of_the_trained_run(tiny_folder, tmp_path):
    """The score is the run's, the gates' means are those of its record, and each one's deviation is over sentences."""
    rows = finished(tmp_path / "run", small_run(tiny_folder))
    run, _, model, _ = load_run(tmp_path / "run")
    tested = experiment.test(model, run.spec, rows)
    line = chapter.measure(tmp_path / "run")
    assert line["scores"] == tested["test"]
    for submodule, means in tested["gates"].items():
        assert line["gates"][submodule]["mean"] == pytest.approx(means, abs=1e-6)
    with record_gates(model) as recorded:
        predict(model, rows)
    assert_start_is_that_of_the_run(line, run, rows)
    values = torch.cat(recorded["bert.encoder.layer.2.adapter.gate"])
    assert len(values) == len(rows)
    assert line["gates"]["adapter"]["deviation"][2] == pytest.approx(values.std().item(), rel=1e-4) != 0


def assert_start_is_that_of_the_run(line, run, rows):
    """The gates of the model that `prepare` gives before it trains."""
    tested = experiment.test(prepare(run).model, run.spec, rows)
    for submodule, means in tested["gates"].items():
        assert line["start"][submodule]["mean"] == pytest.approx(means, abs=1e-6)
        assert line["start"][submodule] != line["gates"][submodule]


@pytest.mark.slow
def test_every_case_is_what_force_gates_gives(tiny_folder, tmp_path):
    rows = finished(tmp_path / "run", small_run(tiny_folder, "stsb"))
    run, _, model, _ = load_run(tmp_path / "run")
    as_is = predict(model, rows)
    line = chapter.measure(tmp_path / "run")
    forced = {
        "one half": {"all": 0.5}, "one": {"all": 1}, "no prefix": {"prefix": 0}, "no adapter": {"adapter": 0},
        "no lora": {"lora_query": 0, "lora_value": 0},
    }
    assert line["replaced"].keys() == {"own mean", *forced}
    distances = set()
    for what, values in forced.items():
        with force_gates(model, values):
            logits = predict(model, rows)
        found = line["replaced"][what]
        assert found["scores"] == experiment.score(run.spec, logits, rows.labels)
        assert found["changed"] == pytest.approx((logits - as_is).abs().mean().item(), rel=1e-5)
        distances.add(found["changed"])
    assert len(distances) == 5 and 0 not in distances


def test_own_means_are_a_constant_a_gate(tiny_folder, tmp_path):
    rows = finished(tmp_path / "run", small_run(tiny_folder))
    _, _, model, _ = load_run(tmp_path / "run")
    with record_gates(model) as recorded:
        predict(model, rows)
    gates = {name: torch.cat(values) for name, values in recorded.items()}
    values = chapter.replacements(model, gates)["own mean"]
    with force_gates(model, values), record_gates(model) as forced:
        predict(model, rows)
    assert len(forced) == 12
    for name, constant in forced.items():
        assert torch.cat(constant).unique().tolist() == pytest.approx([gates[name].mean().item()])
    assert len({round(value, 6) for value in values.values()}) == 12


def test_spread_is_by_submodule_and_layer():
    gates = {
        "bert.encoder.layer.0.adapter.gate": torch.tensor([0.1, 0.3]),
        "bert.encoder.layer.1.adapter.gate": torch.tensor([0.6, 0.6]),
        "bert.encoder.layer.0.attention.self.prefix.gate": torch.tensor([0.0, 1.0]),
    }
    found = chapter.spread(gates)
    assert found["adapter"]["mean"] == pytest.approx([0.2, 0.6])
    assert found["adapter"]["deviation"] == pytest.approx([0.02**0.5, 0.0])
    assert found["prefix"] == {"mean": [0.5], "deviation": [pytest.approx(0.5**0.5)]}


def test_what_counts_as_a_change():
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    others = torch.tensor([[0.0, 9.0], [0.0, 1.0], [4.0, 3.0], [1.0, 0.9]])
    assert chapter.count_changes(get_task("sst2"), logits, others) == 0.5
    assert chapter.count_changes(get_task("stsb"), logits[:, :1], others[:, :1]) == 1.5


def test_other_test_rows_are_refused(tiny_folder, tmp_path):
    finished(tmp_path / "run", small_run(tiny_folder))
    record = json.loads((tmp_path / "run/run.json").read_text())
    save_json(record | {"rows": {"test": 872}}, tmp_path / "run/run.json")
    with pytest.raises(chapter.InputError, match="was tested on 872 rows; found 132; expected the same files"):
        chapter.measure(tmp_path / "run")
    record["fingerprints"] = {"base": None, "train": None, "test": "0" * 16}
    save_json(record, tmp_path / "run/run.json")
    with pytest.raises(chapter.InputError, match="was tested on other rows than are there now"):
        chapter.measure(tmp_path / "run")


# ---- the command


@pytest.fixture
def two_runs(tiny_folder, tmp_path):
    """Two finished runs, seeds 1 and 2."""
    folders = [str(tmp_path / f"seed{seed}") for seed in (1, 2)]
    for seed, folder in enumerate(folders, start=1):
        finished(Path(folder), small_run(tiny_folder, seed=seed))
    return folders


@pytest.mark.slow
def test_a_line_a_run_and_the_tables_again_without_models(two_runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["gates", *two_runs, two_runs[0], "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    runs = [line.run for line in read_results(out / "gates.jsonl")]
    assert [run.recipe.seed for run in runs] == [1, 2]
    assert all(run.device == "" for run in runs)
    assert f"{two_runs[0]}: accuracy " in printed and "# Gates" in printed
    before = {name: (out / name).read_bytes() for name in ("gates.md", "gates.svg")}
    for name in before:
        (out / name).unlink()
    assert main(["gates", "--out", str(out)]) == 0
    assert {name: (out / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_what_is_done_is_not_done_again(two_runs, tmp_path, monkeypatch):
    """Not after a kill in the middle of a line either."""
    out = tmp_path / "out"
    measured = []
    real = chapter.measure

    def measure(folder, **changes):
        if len(measured) == 1 and not again:
            raise KeyboardInterrupt
        measured.append(folder)
        return real(folder, **changes)

    monkeypatch.setattr(chapter, "measure", measure)
    again = False
    assert main(["gates", *two_runs, "--out", str(out)]) == 130
    with open(out / "gates.jsonl", "a") as file:
        file.write('{"run": {"ta')
    again = True
    for _ in range(2):
        assert main(["gates", *two_runs, "--out", str(out)]) == 0
    assert measured == two_runs
    assert len(read_results(out / "gates.jsonl")) == 2


@pytest.mark.slow
def test_what_is_no_finished_run_with_gates_is_passed_over(two_runs, tiny_folder, tmp_path, capsys):
    finished(tmp_path / "lora", small_run(tiny_folder, method="lora"))
    finished(tmp_path / "own", small_run(tiny_folder))
    record = json.loads((tmp_path / "own/run.json").read_text())
    del record["results"]
    (tmp_path / "begun").mkdir()
    save_json(record, tmp_path / "begun/run.json")
    record["run"]["data"] = asdict(Data("train.csv", "dev.csv", labels=("a", "b")))
    results = {"test": {"accuracy": 0.5}, "gates": {}}
    save_json(record | {"results": results}, tmp_path / "own/run.json")
    others = [str(tmp_path / name) for name in ("lora", "begun", "own")]
    assert main(["gates", *others, two_runs[0], "--out", str(tmp_path / "out")]) == 0
    passed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("passed over: ")]
    assert [line.split(": ")[2] for line in passed] == [
        "lora without gates", "not finished", "on files of your own; expected a GLUE task",
    ]
    assert len(read_results(tmp_path / "out/gates.jsonl")) == 1


def test_the_files_may_have_moved(two_runs, tmp_path):
    """--glue says where they are now, and the run is known again."""
    record = json.loads((Path(two_runs[0]) / "run.json").read_text())
    record["run"]["glue"] = str(tmp_path / "gone")
    save_json(record, Path(two_runs[0]) / "run.json")
    command = ["gates", two_runs[0], "--out", str(tmp_path / "out")]
    assert main(command) == 2
    for _ in range(2):
        assert main([*command, "--glue", "miniglue"]) == 0
    assert len(read_results(tmp_path / "out/gates.jsonl")) == 1


def test_nothing_to_show(tmp_path, capsys):
    assert main(["gates", "--out", str(tmp_path)]) == 2
    assert "gates.jsonl: no runs; expected the folders of finished runs with gates" in capsys.readouterr().err
    assert main(["gates", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "expected a run folder" in capsys.readouterr().err
