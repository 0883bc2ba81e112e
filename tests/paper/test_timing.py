"""timing.py: Table 4's measurement on the tiny model."""

import json

import pytest
import torch
from helpers import disturb, tiny_run

from minipelt.__main__ import main
from minipelt.batches import collate
from minipelt.experiment import prepare
from minipelt.paper import timing as chapter
from minipelt.unipelt import count_parameters, kept_parameters, trained_parameters


@pytest.mark.slow
def test_the_measurement(tiny_folder, tmp_path, capsys):
    base = ["--model", str(tiny_folder), "--glue", "miniglue", "--device", "cpu"]
    command = ["timing", *base, "--repeats", "3", "--methods", "ft,lora,apl,diff", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    timing = json.loads((tmp_path / "out/timing.json").read_text())
    first, lora, apl, diff = timing["methods"]
    assert (first["method"], first["training"], first["inference"]) == ("ft", 1, 1)
    assert lora["parameters"] < apl["parameters"] < first["parameters"] == timing["base"]
    assert diff["parameters"] < first["parameters"]
    assert all(row["training"] > 0 and row["inference"] > 0 for row in timing["methods"])
    assert (timing["repeats"], timing["threads"], timing["task"], timing["batch_size"]) == (3, 1, "sst2", 16)
    assert "100 %" in capsys.readouterr().out


def test_each_method_trains_its_own_model(tiny_folder):
    """A step changes what its method trains, in its own model and in no other."""
    models, steps = {}, {}
    for method in ("ft", "lora", "bitfit"):
        run = tiny_run(tiny_folder, "sst2", method, k=16, valid_rows=1)
        _, models[method], rows = prepare(run)
        steps[method] = chapter.training_step(models[method].train(), run.recipe, collate(rows["train"], range(16)))

    def copies():
        return {
            method: {name: parameter.clone() for name, parameter in trained_parameters(model).items()}
            for method, model in models.items()
        }

    for method, step in steps.items():
        before = copies()
        step()
        for other, parameters in copies().items():
            moved = any(not torch.equal(parameter, before[other][name]) for name, parameter in parameters.items())
            assert moved == (other == method)


@pytest.mark.parametrize("method", ["apl", "diff"])
def test_inference_is_that_of_a_saved_run(tiny_folder, method):
    """The same logits, from what the run keeps."""
    run = tiny_run(tiny_folder, "sst2", method, k=16, valid_rows=1)
    _, model, rows = prepare(run)
    inputs, _ = collate(rows["train"], range(16))
    disturb(model).eval()
    with torch.inference_mode():
        before = model(*inputs)
    chapter.keep_what_is_saved(model)
    after = count_parameters(model)
    with torch.inference_mode():
        torch.testing.assert_close(model(*inputs), before)
    assert model.bert.prefix is None or model.bert.prefix.network is None
    assert kept_parameters(after) == kept_parameters(count_parameters(prepare(run).model))


def test_the_first_turn_is_a_warm_up(monkeypatch):
    times = iter([100.0, 200.0, 1.0, 2.0, 3.0, 6.0, 2.0, 7.0])  # of a and b in turn
    done = []
    monkeypatch.setattr(chapter, "stopwatch", lambda step, device: step() or next(times))
    steps = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    assert chapter.take_turns(steps, 3, torch.device("cpu")) == {"a": 2.0, "b": 6.0}
    assert done == ["a", "b"] * 4


@pytest.mark.parametrize("arguments, message", [
    (["--methods", "lora,ft"], "--methods lora,ft: expected ft first"),
    (["--methods", ","], "expected ft first"),
    (["--repeats", "0"], "--repeats 0: expected at least 1"),
])
def test_wrong_input(capsys, arguments, message):
    assert main(["timing", *arguments]) == 2
    assert message in capsys.readouterr().err
