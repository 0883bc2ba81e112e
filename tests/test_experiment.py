"""experiment.py: whole runs on the tiny model; the record, the best epoch, seeds, going on after a stop."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from helpers import interrupt_at, tiny_run
from safetensors.torch import load_file, save_file

from minipelt import experiment
from minipelt.bert import BertClassifier
from minipelt.checkpoint import load_tensors, save_tensors
from minipelt.errors import InputError
from minipelt.experiment import load_run, new_folder, prepare, run_experiment
from minipelt.glue import TASKS
from minipelt.identity import git_commit
from minipelt.loop import predict
from minipelt.settings import PARTS, Data, Method, Recipe, Run, default_learning_rate
from minipelt.tools.owndata import reader
from minipelt.weights import load

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute


def reports_of(folder):
    """The epoch reports in a run folder."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- one run


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_is_recorded_and_loads_back(tiny_folder, tmp_path, task):
    run = tiny_run(tiny_folder, task, epochs=1, k=30, valid_rows=20)
    folder = new_folder(run, tmp_path / "runs")
    record = run_experiment(prepare(run), folder)
    assert json.loads((folder / "run.json").read_text()) == json.loads(json.dumps(record))
    assert list(record["results"]["test"]) == list(TASKS[task].metrics)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "run.json", "trained.safetensors"]
    loaded_run, results, model, _ = load_run(folder)
    assert loaded_run == run
    assert results == record["results"]
    assert isinstance(model, BertClassifier)
    assert set(results["gates"]) == {"adapter", "prefix", "lora_query", "lora_value"}


def test_the_record_tells_where_the_numbers_come_from(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, method="lora", epochs=1, k=10)
    record = run_experiment(prepare(run), new_folder(run, tmp_path))
    assert record["threads"] == torch.get_num_threads()
    assert record["processes"] == 1
    assert record["device"] == "cpu"
    assert record["commit"] == git_commit()
    assert set(record["versions"]) == {"minipelt", "torch", "python"}


def test_regression_starts_at_the_mean_score(tiny_folder):
    _, model, rows = prepare(tiny_run(tiny_folder, "stsb"))
    assert model.classifier.bias.item() == pytest.approx(rows["train"].labels.mean().item())


def test_two_runs_with_one_seed_give_the_same_bytes(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, k=40, valid_rows=30)
    folders = [new_folder(run, tmp_path / "runs") for _ in range(2)]
    assert [folder.name for folder in folders] == [run.name, f"{run.name}-2"]
    records = [run_experiment(prepare(run), folder) for folder in folders]
    first, second = ((folder / "trained.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert records[0]["results"]["test"] == records[1]["results"]["test"]


def test_another_seed_gives_other_numbers(tiny_folder, tmp_path):
    """The head's start, the order of the batches and the dropout follow the seed."""
    run = tiny_run(tiny_folder, method="lora", epochs=1, k=40)
    losses = []
    for seed in (1, 2):
        seeded = replace(run, recipe=replace(run.recipe, seed=seed))
        folder = new_folder(seeded, tmp_path)
        run_experiment(prepare(seeded), folder)
        losses.append(reports_of(folder)[0]["loss"])
    assert losses[0] != losses[1]


def test_the_base_is_saved_nowhere(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, method="lora", epochs=1, k=10)
    folder = new_folder(run, tmp_path)
    run_experiment(prepare(run), folder)
    for name in load_file(folder / "trained.safetensors"):
        assert "lora" in name or name.startswith("classifier.")


def test_the_best_epoch_is_kept_and_not_the_last(tiny_folder, tmp_path, monkeypatch):
    """Scores are made up: epoch 2 is best by the paper's metric, epoch 3 by the task's other one."""
    made_up = [
        {"matthews": 0.1, "accuracy": 0.2},
        {"matthews": 0.9, "accuracy": 0.3},
        {"matthews": 0.2, "accuracy": 0.8},
    ]
    real, seen = experiment.score, []

    def score(task, logits, labels):
        seen.append(logits)
        return made_up[len(seen) - 1] if len(seen) <= 3 else real(task, logits, labels)

    monkeypatch.setattr(experiment, "score", score)
    run = tiny_run(tiny_folder, "cola", method="lora")
    record = run_experiment(prepare(run), new_folder(run, tmp_path))
    assert (record["results"]["best_epoch"], record["results"]["epochs"]) == (2, 3)
    assert torch.equal(seen[3], seen[1])  # scored again at the end: the weights of epoch 2
    assert not torch.equal(seen[3], seen[2])


def test_validation_and_test_are_scored_apart(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, method="lora", epochs=1, k=60, valid_rows=40)
    prepared = prepare(run)
    folder = new_folder(run, tmp_path)
    results = run_experiment(prepared, folder)["results"]
    model = load_run(folder)[2]
    for split in ("validation", "test"):
        rows = prepared.rows[split]
        assert results[split] == experiment.score(run.spec, predict(model, rows), rows.labels)
    assert results["validation"]["accuracy"] == reports_of(folder)[0]["score"]


def test_a_new_pooler_follows_the_seed(tiny_folder):
    tensors = load_file(tiny_folder / "model.safetensors")
    without = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_file(without, tiny_folder / "model.safetensors")
    poolers = []
    for seed in (1, 1, 2):
        run = tiny_run(tiny_folder, "rte", "lora")
        run = replace(run, recipe=replace(run.recipe, seed=seed))
        poolers.append(prepare(run).model.bert.pooler.dense.weight)
    assert torch.equal(poolers[0], poolers[1])
    assert not torch.equal(poolers[0], poolers[2])


# ---- going on after a stop


def interrupted_run(tiny_folder, tmp_path):
    """(a small LoRA run, its folder), stopped when its second epoch was reported."""
    run = tiny_run(tiny_folder, method="lora", k=20, valid_rows=10)
    folder = new_folder(run, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(prepare(run), folder, interrupt_at(2), save_seconds=0)
    return run, folder


@pytest.mark.parametrize("method", ["apl", "diff"])
def test_an_interrupted_run_resumes_to_the_same_result(tiny_folder, tmp_path, method):
    """diff settles in epoch 3: the resumed run must know it from the file."""
    run = tiny_run(tiny_folder, method=method, epochs=4, k=40, valid_rows=30)
    first = new_folder(run, tmp_path)
    whole = run_experiment(prepare(run), first)

    second = new_folder(run, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(prepare(run), second, interrupt_at(3), save_seconds=0)
    assert (second / "trained.safetensors").is_file()
    assert (second / "resume.safetensors").is_file()
    kept = (second / "run.json").read_bytes()
    with pytest.raises(InputError, match="the run began with"):
        run_experiment(prepare(tiny_run(tiny_folder, method="side", epochs=4)), second, resume=True)
    assert (second / "run.json").read_bytes() == kept

    resumed = run_experiment(prepare(run), second, resume=True)
    assert resumed["results"]["test"] == whole["results"]["test"]
    assert (second / "trained.safetensors").read_bytes() == (first / "trained.safetensors").read_bytes()
    scores = [[report["score"] for report in reports_of(folder)] for folder in (first, second)]
    assert scores[0] == scores[1]
    assert not (second / "resume.safetensors").exists()


@pytest.mark.parametrize("name, value", [
    ("method.alpha", 4.0), ("max_length", 12), ("data.text_b", None), ("data.labels", ["1", "0"]),
])
def test_settings_that_an_answer_depends_on_are_those_of_the_training(tiny_folder, tmp_path, name, value):
    """No tensor tells them: with others in run.json the answers would be others, without a word."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,more,label\n" + "a b,c,0\nb c,d,1\n" * 6)
    data = Data(str(rows), str(rows), text_b="more", labels=("0", "1"))
    run = replace(tiny_run(tiny_folder, method="lora", epochs=1, data=data), task="rows")
    folder = new_folder(run, tmp_path)
    run_experiment(prepare(run, read=reader(run)), folder)
    record = json.loads((folder / "run.json").read_text())
    load_run(folder)
    inner = record["run"]
    *outer, last = name.split(".")
    for key in outer:
        inner = inner[key]
    inner[last] = value
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="expected its own run.json"):
        load_run(folder)


def test_files_of_a_run_may_move(tiny_folder, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "a b,0\nb c,1\n" * 6)
    run = tiny_run(tiny_folder, method="lora", epochs=1, data=Data(str(rows), str(rows), labels=("0", "1")))
    folder = new_folder(run, tmp_path)
    run_experiment(prepare(run, read=reader(run)), folder)
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace("rows.csv", "moved.csv"))
    assert load_run(folder)[0].data.train.endswith("moved.csv")


def test_nothing_trains_where_the_best_epoch_so_far_is_damaged(tiny_folder, tmp_path, monkeypatch):
    run, folder = interrupted_run(tiny_folder, tmp_path)
    (folder / "trained.safetensors").write_bytes(b"")
    monkeypatch.setattr(experiment, "train", pytest.fail)
    with pytest.raises(InputError, match="trained.safetensors: not a whole safetensors file"):
        run_experiment(prepare(run), folder, resume=True)


def test_a_resume_file_whose_reports_lack_the_seconds_is_refused(tiny_folder, tmp_path):
    """Before anything trains, and not when the sum is to be made at the end; the folder stays as it is."""
    run, folder = interrupted_run(tiny_folder, tmp_path)
    tensors, metadata = load_tensors(folder / "resume.safetensors")
    reports = json.loads(metadata["reports"])
    del reports[0]["train_seconds"]
    save_tensors(tensors, folder / "resume.safetensors", metadata | {"reports": json.dumps(reports)})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="resume.safetensors: epoch 1: train_seconds is None"):
        run_experiment(prepare(run), folder, resume=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_goes_on_that_began_before_a_setting_was_there(tiny_folder, tmp_path):
    """Files of an older version lack settings that are newer than they; these are at their defaults then."""
    run, folder = interrupted_run(tiny_folder, tmp_path)
    tensors, metadata = load_tensors(folder / "resume.safetensors")
    settings = json.loads(metadata["settings"])
    del settings["recipe"]["accumulate"], settings["precision"]
    save_tensors(tensors, folder / "resume.safetensors", metadata | {"settings": json.dumps(settings)})
    assert run_experiment(prepare(run), folder, resume=True)["results"]["epochs"] == 3


# ---- methods, real weights, real rows, a GPU


def test_default_learning_rates():
    rates = {name: default_learning_rate(Method(name)) for name in ("ft", "apl", "lora")}
    assert rates["ft"] < rates["apl"] == rates["lora"]


@pytest.fixture(scope="module")
def load_once():
    """load(name, device) for `prepare`; the default weights are read once."""
    bert, tokenizer = load()

    def load_base(name, device):
        return copy.deepcopy(bert).to(device).requires_grad_(False), tokenizer

    return load_base


@pytest.mark.slow
@pytest.mark.parametrize("method", [*PARTS, "apl", "houlsby+p+l"])
def test_every_method_learns_on_the_default_weights(tmp_path, method, load_once):
    """On rows of miniglue, at its default learning rate; then its trained tensors load back to the same test score."""
    recipe = Recipe(default_learning_rate(Method(method)), epochs=4)
    run = Run("sst2", Method(method), recipe, k=32, valid_rows=8, device="cpu")
    prepared = prepare(run, load_once)
    rows = prepared.rows | {"test": prepared.rows["validation"]}
    folder = new_folder(run, tmp_path)
    record = run_experiment(prepared._replace(rows=rows), folder)
    losses = [report["loss"] for report in reports_of(folder)]
    assert losses[-1] < losses[0], losses
    logits = predict(load_run(folder)[2], rows["test"])
    assert experiment.score(run.spec, logits, rows["test"].labels) == record["results"]["test"]


@pytest.mark.parametrize("task", ["sst2", "stsb"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_have_no_score(task, value):
    logits = torch.randn(4, TASKS[task].num_outputs)
    logits[1] = value
    with pytest.raises(InputError, match="the model's answers are no numbers"):
        experiment.score(TASKS[task], logits, torch.tensor([0.0, 1.0, 1.0, 0.0]))


@pytest.mark.slow
@pytest.mark.parametrize("task, dev_rows", [("rte", 277), ("mrpc", 408), ("cola", 1043)])
def test_real_rows_train(glue, tiny_folder, tmp_path, task, dev_rows):
    run = tiny_run(tiny_folder, task, epochs=1, glue=str(glue), k=20, valid_rows=20)
    record = run_experiment(prepare(run), new_folder(run, tmp_path))
    assert record["rows"] == {"train": 20, "validation": 20, "test": dev_rows}


@pytest.mark.slow
@pytest.mark.parametrize("method", [*PARTS, "houlsby+p+l"])
def test_every_method_trains_on_real_rows(glue, tiny_folder, tmp_path, method):
    run = tiny_run(tiny_folder, "sst2", method, epochs=1, glue=str(glue), k=20, valid_rows=20)
    record = run_experiment(prepare(run), new_folder(run, tmp_path))
    assert record["rows"]["test"] == 872


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_runs_on_cuda_give_the_same_bytes(tiny_folder, tmp_path):
    run = replace(tiny_run(tiny_folder), device="cuda")
    folders = [new_folder(run, tmp_path) for _ in range(2)]
    for folder in folders:
        run_experiment(prepare(run), folder)
    first, second = ((folder / "trained.safetensors").read_bytes() for folder in folders)
    assert first == second


# ---- departures from the protocol


@pytest.mark.parametrize("method", [Method("head"), Method("top", top_layers=0)])
def test_a_frozen_head_with_nothing_beside_it_that_trains_is_refused(tiny_folder, method):
    run = replace(tiny_run(tiny_folder, "sst2", frozen_head=True), method=method)
    with pytest.raises(InputError, match="^nothing trains: the head is frozen, and method (head|top) trains nothing"):
        prepare(run)


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_a_frozen_head_stays_as_it_was_drawn_and_is_saved(tiny_folder, tmp_path, method):
    """Of the head, BitFit alone trains the bias, as in the authors' code; the rest of the method trains as ever."""
    run = tiny_run(tiny_folder, "sst2", method, frozen_head=True, k=20, valid_rows=10)
    prepared = prepare(run)
    weight, bias = (parameter.detach().clone() for parameter in prepared.model.classifier.parameters())
    folder = new_folder(run, tmp_path)
    assert "-frozenhead-" in folder.name
    run_experiment(prepared, folder)
    saved = load_file(folder / "trained.safetensors")
    assert torch.equal(saved["classifier.weight"], weight)
    assert torch.equal(saved["classifier.bias"], bias) == (method == "lora")
    assert load_run(folder)[0] == run


def test_a_regression_can_start_at_zero(tiny_folder):
    run = tiny_run(tiny_folder, "stsb", "lora", zero_start=True, k=20, valid_rows=10)
    assert "-zerostart-" in run.name
    assert prepare(run).model.classifier.bias.item() == 0
