"""tools/train.py: `python train.py` as a user would start it, on the tiny model; --eval, --resume, what goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, ROOT, interrupt_at
from safetensors.torch import load_file

from minipelt import experiment
from minipelt.__main__ import main
from minipelt.tools import train as tool

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

TRAIN = str(ROOT / "train.py")


@pytest.fixture
def go(tiny_folder, tmp_path, monkeypatch):
    """Run the command in an empty folder on the tiny model; returns (exit code, the run folders so far)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        defaults = ["--device", "cpu"]
        if not {"--eval", "--resume"} & set(arguments):
            defaults += ["--model", str(tiny_folder), "--max-length", "24"]
        code = main(["train", *defaults, *arguments])
        return code, sorted(Path("runs").glob("*"))

    return run


@pytest.fixture
def stopped(go, capsys, monkeypatch):
    """The folder of a run that Ctrl-C has stopped after its first epoch, and was told how to go on."""

    with monkeypatch.context() as patch:
        patch.setattr(tool, "say", interrupt_at(1))
        code, (folder,) = go("--task", "rte", "--method", "lora", "--k", "20", "--valid-rows", "20", "--epochs", "2")
    assert code == 130
    kept = f"interrupted: the best epoch so far is in {folder}/trained.safetensors"
    assert capsys.readouterr().err.strip() == f"{kept}; go on with: python train.py --resume {folder}"
    return folder


def record_of(folder):
    """A run folder's record."""
    return json.loads((folder / "run.json").read_text())


# ---- runs


@pytest.mark.slow
def test_train_then_eval_gives_exactly_the_same_score(go, capsys):
    code, (folder,) = go("--task", "sst2", "--method", "pl", "--k", "60", "--valid-rows", "40", "--epochs", "2")
    out = capsys.readouterr().out
    assert code == 0
    assert folder.name == "sst2-sample-tiny-bert-pl-k60-seed1"
    for expected in (
        "python -m minipelt fetch sst2",
        "prefix network",
        "epoch  2",
        "mean gate",
        "lora_value",
        f"run folder: {folder}",
    ):
        assert expected in out
    recorded = record_of(folder)["results"]["test"]["accuracy"]
    assert go("--eval", str(folder))[0] == 0
    out = capsys.readouterr().out
    assert f"test accuracy   {recorded!r} (recorded: {recorded!r})" in out
    assert "not scored as recorded" not in out


@pytest.mark.slow
def test_the_same_with_the_library_s_door_and_its_front_door(tiny_folder, tmp_path):
    """`python train.py` is `python -m minipelt train`."""
    arguments = ["--task", "sst2", "--model", str(tiny_folder / "none")]
    errors = []
    for command in ([TRAIN], ["-m", "minipelt", "train"]):
        result = subprocess.run(
            [sys.executable, *command, *arguments], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
        )
        assert result.returncode == 2
        errors.append(result.stderr)
    assert errors[0] == errors[1]
    assert errors[0].startswith("error: ")


def test_nogate_reaches_the_model(go):
    _, (folder,) = go("--task", "rte", "--no-gate", "--k", "10", "--epochs", "1")
    record = record_of(folder)
    assert folder.name == "rte-sample-tiny-bert-apl-nogate-k10-seed1"
    assert "gates" not in record["parameters"]
    assert not record["results"]["gates"]


def test_every_option_reaches_its_setting(go):
    options = {
        "--method": "p+houlsby+l", "--bottleneck": "3", "--prefix-length": "4", "--rank": "2", "--k": "11",
        "--valid-rows": "12", "--lr": "0.01", "--batch-size": "5", "--epochs": "1", "--patience": "7", "--seed": "9",
    }  # fmt: skip
    _, (folder,) = go("--task", "SST-2", *[word for pair in options.items() for word in pair])
    run = record_of(folder)["run"]
    method, recipe = run["method"], run["recipe"]
    assert (run["task"], run["k"], run["valid_rows"], run["max_length"]) == ("sst2", 11, 12, 24)
    assert method["name"] == "prefix+lora+houlsby"
    assert (method["bottleneck"], method["prefix_length"], method["rank"]) == (3, 4, 2)
    assert (recipe["learning_rate"], recipe["batch_size"], recipe["epochs"]) == (0.01, 5, 1)
    assert (recipe["patience"], recipe["seed"]) == (7, 9)


def test_threads(go):
    before = torch.get_num_threads()
    try:
        _, (folder,) = go("--task", "rte", "--k", "4", "--epochs", "1", "--threads", "2")
        assert torch.get_num_threads() == 2
        assert record_of(folder)["threads"] == 2
        _, folders = go("--task", "rte", "--k", "5", "--epochs", "1")
        assert record_of(folders[-1])["threads"] == 1  # the default, whatever the machine has
        torch.set_num_threads(2)
        assert go("--eval", str(folders[-1]))[0] == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_glue_folder_here_is_used(go, tmp_path):
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    for split in ("train", "dev"):
        text = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n"
        (tmp_path / "glue" / "RTE" / f"{split}.tsv").write_text(text)
    _, (folder,) = go("--task", "rte", "--epochs", "1")
    assert record_of(folder)["rows"] == {"train": 1, "validation": 1, "test": 1}


def test_eval_tells_when_it_scores_other_rows(go, tmp_path, capsys):
    shutil.copytree(ROOT / "minipelt/miniglue/RTE", tmp_path / "mine/RTE")
    _, (folder,) = go("--task", "rte", "--method", "lora", "--k", "4", "--epochs", "1")
    rows = record_of(folder)["rows"]["test"]
    dev = tmp_path / "mine/RTE/dev.tsv"
    dev.write_text("\n".join(dev.read_text().splitlines()[:6]) + "\n")
    capsys.readouterr()
    assert go("--eval", str(folder), "--glue", "mine")[0] == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line == (
        f"  not scored as recorded: 5 test rows (recorded: {rows}); rows of {tmp_path / 'mine'} (recorded: miniglue)"
    )


def test_eval_tells_when_it_scores_as_many_other_rows(go, tmp_path, capsys):
    """Older records have no fingerprint of the test rows: there, nothing is said."""
    for name in ("mine", "theirs"):
        shutil.copytree(ROOT / "minipelt/miniglue/RTE", tmp_path / name / "RTE")
    _, (folder,) = go("--task", "rte", "--method", "lora", "--k", "4", "--epochs", "1", "--glue", "mine")
    recorded = record_of(folder)["fingerprints"]["test"]
    for name in ("mine", "theirs"):
        dev = tmp_path / name / "RTE/dev.tsv"
        dev.write_text(dev.read_text().replace("entailment", "not_entailment", 1))
        shown = ["--glue", name] if name == "theirs" else []
        capsys.readouterr()
        assert go("--eval", str(folder), *shown)[0] == 0
        out = capsys.readouterr().out
        assert re.search(rf"other test rows \(fingerprint [0-9a-f]{{16}}, recorded: {recorded}\)", out)
    record = record_of(folder)
    del record["fingerprints"]["test"]
    (folder / "run.json").write_text(json.dumps(record))
    assert go("--eval", str(folder))[0] == 0
    assert "not scored as recorded" not in capsys.readouterr().out


def test_eval_counts_one_row_as_one(go, tmp_path, capsys):
    shutil.copytree(ROOT / "minipelt/miniglue/RTE", tmp_path / "mine/RTE")
    _, (folder,) = go("--task", "rte", "--method", "lora", "--k", "4", "--epochs", "1", "--glue", "mine")
    dev = tmp_path / "mine/RTE/dev.tsv"
    dev.write_text("\n".join(dev.read_text().splitlines()[:2]) + "\n")
    capsys.readouterr()
    assert go("--eval", str(folder))[0] == 0
    out = capsys.readouterr().out
    assert "lora on rte-tiny-bert\n  not scored as recorded: 1 test row (recorded: " in out


def test_eval_of_a_run_without_results(stopped, go, capsys):
    assert go("--eval", str(stopped))[0] == 0
    assert "(nothing recorded: the run was stopped, or comes from elsewhere)" in capsys.readouterr().out


# ---- own data


def write_rows(path, rows):
    """Rows of (text, label) as a CSV file."""
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def test_own_data_and_its_name(go, tmp_path, capsys):
    write_rows(tmp_path / "train.csv", [("a good film", "pos"), ("a bad film", "neg"), ("so so", "mixed")] * 3)
    own = ["--train", "train.csv", "--dev", "train.csv", "--method", "lora", "--epochs", "1"]
    assert go(*own)[0] == 0
    out = capsys.readouterr().out
    assert "3 classes: mixed, neg, pos" in out
    assert "(no --test: validation and test are both the dev set)" in out
    _, folders = go(*own, "--name", "reviews")
    assert [folder.name for folder in folders] == ["reviews-tiny-bert-lora-seed1", "train-tiny-bert-lora-seed1"]
    assert record_of(folders[0])["run"]["task"] == "reviews"
    for name in ("a/b", "", "..", "two\nlines"):
        assert go(*own, "--name", name)[0] == 2
        assert "expected a name that a folder can have" in capsys.readouterr().err


def test_many_classes_are_not_all_listed(go, tmp_path, capsys):
    write_rows(tmp_path / "train.csv", [(f"text {i}", f"class{i:02}") for i in range(30)])
    assert go("--train", "train.csv", "--dev", "train.csv", "--method", "lora", "--epochs", "1")[0] == 0
    out = capsys.readouterr().out
    assert "30 classes: class00, class01" in out
    assert "class09 ... and 20 more" in out


# ---- Ctrl-C and --resume


def test_a_stopped_run_goes_on_to_its_end_and_no_further(stopped, go, capsys):
    assert load_file(stopped / "trained.safetensors")
    assert go("--resume", str(stopped))[0] == 0
    assert "results" in record_of(stopped)
    assert not (stopped / "resume.safetensors").exists()
    capsys.readouterr()
    assert go("--resume", str(stopped))[0] == 2
    assert f"this run is finished; --eval {stopped} scores it again" in capsys.readouterr().err


@pytest.mark.parametrize("left", [["run.json"], ["run.json", "metrics.jsonl"]])
def test_a_run_that_was_killed_in_its_first_epoch_begins_anew(stopped, go, capsys, left):
    (stopped / "metrics.jsonl").write_text("")
    for path in stopped.iterdir():
        if path.name not in left:
            path.unlink()
    assert go("--resume", str(stopped))[0] == 0
    assert f"{stopped}: no epoch was finished; the run begins anew" in capsys.readouterr().out
    assert record_of(stopped)["results"]["epochs"] == 2


@pytest.mark.parametrize("gone", [["resume.safetensors"], ["resume.safetensors", "metrics.jsonl"]])
def test_a_run_that_cannot_go_on_is_left_as_it_is(stopped, go, capsys, gone):
    """Its state is gone, or it was imported and never trained here."""
    for name in gone:
        (stopped / name).unlink()
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    assert go("--resume", str(stopped))[0] == 2
    expected = f"error: {stopped}: no resume.safetensors to go on with; --eval {stopped} scores its best epoch"
    assert capsys.readouterr().err.strip() == expected
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


@pytest.mark.slow
def test_a_real_ctrl_c(tiny_folder, tmp_path):
    """No -u: what is said comes at once, into a pipe, too."""
    arguments = ["--task", "sst2", "--method", "lora", "--model", str(tiny_folder), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, TRAIN, *arguments, "--epochs", "10000", "--patience", "10000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job is born deaf to it
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line.startswith("epoch  2"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    folder = "runs/sst2-sample-tiny-bert-lora-seed1"
    assert process.returncode == 130
    assert f"interrupted: the best epoch so far is in {folder}/trained.safetensors" in err
    assert "Traceback" not in err
    assert load_file(tmp_path / folder / "trained.safetensors")


def test_interrupting_before_training_is_one_line(go, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "load_splits", interrupt)
    assert go("--task", "rte")[0] == 130
    assert capsys.readouterr().err.strip() == "interrupted: nothing was trained yet"


# ---- what goes wrong


@pytest.mark.parametrize("arguments, message", [
    (["--task", "wnli"], "unknown task 'wnli': expected one of cola, sst2"),
    (["--task", "sst2", "--method", "xyz"], "unknown method 'xyz'"),
    (["--task", "sst2", "--method", "adaptor"], "unknown method 'adaptor' (did you mean adapter?)"),
    (["--task", "sst2", "--glue", "nowhere"], "nowhere/SST-2/train.tsv: no such file"),
    (["--task", "sst2", "--k", "0"], "k is 0; expected"),
    (["--task", "sst2", "--k", "9", "--valid-rows", "0"], "valid_rows is 0; expected"),
    (["--task", "sst2", "--seed", "99999999999999999999"], "seed is 99999999999999999999"),
    (["--task", "sst2", "--glue", "tiny-bert/vocab.txt"], "vocab.txt/SST-2/train.tsv: no such file"),
    (["--task", "sst2", "--out", "tiny-bert/vocab.txt"], "cannot be made"),
    (["--task", "sst2", "--out", "x" * 300], "cannot be made"),
    (["--task", "sst2", "--device", "tpu"], "unknown device 'tpu'; expected auto, cpu, cuda or mps"),
    (["--task", "sst2", "--k", "100000"], "leaves none for validation"),
    (["--task", "sst2", "--lr", "-1"], "learning_rate is -1.0; expected a number above 0"),
    (["--task", "sst2", "--lr", "nan"], "learning_rate is nan"),
    (["--task", "sst2", "--epochs", "0"], "epochs is 0"),
    (["--task", "sst2", "--method", "a", "--bottleneck", "0"], "bottleneck is 0"),
    (["--task", "sst2", "--method", "a", "--bottleneck", "10000000"], "bottleneck is 10000000"),
    (["--task", "sst2", "--max-length", "1000"], "has 128 positions"),
    (["--train", "rows.csv"], "--train without --dev"),
    (["--train", "rows.csv", "--dev", "none.csv"], "none.csv: no such file"),
    (["--train", "none.csv", "--dev", "rows.csv"], "none.csv: no such file"),
    (["--train", "x" * 300 + ".csv", "--dev", "rows.csv"], "ile name too long"),
    (["--train", "rows.csv", "--dev", "rows.csv", "--label-column", "stars"], "no column 'stars'; expected it among"),
    (["--train", "rows.csv", "--dev", "rows.csv", "--label-column", "text"], "columns text, text: expected"),
    (["--train", "rows.csv", "--dev", "rows.csv", "--regression"], "line 2: 'x'; expected a number"),
    (["--train", "rows.csv", "--dev", "rows.csv", "--name", "x" * 300], "cannot be made (File name too long)"),
    (["--eval", "tiny-bert/vocab.txt"], "expected a run folder"),
    (["--eval", "broken-run"], "broken-run/run.json: not the settings of a run"),
    (["--eval", "runs/none"], "expected a run folder"),
    (["--resume", "runs/none"], "expected a run folder"),
])
def test_wrong_input_gets_one_line_and_exit_code_2(go, tmp_path, capsys, arguments, message):
    (tmp_path / "broken-run").mkdir()
    (tmp_path / "broken-run/run.json").write_text('{"run": {"task": "sst2"}}')
    write_rows(tmp_path / "rows.csv", [("a", "x"), ("b", "y")])
    assert go(*arguments)[0] == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert len(err.strip().split("\n")) == 1
    assert len(err) < 1000
    assert not list(Path("runs").glob("*"))


def test_a_hyperparameter_without_effect_is_refused(go, capsys):
    cases = {
        ("adapter", "--rank", "4"): ("--rank has no effect on adapter; it has one on ", "lora"),
        ("apl", "--alpha", "4"): ("--alpha has no effect on apl; it has one on ", "lora without a gate"),
        ("lora", "--bottleneck", "48"): ("--bottleneck has no effect on lora; it has one on ", "parallel"),
        ("ft", "--share", "0.1"): ("--share has no effect on ft; it has one on ", "diff"),
        ("lora", "--no-gate"): ("--no-gate has no effect on lora; gates stand where ", "adapter, prefix, lora"),
        ("lora", "--zero-start"): ("--zero-start has no effect on sst2, which has classes", "regression"),
    }
    for (method, *option), (message, users) in cases.items():
        assert go("--task", "sst2", "--method", method, *option) == (2, [])
        err = capsys.readouterr().err
        assert err.startswith(f"error: {message}")
        assert users in err


def test_weights_that_break_in_the_last_step_are_not_kept(go, capsys):
    """One step, whose loss is finite, and whose rate then leads out of the numbers."""
    code, (folder,) = go("--task", "sst2", "--method", "ft", "--lr", "1e38", "--k", "8", "--epochs", "1")
    assert code == 2 and not (folder / "trained.safetensors").exists()
    err = capsys.readouterr().err
    assert "the model's answers are no numbers after epoch 1; a learning rate below 1e+38 may help" in err


def test_own_files_are_not_scored_on_the_rows_of_glue(go, capsys, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(8)))
    own = ["--train", "rows.csv", "--dev", "rows.csv"]
    _, (folder,) = go(*own, "--method", "head", "--epochs", "1")
    for option in ("--eval", "--resume"):
        assert go(option, str(folder), "--glue", "miniglue")[0] == 2
        assert "--glue has no effect on" in capsys.readouterr().err


def test_a_method_is_read_whatever_its_case(go):
    _, (folder,) = go("--task", "rte", "--method", "LoRA", "--k", "4", "--epochs", "1")
    assert folder.name == "rte-sample-tiny-bert-lora-k4-seed1"


# ---- disks that are full, folders that cannot be written to


def test_a_disk_that_fills_up_loses_nothing_and_the_run_goes_on(go, capsys, monkeypatch):
    real, count = experiment.save_tensors, []

    def save_tensors(tensors, path, *rest):
        count.append(path)
        if len(count) == 2:
            raise OSError(28, "No space left on device", str(path))
        return real(tensors, path, *rest)

    scores = iter([0.1, 0.2, 0.3])
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "save_tensors", save_tensors)
        patch.setattr(experiment, "score", lambda task, logits, labels: dict.fromkeys(task.metrics, next(scores)))
        code, (folder,) = go("--task", "rte", "--method", "lora", "--k", "9", "--valid-rows", "9", "--epochs", "3")
    assert code == 2
    err = capsys.readouterr().err
    assert err.strip() == (
        f"error: {folder}/trained.safetensors: no space left on device; the best epoch so far is in "
        f"{folder}/trained.safetensors; when that is mended, go on with: python train.py --resume {folder}"
    )
    assert go("--resume", str(folder))[0] == 0
    assert record_of(folder)["results"]["epochs"] == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.slow
def test_output_that_cannot_be_written(tiny_folder, tmp_path):
    arguments = ["--task", "rte", "--method", "lora", "--model", str(tiny_folder), "--device", "cpu", "--k", "4"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, TRAIN, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
            env=ENVIRONMENT,
        )  # fmt: skip
    assert result.returncode
    assert result.stderr.startswith("error: no space left on device")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_reader_that_stops_early(tiny_folder, tmp_path):
    command = f"{sys.executable} {TRAIN} --task rte --method lora --model {tiny_folder} --device cpu --k 4 | head -1"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""
