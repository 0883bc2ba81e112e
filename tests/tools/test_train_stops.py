"""tools/train.py, continued: every combination that is refused, other bases, and what a stop leaves, to the byte."""

import json
from pathlib import Path

import pytest

from minipelt import experiment
from minipelt.files import load_json
from minipelt.settings import PARTS

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

QUICK = ("--task", "rte", "--method", "lora", "--k", "20", "--valid-rows", "20", "--epochs", "2")


@pytest.fixture
def go(tiny_folder, tmp_path, monkeypatch, command):
    """go("--task", "rte") -> (exit code, output, errors) of `train` in an empty folder on the tiny model."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        defaults = ["--model", tiny_folder, "--max-length", "24"]
        if {"--eval", "--resume"} & set(arguments):
            defaults = []
        return command("train", "--device", "cpu", *defaults, *arguments)

    return run


def run_folders():
    """The run folders so far."""
    return sorted(Path("runs").glob("*"))


def error_line(result):
    """What a refused command says: exit code 2, one line."""
    code, _, err = result
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1, err
    return err.strip()


def usage_error(result):
    """What argparse says of arguments that do not go together."""
    code, _, err = result
    assert code == 2, err
    assert err.startswith("usage: ")
    return err


def fail_on_save(monkeypatch, number, error, after=False):
    """Let the save of the `number`th best epoch raise an error, before or after it has written the file."""
    real, calls = experiment.save_tensors, []

    def save(tensors, path, *rest):
        calls.append(path)
        if len(calls) == number and not after:
            raise error
        real(tensors, path, *rest)
        if len(calls) == number:
            raise error

    monkeypatch.setattr(experiment, "save_tensors", save)


@pytest.mark.parametrize("method, name", [("LoRA", "lora"), ("APL", "apl"), ("l+HOULSBY", "lora+houlsby")])
def test_methods_are_read_whatever_their_case(go, method, name):
    assert go("--task", "SST-2", "--method", method, "--k", "8", "--valid-rows", "8", "--epochs", "1")[0] == 0
    (folder,) = run_folders()
    assert load_json(folder / "run.json")["run"]["method"]["name"] == name
    assert load_json(folder / "run.json")["run"]["task"] == "sst2"


def test_eval_of_another_base_is_refused(go, tmp_path, tiny_folder):
    assert go(*QUICK)[0] == 0
    (folder,) = run_folders()
    vocabulary = tiny_folder / "vocab.txt"
    words = vocabulary.read_text().splitlines()
    vocabulary.write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n")
    assert "was trained on another base or vocabulary" in error_line(go("--eval", folder))


@pytest.mark.parametrize("method", PARTS)
def test_a_hyperparameter_without_effect_is_refused_and_one_with_an_effect_is_not(go, method):
    """Checked before anything is loaded: the base that is named here is none."""
    names = {"bottleneck", "prefix_length", "rank", "alpha", "top_layers", "share"}
    used = {*PARTS[method].uses, *PARTS[method].uses_ungated}
    for name in names:
        option = f"--{name.replace('_', '-')}"
        value = "0.5" if name == "share" else "1"
        line = error_line(go("--task", "sst2", "--method", method, option, value, "--glue", "nowhere"))
        assert (f"{option} has no effect on {method}" in line) == (name not in used), line


@pytest.mark.parametrize("arguments, message", [
    ([], "--task is needed"),
    (["--task", "sst2", "--dev", "y.tsv"], "belong to --train"),
    (["--task", "sst2", "--train", "x.tsv", "--dev", "y.tsv"], "expected one of them"),
    (["--task", "sst2", "--regression"], "--regression: these belong to --train"),
    (["--train", "x.tsv", "--dev", "y.tsv", "--glue", "glue"], "--glue has no effect on your own files"),
    (["--train", "x.tsv", "--dev", "y.tsv", "--valid-rows", "3"], "--valid-rows has no effect on your own files"),
    (["--task", "sst2", "--valid-rows", "3"], "--valid-rows has an effect with --k alone"),
    (["--eval", "runs/x", "--task", "sst2"], "--task: no effect with --eval"),
    (["--eval", "runs/x", "--rank", "3"], "--rank: no effect with --eval"),
    (["--resume", "runs/x", "--epochs", "3", "--no-gate"], "no effect with --resume"),
    (["--resume", "runs/x", "--eval", "runs/x"], "no effect with --eval"),
    (["--task", "sst2", "--k", "many"], "invalid int value"),
])
def test_arguments_that_do_not_go_together(go, arguments, message):
    assert message in usage_error(go(*arguments))


@pytest.mark.parametrize("files", [[], ["metrics.jsonl"], ["metrics.jsonl", "tensors"]])
def test_a_run_that_was_killed_before_its_first_epoch_ended_begins_anew(go, files):
    """Whatever the kill left of it; the result is that of a run that nobody stopped."""
    assert go(*QUICK)[0] == 0
    (whole,) = run_folders()
    record = load_json(whole / "run.json")
    killed = Path("runs/killed")
    killed.mkdir()
    began = {name: value for name, value in record.items() if name != "results"}
    (killed / "run.json").write_text(json.dumps(began))
    if "metrics.jsonl" in files:
        (killed / "metrics.jsonl").write_text("")
    if "tensors" in files:
        (killed / "trained.safetensors").write_bytes((whole / "trained.safetensors").read_bytes())
    code, out, err = go("--resume", killed)
    assert code == 0, err
    assert "killed: no epoch was finished; the run begins anew" in out
    assert load_json(killed / "run.json")["results"]["test"] == record["results"]["test"]
    assert (killed / "trained.safetensors").read_bytes() == (whole / "trained.safetensors").read_bytes()


@pytest.mark.parametrize("error, reason", [
    (OSError(28, "No space left on device"), "no space left on device"),
    (OSError(30, "Read-only file system", "x/trained.safetensors"), "x/trained.safetensors: read-only file system"),
])
def test_a_disk_that_fails_is_one_line_and_the_run_goes_on_later(go, monkeypatch, error, reason):
    assert go(*QUICK)[0] == 0
    (whole,) = run_folders()
    with monkeypatch.context() as patch:
        fail_on_save(patch, 1, error)
        line = error_line(go(*QUICK))
    second = run_folders()[1]
    assert reason in line
    assert "no epoch was finished; when that is mended, go on with: python train.py --resume" in line
    assert line.endswith(str(second))
    assert not list(second.glob("*.part"))
    assert go("--resume", second)[0] == 0
    assert (second / "trained.safetensors").read_bytes() == (whole / "trained.safetensors").read_bytes()


def test_a_disk_that_fails_later_says_what_is_kept(go, monkeypatch):
    real, calls = experiment.append_json_lines, []

    def append(path, values):
        calls.append(values)
        if len(calls) == 3:  # the reports of before, then an epoch each
            raise OSError(28, "No space left on device", str(path))
        real(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "append_json_lines", append)
        line = error_line(go(*QUICK))
    (folder,) = run_folders()
    assert f"{folder}/metrics.jsonl: no space left on device" in line
    assert f"the best epoch so far is in {folder}/trained.safetensors" in line
    assert go("--resume", folder)[0] == 0
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_folder_that_cannot_be_made_is_one_line(go, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "runs/rte-sample-tiny-bert-lora-k20-seed1: cannot be made (Read-only file system)" in error_line(go(*QUICK))


@pytest.mark.parametrize("arguments, message", [
    (["--task", "sst2", "--method", "adaptor"], "unknown method 'adaptor' (did you mean adapter?): expected ft, head"),
    (["--task", "sst2", "--method", "LORRA"], "unknown method 'LORRA' (did you mean lora?)"),
    (["--eval", "x" * 300], "name too long"),
    (["--resume", "x" * 300], "name too long"),
    (["--task", "sst2", "--out", "x" * 300], "name too long"),
    (["--task", "sst2", "--glue", "x" * 300], "name too long"),
    (["--task", "sst2", "--bottleneck", "10000000"], "bottleneck is 10000000; expected at most 65,536"),
])
def test_wrong_names_are_one_line_and_leave_nothing(go, arguments, message):
    assert message in error_line(go(*arguments))
    assert run_folders() == []
