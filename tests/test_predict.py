"""predict.py: the same predictions as in training, from every kind of input, and GLUE submissions."""

import io
import re

import pytest
import torch

from minipelt import predict as chapter
from minipelt.batches import encode
from minipelt.experiment import load_run, new_folder, prepare, run_experiment
from minipelt.glue import TASKS, Example
from minipelt.loop import predict
from minipelt.predict import draw_gates, submission_lines

from test_train import tiny_run


@pytest.fixture
def run_folder(tiny_folder, tmp_path):
    """Make a run folder of a task: run_folder("rte")."""

    def make(task, method="apl"):
        run = tiny_run(tiny_folder, task, method, epochs=1)
        run_experiment(prepare(run), folder := new_folder(run, tmp_path / "runs"))
        return str(folder)

    return make


def go(capsys, *arguments):
    code = chapter.main([*arguments, "--device", "cpu"])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_text_gets_the_models_own_probabilities(run_folder, capsys):
    folder = run_folder("sst2")
    code, out, _ = go(capsys, folder, "--text", "a fine film")
    _, _, model, tokenizer = load_run(folder, device="cpu")
    probabilities = predict(model, encode([Example("a fine film")], tokenizer, 24))[0].softmax(-1)
    label = ("negative", "positive")[probabilities.argmax()]
    assert code == 0 and out == f"{label}  (negative {probabilities[0]:.3f}  positive {probabilities[1]:.3f})\ta fine film\n"


def test_pairs_files_and_standard_input_agree(run_folder, capsys, tmp_path, monkeypatch):
    folder = run_folder("rte")
    _, pair, _ = go(capsys, folder, "--text", "it rains", "--text-b", "it is wet")
    (tmp_path / "pairs.tsv").write_text("it rains\tit is wet\nthe sun shines\tit is dark\n")
    _, file, _ = go(capsys, folder, "--input", str(tmp_path / "pairs.tsv"))
    monkeypatch.setattr("sys.stdin", io.StringIO("it rains\tit is wet\n"))
    _, stdin, _ = go(capsys, folder)
    assert pair == stdin == file.splitlines(keepends=True)[0] and len(file.splitlines()) == 2
    assert re.match(r"(not_)?entailment  \(entailment \d\.\d{3}  not_entailment \d\.\d{3}\)\tit rains\tit is wet\n", pair)


def test_merging_changes_no_answer_and_leaves_plain_bert(run_folder, capsys, monkeypatch):
    folder, gated = run_folder("sst2", "lora"), run_folder("sst2")
    _, before, _ = go(capsys, folder, "--text", "a fine film")
    monkeypatch.setattr("minipelt.lora.LoRA.forward", None)  # whoever still asks a LoRA fails
    assert go(capsys, folder, "--text", "a fine film", "--merge")[1] == before
    code, _, err = go(capsys, gated, "--text", "a fine film", "--merge")
    assert code == 2 and "method apl has no ungated LoRA" in err


def test_gates_are_shown_by_layer(run_folder, capsys):
    _, out, _ = go(capsys, run_folder("sst2"), "--text", "a fine film", "--gates")
    rows = [line.split()[0] for line in out.splitlines()[2:]]
    assert rows == ["prefix", "lora_query", "lora_value", "adapter"]
    assert len(re.findall(r"\b[01]\.\d\d\b", out)) >= 3 * 4
    _, out, _ = go(capsys, run_folder("sst2", "lora"), "--text", "a fine film", "--gates")
    assert "no gates" in out


def test_bars_grow_with_the_gate():
    assert draw_gates({"adapter": [0.0, 0.5, 1.0]}).splitlines()[1].split() == ["adapter", "0.00", "▄0.50", "█1.00"]


def test_scores_for_regression(run_folder, capsys):
    _, out, _ = go(capsys, run_folder("stsb"), "--text", "a", "--text-b", "b")
    assert re.match(r"-?\d\.\d{3}\ta\tb\n", out)


@pytest.mark.parametrize("task, expected", [
    ("cola", ["0\t1", "1\t0"]), ("qnli", ["0\tnot_entailment", "1\tentailment"]), ("mnli", ["0\tneutral", "1\tentailment"]),
])
def test_submissions_are_as_glue_wants_them(task, expected):
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    assert submission_lines(TASKS[task], logits) == ["index\tprediction", *expected]


def test_scores_in_a_submission_stay_within_the_scale():
    assert submission_lines(TASKS["stsb"], torch.tensor([[5.2], [-1.0], [2.5]]))[1:] == ["0\t5.000", "1\t0.000", "2\t2.500"]


def test_a_submission_is_written_from_the_test_file(run_folder, capsys, tmp_path):
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    (tmp_path / "glue" / "RTE" / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tit rains\tit is wet\n1\tit is\tit was\n")
    code, out, _ = go(capsys, run_folder("rte"), "--glue-test", "--glue", str(tmp_path / "glue"), "--out", str(tmp_path / "out"))
    lines = (tmp_path / "out" / "RTE.tsv").read_text().splitlines()
    assert code == 0 and "2 predictions" in out and lines[0] == "index\tprediction" and len(lines) == 3
    assert all(re.fullmatch(r"\d\t(not_)?entailment", line) for line in lines[1:])


def test_every_task_has_its_submissions():
    assert set(chapter.SUBMISSIONS) == set(TASKS)
    assert set(chapter.SUBMISSIONS["mnli"]) == {"MNLI-m.tsv", "MNLI-mm.tsv"}


def test_wrong_input_is_one_line(run_folder, capsys, tmp_path, monkeypatch):
    folder = run_folder("sst2")
    (tmp_path / "bad.tsv").write_text("fine\ntwo\ttexts\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("a\tb\n"))
    for arguments, message in (
        ([str(tmp_path / "none"), "--text", "a"], "run.json: no such file"),
        ([folder, "--text", "a", "--text-b", "b"], "--text: 2 columns; sst2 takes one text"),
        ([folder, "--input", str(tmp_path / "bad.tsv")], "bad.tsv: line 2: 2 columns"),
        ([folder, "--input", str(tmp_path / "none.tsv")], "none.tsv: no such file"),
        ([folder], "standard input: line 1: 2 columns"),
        ([folder, "--glue-test", "--glue", str(tmp_path)], "test.tsv: no such file"),
    ):
        code, _, err = go(capsys, *arguments)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1
