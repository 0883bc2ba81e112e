"""race.py: steps that train what they should, batches of both lengths, turns."""

import pytest
import torch
from helpers import disturb, tiny_run

from minipelt.batches import collate
from minipelt.experiment import prepare
from minipelt.paper import race
from minipelt.unipelt import count_parameters, kept_parameters, trained_parameters

CPU = torch.device("cpu")


def test_each_method_trains_its_own_model(tiny_folder):
    """A step changes what its method trains, in its own model and in no other."""
    models, steps, batches = {}, {}, {}
    for method in ("ft", "lora", "bitfit"):
        run = tiny_run(tiny_folder, "sst2", method, k=16, valid_rows=1)
        _, models[method], rows = prepare(run)
        steps[method] = race.training_step(models[method].train(), run.recipe)
        batches[method] = [collate(rows["train"], range(16))]

    def copies():
        return {
            method: {name: parameter.clone() for name, parameter in trained_parameters(model).items()}
            for method, model in models.items()
        }

    for method, step in steps.items():
        before = copies()
        step(batches[method])
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
    assert race.keep_what_is_saved(model) is model
    after = count_parameters(model)
    with torch.inference_mode():
        torch.testing.assert_close(model(*inputs), before)
    assert model.bert.prefix is None or model.bert.prefix.network is None
    assert kept_parameters(after) == kept_parameters(count_parameters(prepare(run).model))


@pytest.mark.parametrize("method", ["lora", "ia3", "diff", "dora", "ft", "adapter", "apl", "adapter+ia3"])
def test_what_folds_whole_is_measured_folded(tiny_folder, method):
    def trained():
        _, model, rows = prepare(tiny_run(tiny_folder, "sst2", method, k=16, valid_rows=1))
        torch.manual_seed(1)
        return disturb(model).eval(), rows

    (model, rows), (other, _) = trained(), trained()
    found = race.merged(race.Contestant("minipelt", method, 1, other, race.keep_what_is_saved))
    assert (found is not None) == (method in ("lora", "ia3", "diff", "dora"))
    if found:
        inputs, _ = collate(rows["train"], range(16))
        assert found.name == f"{method}, minipelt, merged"
        torch.testing.assert_close(found.save(found.model)(*inputs), model(*inputs))
        names = {name for name, _ in found.model.named_parameters()}
        assert names == {name for name, _ in prepare(tiny_run(tiny_folder, "sst2", "ft")).model.named_parameters()}


def test_batches_are_padded_and_real(tiny_folder):
    _, model, rows = prepare(tiny_run(tiny_folder, "sst2", "ft", k=64, valid_rows=1))
    batches = race.make_batches(rows["train"], 16, 40, CPU)
    assert len(batches["padded"]) == 1 and len(batches["real"]) == 4
    (ids, mask, types), labels = batches["padded"][0]
    assert ids.shape == mask.shape == types.shape == (16, 40)
    inputs, real_labels = batches["real"][0]
    assert torch.equal(labels, real_labels)
    assert torch.equal(ids[:, : inputs[0].shape[1]], inputs[0])
    assert mask.sum() == inputs[1].sum()
    model.eval()
    torch.testing.assert_close(model(ids, mask, types), model(*inputs))
    found = race.sizes(batches["real"])
    assert found["rows"] == 64
    assert found["tokens"] == sum(map(len, rows["train"].input_ids))
    assert found["places"] == sum(each[0].numel() for each, _ in batches["real"])


def test_the_first_turn_is_a_warm_up(monkeypatch):
    times = iter([100.0, 200.0, 1.0, 2.0, 3.0, 6.0, 2.0, 7.0])  # of a and b in turn
    done = []
    monkeypatch.setattr(race, "stopwatch", lambda step, device: step() or next(times))
    steps = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    assert race.take_turns(steps, 3, CPU) == {"a": [1.0, 3.0, 2.0], "b": [2.0, 6.0, 7.0]}
    assert done == ["a", "b"] * 4


def test_a_cell_s_numbers(tiny_folder, monkeypatch):
    """Two real batches in a turn: milliseconds are a batch's, tokens all of the turn's."""
    _, _, rows = prepare(tiny_run(tiny_folder, "sst2", "ft", k=8, valid_rows=1))
    batches = race.make_batches(rows["train"], 4, 40, CPU)
    times = {"step": [0.4, 0.2, 0.3], "limit": [0.1, 0.2, 0.15]}
    monkeypatch.setattr(race, "take_turns", lambda turns, repeats, device: {name: times[name[2]] for name in turns})
    cells = race.measure_steps({"a": lambda batches: None}, batches, 3, CPU)
    cell = cells["a"]["real"]
    assert cell["milliseconds"] == pytest.approx(150)
    assert cell["least"] == pytest.approx(100)
    assert cell["of_limit"] == pytest.approx(0.5)
    assert cell["tokens_per_second"] == pytest.approx(race.sizes(batches["real"])["tokens"] / 0.3)
