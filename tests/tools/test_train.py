"""experiment.py and train.py: whole runs on the tiny model, as a user would start them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import train as command
from minipelt import InputError, experiment
from minipelt.bert import BertClassifier
from minipelt.experiment import load_run, new_folder, prepare, run_experiment
from minipelt.glue import TASKS
from minipelt.loop import Recipe, predict
from minipelt.run import Run, default_learning_rate
from minipelt.shared import Shared
from minipelt.unipelt import PARTS, Method

ROOT = Path(__file__).parents[1]


@pytest.fixture
def go(tiny_folder, tmp_path, monkeypatch):
    """Run the command line in an empty folder on the tiny model; returns (exit code, the run folders so far)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        defaults = [] if {"--eval", "--resume"} & set(arguments) else ["--model", str(tiny_folder), "--max-length", "24"]
        return command.main(["--device", "cpu", *defaults, *arguments]), sorted(Path("runs").glob("*"))

    return run


@pytest.fixture(scope="module")
def shared():
    return Shared()


def tiny_run(tiny_folder, task="rte", method="apl", **changes):
    recipe = Recipe(1e-3, epochs=changes.pop("epochs", 3), batch_size=32)
    method = Method(method, bottleneck=4, prefix_length=3, prefix_hidden=8)
    return Run(task, method, recipe, str(tiny_folder), max_length=24, device="cpu", **changes)


# ---- runs


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_is_recorded_and_loads_back(tiny_folder, tmp_path, task):
    run = tiny_run(tiny_folder, task, epochs=1)
    record = run_experiment(prepare(run), folder := new_folder(run, tmp_path / "runs"))
    assert json.loads((folder / "run.json").read_text()) == json.loads(json.dumps(record))
    assert list(record["results"]["test"]) == list(TASKS[task].metrics)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "run.json", "trained.safetensors"]
    loaded_run, results, model, _ = load_run(folder)
    assert loaded_run == run and results == record["results"] and isinstance(model, BertClassifier)
    assert set(results["gates"]) == {"adapter", "prefix", "lora_query", "lora_value"}


def test_regression_starts_at_the_mean_score(tiny_folder):
    model, rows = prepare(tiny_run(tiny_folder, "stsb"))[1:]
    assert model.classifier.bias.item() == pytest.approx(rows["train"].labels.mean().item())


def test_two_runs_with_one_seed_give_the_same_bytes(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder)
    folders = [new_folder(run, tmp_path / "runs") for _ in range(2)]
    assert [folder.name for folder in folders] == [run.name, f"{run.name}-2"]
    records = [run_experiment(prepare(run), folder) for folder in folders]
    assert (folders[0] / "trained.safetensors").read_bytes() == (folders[1] / "trained.safetensors").read_bytes()
    assert records[0]["results"]["test"] == records[1]["results"]["test"]


@pytest.mark.parametrize("method", ["apl", "diff"])  # diff settles its places in epoch 3: the resumed run must have them from the file
def test_an_interrupted_run_resumes_to_the_same_result(tiny_folder, tmp_path, method):
    run = tiny_run(tiny_folder, method=method, epochs=4)
    whole = run_experiment(prepare(run), first := new_folder(run, tmp_path))

    def interrupt(line):
        if line.startswith("epoch  3"): raise KeyboardInterrupt

    second = new_folder(run, tmp_path)
    with pytest.raises(KeyboardInterrupt): run_experiment(prepare(run), second, interrupt, save_seconds=0)
    assert (second / "trained.safetensors").is_file() and (second / "resume.safetensors").is_file()
    kept = (second / "run.json").read_bytes()
    with pytest.raises(InputError, match="expected the base that the run began with"):
        run_experiment(prepare(tiny_run(tiny_folder, method="side", epochs=4)), second, resume=True)
    assert (second / "run.json").read_bytes() == kept
    resumed = run_experiment(prepare(run), second, resume=True)
    assert resumed["results"]["test"] == whole["results"]["test"]
    assert load_file(second / "trained.safetensors").keys() == load_file(first / "trained.safetensors").keys()
    assert (second / "trained.safetensors").read_bytes() == (first / "trained.safetensors").read_bytes()
    scores = [[json.loads(line)["score"] for line in open(folder / "metrics.jsonl")] for folder in (first, second)]
    assert scores[0] == scores[1]
    assert not (second / "resume.safetensors").exists()


def test_the_base_is_saved_nowhere(tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, method="lora", epochs=1)
    run_experiment(prepare(run), folder := new_folder(run, tmp_path))
    assert all("lora" in name or name.startswith("classifier.") for name in load_file(folder / "trained.safetensors"))


def test_default_learning_rates():
    assert default_learning_rate(Method("ft")) < default_learning_rate(Method("apl")) == default_learning_rate(Method("lora"))


def test_the_best_epoch_is_kept_and_not_the_last(tiny_folder, tmp_path, monkeypatch):
    """Scores are made up: epoch 2 is best by the paper's metric, epoch 3 by the task's other one."""
    made_up = iter([{"matthews": 0.1, "accuracy": 0.2}, {"matthews": 0.9, "accuracy": 0.3}, {"matthews": 0.2, "accuracy": 0.8}])
    real, seen = experiment.score, []

    def score(task, logits, labels):
        seen.append(logits)
        return next(made_up, None) or real(task, logits, labels)

    monkeypatch.setattr(experiment, "score", score)
    run = tiny_run(tiny_folder, "cola", method="lora")
    record = run_experiment(prepare(run), new_folder(run, tmp_path))
    assert (record["results"]["best_epoch"], record["results"]["epochs"]) == (2, 3)
    assert torch.equal(seen[3], seen[1]) and not torch.equal(seen[3], seen[2])  # scored again at the end: the weights of epoch 2


def test_a_new_pooler_follows_the_seed(tiny_folder):
    tensors = load_file(tiny_folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "pooler" not in name}, tiny_folder / "model.safetensors")
    poolers = [prepare(tiny_run(tiny_folder, "rte", "lora")).model.bert.pooler.dense.weight for _ in range(2)]
    assert torch.equal(*poolers)


@pytest.mark.parametrize("method", ["ft", "head", *PARTS, "apl", "houlsby+p+l"])
def test_every_method_learns_on_the_default_weights(tmp_path, method, shared):
    """On rows of miniglue, at its default learning rate; then its trained tensors load back to the same test score."""
    run = Run("sst2", Method(method), Recipe(default_learning_rate(Method(method)), epochs=4), k=32, valid_rows=8, device="cpu")
    prepared = prepare(run, shared)
    rows = {**prepared.rows, "test": prepared.rows["validation"]}
    record = run_experiment(prepared._replace(rows=rows), folder := new_folder(run, tmp_path))
    losses = [json.loads(line)["loss"] for line in open(folder / "metrics.jsonl")]
    assert losses[-1] < losses[0], losses
    logits = predict(load_run(folder)[2], rows["test"])
    assert experiment.score(run.spec, logits, rows["test"].labels) == record["results"]["test"]


# ---- the command line


def test_train_then_eval_gives_exactly_the_same_score(go, capsys):
    code, (folder,) = go("--task", "sst2", "--method", "pl", "--k", "60", "--valid-rows", "40", "--epochs", "2")
    out = capsys.readouterr().out
    assert not code and folder.name == "sst2-pl-k60-seed1"
    for expected in ("python -m minipelt.glue sst2", "prefix network", "epoch  2", "mean gate", "lora_value", str(folder)): assert expected in out
    recorded = json.loads((folder / "run.json").read_text())["results"]["test"]["accuracy"]
    assert not go("--eval", str(folder))[0]
    assert f"test accuracy   {recorded!r} (recorded: {recorded!r})" in capsys.readouterr().out


def test_interrupting_keeps_the_best_checkpoint_and_says_how_to_go_on(go, capsys, monkeypatch):
    real = experiment.save_tensors

    def save_then_interrupt(tensors, path, *rest):
        real(tensors, path, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "save_tensors", save_then_interrupt)
        code, (folder,) = go("--task", "rte", "--method", "lora", "--epochs", "2")
    err = capsys.readouterr().err
    assert code == 130 and f"{folder}/trained.safetensors" in err and f"--resume {folder}" in err
    assert not go("--resume", str(folder))[0]
    assert "results" in json.loads((folder / "run.json").read_text())
    assert go("--resume", str(folder))[0] == 2
    assert "finished" in capsys.readouterr().err


def test_a_real_ctrl_c(tiny_folder, tmp_path):
    arguments = ["--task", "sst2", "--method", "lora", "--model", str(tiny_folder), "--device", "cpu", "--epochs", "10000", "--patience", "10000"]
    process = subprocess.Popen([sys.executable, "-u", str(ROOT / "train.py"), *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background job is born deaf to it
    try:
        for line in process.stdout:
            if line.startswith("epoch  2"): break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted: the best epoch so far is in runs/sst2-lora-seed1/trained.safetensors" in err
    assert load_file(tmp_path / "runs/sst2-lora-seed1/trained.safetensors")


@pytest.mark.parametrize("arguments, message", [
    (["--task", "wnli"], "unknown task 'wnli': expected one of cola, sst2"),
    (["--task", "sst2", "--method", "xyz"], "unknown method 'xyz'"),
    (["--task", "sst2", "--glue", "nowhere"], "nowhere/SST-2/train.tsv: no such file"),
    (["--task", "sst2", "--k", "0"], "k is 0; expected at least 1"),
    (["--task", "sst2", "--valid-rows", "0"], "valid_rows is 0"),
    (["--task", "sst2", "--seed", "99999999999999999999"], "seed is 99999999999999999999"),
    (["--task", "sst2", "--glue", "tiny-bert/vocab.txt"], "vocab.txt/SST-2/train.tsv: not a directory"),
    (["--task", "sst2", "--out", "tiny-bert/vocab.txt"], "cannot be made"),
    (["--task", "sst2", "--device", "hpu"], "unknown device 'hpu'"),
    (["--eval", "tiny-bert/vocab.txt"], "expected a run folder"),
    (["--eval", "broken-run"], "broken-run/run.json: not the settings of a run"),
    (["--task", "sst2", "--k", "100000"], "leaves none for validation"),
    (["--task", "sst2", "--lr", "-1"], "learning_rate is -1.0; expected a number above 0"),
    (["--task", "sst2", "--epochs", "0"], "epochs is 0"),
    (["--task", "sst2", "--bottleneck", "0"], "bottleneck is 0"),
    (["--task", "sst2", "--max-length", "1000"], "has 128 positions"),
    (["--eval", "runs/none"], "run.json: no such file; expected a run folder"),
    (["--resume", "runs/none"], "run.json: no such file; expected a run folder"),
])
def test_wrong_input_gets_one_line_and_exit_code_2(go, capsys, arguments, message):
    Path("broken-run").mkdir()
    Path("broken-run/run.json").write_text('{"run": {"task": "sst2"}}')
    assert go(*arguments)[0] == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().split("\n")) == 1
    assert not list(Path("runs").glob("*"))


def test_a_wrong_device_is_refused(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["--task", "rte", "--model", str(tiny_folder), "--device", "tpu"]) == 2
    assert "unknown device 'tpu'; expected auto, cpu, cuda or mps" in capsys.readouterr().err


def test_no_task_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as exit: command.main([])
    assert exit.value.code == 2 and "--task is needed" in capsys.readouterr().err


def test_help_answers_without_torch():
    program = "import sys, train\ntry: train.main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for expected in ("--no-gate", "(default: 48)", "UniPELT", "what to run", "training"): assert expected in out


@pytest.mark.parametrize("task, dev_rows", [("rte", 277), ("mrpc", 408), ("cola", 1043)])
def test_real_rows_train(glue, tiny_folder, tmp_path, task, dev_rows):
    run = tiny_run(tiny_folder, task, epochs=1, glue=str(glue), k=20, valid_rows=20)
    record = run_experiment(prepare(run), new_folder(run, tmp_path))
    assert record["rows"] == {"train": 20, "validation": 20, "test": dev_rows}


@pytest.mark.parametrize("method", ["ft", "head", *PARTS, "houlsby+p+l"])
def test_every_method_trains_on_real_rows(glue, tiny_folder, tmp_path, method):
    run = tiny_run(tiny_folder, "sst2", method, epochs=1, glue=str(glue), k=20, valid_rows=20)
    assert run_experiment(prepare(run), new_folder(run, tmp_path))["rows"]["test"] == 872


def test_interrupting_before_training_is_one_line(go, capsys, monkeypatch):
    def interrupt(*_): raise KeyboardInterrupt
    monkeypatch.setattr(experiment, "choose_rows", interrupt)
    assert go("--task", "rte")[0] == 130
    assert capsys.readouterr().err.strip() == "interrupted: nothing was trained yet"


def test_nogate_reaches_the_model(go):
    _, (folder,) = go("--task", "rte", "--no-gate", "--epochs", "1")
    record = json.loads((folder / "run.json").read_text())
    assert folder.name == "rte-apl-nogate-seed1" and "gates" not in record["parameters"] and not record["results"]["gates"]


def test_a_glue_folder_here_is_used(go, capsys, tmp_path):
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    for split in ("train", "dev"): (tmp_path / "glue" / "RTE" / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    _, (folder,) = go("--task", "rte", "--epochs", "1")
    assert json.loads((folder / "run.json").read_text())["rows"] == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_runs_on_cuda_give_the_same_bytes(tiny_folder, tmp_path):
    from dataclasses import replace
    run = replace(tiny_run(tiny_folder), device="cuda")
    folders = [new_folder(run, tmp_path) for _ in range(2)]
    for folder in folders: run_experiment(prepare(run), folder)
    assert (folders[0] / "trained.safetensors").read_bytes() == (folders[1] / "trained.safetensors").read_bytes()
