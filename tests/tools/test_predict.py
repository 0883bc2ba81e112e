"""tools/predict.py: the same predictions as in training, from every kind of input, and GLUE submissions."""

import csv
import io
import json
import re
from dataclasses import asdict, replace

import pytest
import torch

from minipelt.batches import encode
from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.experiment import load_run, score
from minipelt.files import load_json, save_json
from minipelt.glue import TASKS, Example
from minipelt.loop import predict
from minipelt.settings import Data
from minipelt.tools.gateview import look
from minipelt.tools.predict import BARS, Predictor, bars_for, describe, draw_gates
from minipelt.tools.submission import SUBMISSIONS, submission_lines

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

HEADERS = {".csv": "sentence,label\n", ".tsv": "sentence\tlabel\n"}


def standard_input(data, terminal=False):
    """Bytes as standard input."""
    stream = io.TextIOWrapper(io.BytesIO(data))
    stream.isatty = lambda: terminal
    return stream


def own_logits(folder, examples):
    """What the model of a run gives without the command."""
    run, _, model, tokenizer = load_run(folder)
    return predict(model, encode(examples, tokenizer, run.max_length))


# ---- texts on the command line and on standard input


def test_a_text_gets_the_models_own_probabilities(trained, command):
    folder = trained("sst2", "apl")
    code, out, _ = command("predict", folder, "--text", "a fine film")
    probabilities = own_logits(folder, [Example("a fine film")])[0].softmax(-1)
    label = ("negative", "positive")[probabilities.argmax()]
    assert code == 0
    assert out == f"{label}  (negative {probabilities[0]:.3f}  positive {probabilities[1]:.3f})\ta fine film\n"


def test_a_pair_plain_lines_and_standard_input_agree(trained, command, tmp_path, monkeypatch):
    folder = trained("rte", "apl")
    _, pair, _ = command("predict", folder, "--text", "it rains", "--text-b", "it is wet")
    (tmp_path / "pairs.txt").write_text("it rains\tit is wet\nthe sun shines\tit is dark\n")
    _, file, _ = command("predict", folder, "--input", tmp_path / "pairs.txt")
    monkeypatch.setattr("sys.stdin", standard_input(b"\xef\xbb\xbfit rains\tit is wet\r\n"))
    _, stdin, _ = command("predict", folder)
    assert pair == stdin == file.splitlines(keepends=True)[0]
    assert len(file.splitlines()) == 2
    probability = r"\d\.\d{3}"
    line = rf"(not_)?entailment  \(entailment {probability}  not_entailment {probability}\)\tit rains\tit is wet\n"
    assert re.fullmatch(line, pair)


def test_a_person_at_a_terminal_is_told_what_is_waited_for(trained, command, monkeypatch):
    folder, pairs = trained("sst2", "head"), trained("rte", "head")
    monkeypatch.setattr("sys.stdin", standard_input(b"fine\n", terminal=True))
    code, out, err = command("predict", folder)
    assert code == 0 and out.count("\n") == 1
    assert err == "waiting for a text a line; Ctrl-D (on Windows Ctrl-Z) ends\n"
    monkeypatch.setattr("sys.stdin", standard_input(b"", terminal=True))
    assert "two texts a line, with a tab between" in command("predict", pairs)[2]
    monkeypatch.setattr("sys.stdin", standard_input(b"fine\n"))
    assert command("predict", folder)[2] == ""


def test_bytes_that_are_no_text_are_one_sentence(trained, command, monkeypatch):
    folder = trained("sst2", "head")
    monkeypatch.setattr("sys.stdin", standard_input(b"fine\nb\xffd\n"))
    code, out, err = command("predict", folder)
    assert code == 2 and out.count("\n") == 1
    assert err == "error: standard input: line 2: not UTF-8\n"
    code, _, err = command("predict", folder, "--text", "b\udcffd")  # as Python hands over such an argument
    assert code == 2 and err == "error: --text: not UTF-8\n"
    monkeypatch.setattr("sys.stdin", None)
    assert command("predict", folder)[2].startswith("error: standard input is closed")


def test_what_the_terminal_cannot_show_does_not_end_the_command(trained, command, monkeypatch):
    folder = trained("sst2", "apl")
    for encoding in ("ascii", "cp1252"):
        screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", screen)
            code, _, err = command("predict", folder, "--text", "caf\u00e9 \u2603", "--gates")
        shown = screen.buffer.getvalue().decode(encoding)
        assert code == 0 and err == ""
        answer, _, *gates = shown.splitlines()
        assert "\\u2603" in answer
        assert all(re.fullmatch(r"\w+( +[01]\.\d\d){3}", line) for line in gates)  # numbers without bars
    assert bars_for(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == BARS


# ---- gates and merging


def test_gates_are_shown_by_layer(trained, command):
    _, out, _ = command("predict", trained("sst2", "apl"), "--text", "a fine film", "--gates")
    rows = [line.split()[0] for line in out.splitlines()[2:]]
    assert rows == ["prefix", "lora_query", "lora_value", "adapter"]
    assert len(re.findall(r"\b[01]\.\d\d\b", out)) >= 3 * 4
    _, out, _ = command("predict", trained("sst2", "lora"), "--text", "a fine film", "--gates")
    assert "no gates" in out


def test_the_gates_cost_no_second_pass(trained, command, monkeypatch):
    """They are those of the pass that gave the answer, and what the live page shows."""
    passes, real = [], BertClassifier.forward

    def forward(model, *inputs):
        passes.append(inputs)
        return real(model, *inputs)

    folder = trained("sst2", "apl")
    with monkeypatch.context() as patch:
        patch.setattr(BertClassifier, "forward", forward)
        assert command("predict", folder, "--text", "a fine film", "--gates")[0] == 0
    assert len(passes) == 1
    run, _, model, tokenizer = load_run(folder)
    _, found = Predictor(run, model, tokenizer).ask(Example("a fine film"))
    expected = look(model, tokenizer, run, ["a fine film"])["gates"]
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-5)  # the page rounds


def test_bars_grow_with_the_gate():
    assert draw_gates({"adapter": [0.0, 0.5, 1.0]}).splitlines()[1].split() == ["adapter", "0.00", "▄0.50", "█1.00"]


@pytest.mark.parametrize("method, module", [("lora", "lora.LoRA"), ("ia3", "ia3.IA3"), ("diff", "diff.Diff")])
def test_merging_changes_no_answer_and_leaves_plain_bert(trained, command, monkeypatch, method, module):
    folder = trained("sst2", method)
    _, before, _ = command("predict", folder, "--text", "a fine film")

    def fail(*arguments):
        raise AssertionError("whoever still asks a module of the method fails")

    logits = Predictor.logits

    def plain_logits(self, examples):
        monkeypatch.setattr(f"minipelt.methods.{module}.forward", fail)
        return logits(self, examples)

    monkeypatch.setattr(Predictor, "logits", plain_logits)
    code, after, _ = command("predict", folder, "--text", "a fine film", "--merge")
    assert code == 0 and after == before


def test_nothing_to_merge_is_an_error(trained, command):
    code, _, err = command("predict", trained("sst2", "apl"), "--text", "a fine film", "--merge")
    assert code == 2 and "nothing of method apl folds" in err


# ---- files


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("labels", [True, False])
def test_columns_are_read_as_the_run_was_trained(trained, command, tmp_path, suffix, labels):
    """The header, the labels and the quotes are not part of the text."""
    folder = trained("sst2", "lora")
    sentences = ["a fine film", "dull", "so , so"]
    path = tmp_path / f"reviews{suffix}"
    if suffix == ".jsonl":
        rows = [{"id": 7, "sentence": text} | ({"label": 1} if labels else {}) for text in sentences]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cell, end = ('"{}"', ",1") if suffix == ".csv" else ("{}", "\t1")
        header = HEADERS[suffix] if labels else "sentence\n"
        path.write_text(header + "".join(cell.format(text) + (end if labels else "") + "\n" for text in sentences))

    code, out, _ = command("predict", folder, "--input", path)
    examples = [Example(text, label=1) for text in sentences]
    logits = own_logits(folder, examples)
    lines = out.splitlines()
    assert code == 0
    assert [line.split("\t")[1] for line in lines[:3]] == sentences
    positive = [re.search(r"positive (\d\.\d+)\)", line)[1] for line in lines[:3]]
    assert positive == [f"{p:.3f}" for p in logits.softmax(-1)[:, 1].tolist()]
    accuracy = score(TASKS["sst2"], logits, torch.ones(3, dtype=torch.long))["accuracy"]
    assert lines[3:] == ([f"accuracy {100 * accuracy:.2f} on 3 rows"] if labels else [])


def test_the_columns_of_own_data(trained, command, tmp_path, own_data):
    folder = trained("own", "lora", own_data)
    path = tmp_path / "new.tsv"
    path.write_text("topic\tsecond\tnote\tfirst\nsea\tb\tx\ta\n\tb\tx\ta\n")
    code, out, _ = command("predict", folder, "--input", path)
    _, pair, _ = command("predict", folder, "--text", "a", "--text-b", "b")
    assert code == 0
    assert out.splitlines()[:2] == [pair.strip("\n")] * 2
    score_line = r"accuracy (100|0).00, macro_f1 (100|0).00 on the 1 of 2 rows that have a label"
    assert re.fullmatch(score_line, out.splitlines()[2])
    path.write_text("first\tsecond\ttopic\na\tb\tmoon\n")
    assert "line 2: label 'moon'; expected one of art, law, sea" in command("predict", folder, "--input", path)[2]


def test_columns_by_number_with_and_without_the_label(trained, command, tmp_path):
    path = tmp_path / "numbered.tsv"
    path.write_text("text\tstars\nfine\t2\ndull\t1\nfine\t2\ndull\t1\n")
    data = Data(str(path), str(path), text="1", label="2", labels=("1", "2"), header="stars")
    folder = trained("numbered", "head", data)
    _, out, _ = command("predict", folder, "--input", path)
    assert [line.split("\t")[1] for line in out.splitlines()[:-1]] == ["fine", "dull", "fine", "dull"]
    assert out.splitlines()[-1].endswith("on 4 rows")
    path.write_text("fine\ndull\n")
    _, out, _ = command("predict", folder, "--input", path)
    assert [line.split("\t")[1] for line in out.splitlines()] == ["fine", "dull"]


def test_an_official_file_without_a_header_is_read_by_its_places(trained, command, tmp_path):
    folder = trained("cola", "head")
    path = tmp_path / "dev.tsv"
    path.write_text("gj04\t1\t\tThe sailors rode the breeze .\ngj04\t0\t*\tThe more we study .\n")
    code, out, _ = command("predict", folder, "--input", path)
    assert code == 0
    sentences = [line.split("\t")[1] for line in out.splitlines()[:2]]
    assert sentences == ["The sailors rode the breeze .", "The more we study ."]
    assert out.splitlines()[2].endswith("on 2 rows")
    path.write_text("index\tsentence\n0\tThe sailors rode the breeze .\n")  # as GLUE's test files are
    assert command("predict", folder, "--input", path)[1].splitlines() == out.splitlines()[:1]


def test_a_file_is_predicted_in_batches(trained, command, tmp_path, monkeypatch):
    folder = trained("sst2", "apl")
    path = tmp_path / "many.txt"
    path.write_text("".join("word " * (1 + number % 5) + "\n" for number in range(40)))
    calls, logits = [], Predictor.logits

    def counted(self, examples):
        calls.append(len(examples))
        return logits(self, examples)

    monkeypatch.setattr(Predictor, "logits", counted)
    _, batched, _ = command("predict", folder, "--input", path)
    assert calls == [40]
    _, one_by_one, _ = command("predict", folder, "--input", path, "--gates")
    answers = [line for line in one_by_one.splitlines() if line.startswith(("positive", "negative"))]
    assert answers == batched.splitlines()


# ---- what is written


def test_output_has_texts_predictions_and_probabilities(trained, command, tmp_path, own_data):
    folder = trained("own", "lora", own_data)
    pairs = [("a", "b"), ("c, d", "e"), ("f", "g"), ("h", "i"), ("j", "k"), ("l", "m")]
    examples = [Example(*pair) for pair in pairs]
    probabilities = own_logits(folder, examples).softmax(-1)
    code, out, _ = command("predict", folder, "--input", own_data.train, "--output", tmp_path / "answers.csv")
    assert code == 0
    assert out.splitlines()[0] == f"{tmp_path / 'answers.csv'}: 6 predictions"
    assert out.splitlines()[1].endswith("on 6 rows")
    with open(tmp_path / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "text_b", "prediction", "label", "p(art)", "p(law)", "p(sea)"]
    assert (rows[1]["text"], rows[1]["text_b"], rows[1]["label"]) == ("c, d", "e", "law")
    found = torch.tensor([[float(row[f"p({name})"]) for name in own_data.labels] for row in rows])
    assert torch.allclose(found, probabilities, atol=1e-5)
    assert [row["prediction"] for row in rows] == [own_data.labels[i] for i in probabilities.argmax(-1)]

    command("predict", folder, "--input", own_data.train, "--output", tmp_path / "answers.jsonl")
    records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert records[1]["text"] == "c, d" and records[1]["label"] == "law"
    assert list(records[1]["probabilities"]) == ["art", "law", "sea"]
    assert records[1]["probabilities"]["sea"] == float(rows[1]["p(sea)"])


def test_a_carriage_return_in_a_text_comes_back_out_of_the_answers(trained, command, tmp_path):
    folder = trained("sst2", "lora")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"sentence": "a\rfilm, fine"}) + "\n")
    command("predict", folder, "--input", tmp_path / "texts.jsonl", "--output", tmp_path / "answers.csv")
    with open(tmp_path / "answers.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["text"] == "a\rfilm, fine"


def test_the_screen_the_file_and_the_page_have_one_answer(trained, command, tmp_path):
    folder = trained("sst2", "lora")
    (tmp_path / "texts.txt").write_text("a fine film\n")
    command("predict", folder, "--input", tmp_path / "texts.txt", "--output", tmp_path / "answers.jsonl")
    record = json.loads((tmp_path / "answers.jsonl").read_text())
    run, _, model, tokenizer = load_run(folder)
    answer = look(model, tokenizer, run, ["a fine film"])["answer"]
    assert answer["label"] == record["prediction"]
    assert answer["probabilities"] == pytest.approx(record["probabilities"], abs=2e-6)  # float32, two ways to attend
    shown = describe(run.spec, own_logits(folder, [Example("a fine film")])[0])
    assert shown.startswith(f"{record['prediction']}  (negative {record['probabilities']['negative']:.3f}  ")


def test_a_regression_writes_scores(trained, command, tmp_path):
    folder = trained("stsb", "head")
    _, out, _ = command("predict", folder, "--text", "a", "--text-b", "b")
    assert re.fullmatch(r"-?\d+\.\d{3}\ta\tb\n", out)
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"sentence1": "a", "sentence2": "b"}\n')
    code, shown, _ = command("predict", folder, "--input", path, "--output", tmp_path / "scores.jsonl")
    assert code == 0 and shown == f"{tmp_path / 'scores.jsonl'}: 1 prediction\n"
    record = json.loads((tmp_path / "scores.jsonl").read_text())
    assert list(record) == ["text", "text_b", "prediction", "label"] and record["label"] is None
    assert f"{record['prediction']:.3f}" == out.split("\t")[0]


# ---- GLUE


@pytest.mark.parametrize(
    "task, expected",
    [
        ("cola", ["0\t1", "1\t0"]),
        ("qnli", ["0\tnot_entailment", "1\tentailment"]),
        ("mnli", ["0\tneutral", "1\tentailment"]),
    ],
)
def test_submissions_are_as_glue_wants_them(task, expected):
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    assert submission_lines(TASKS[task], logits) == ["index\tprediction", *expected]


def test_scores_in_a_submission_stay_within_the_scale():
    lines = submission_lines(TASKS["stsb"], torch.tensor([[5.2], [-1.0], [2.5]]))
    assert lines[1:] == ["0\t5.000", "1\t0.000", "2\t2.500"]


def test_a_submission_is_written_from_the_test_file(trained, command, tmp_path):
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    rows = "index\tsentence1\tsentence2\n0\tit rains\tit is wet\n1\tit is\tit was\n"
    (tmp_path / "glue" / "RTE" / "test.tsv").write_text(rows)
    where = ("--glue", tmp_path / "glue", "--out", tmp_path / "out")
    code, out, _ = command("predict", trained("rte", "apl"), "--glue-test", *where)
    lines = (tmp_path / "out" / "RTE.tsv").read_text().splitlines()
    assert code == 0 and "2 predictions" in out
    assert lines[0] == "index\tprediction" and len(lines) == 3
    assert all(re.fullmatch(r"\d\t(not_)?entailment", line) for line in lines[1:])


def test_every_task_has_its_submissions():
    assert set(SUBMISSIONS) == set(TASKS)
    assert set(SUBMISSIONS["mnli"]) == {"MNLI-m.tsv", "MNLI-mm.tsv"}


# ---- refusals


def test_wrong_input_is_one_line(trained, command, tmp_path, monkeypatch, own_data):
    folder, own = trained("sst2", "head"), trained("own", "head", own_data)
    (tmp_path / "bad.txt").write_text("fine\ntwo\ttexts\n")
    (tmp_path / "plain.tsv").write_text("a fine film\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "half.jsonl").write_text('{"sentence": "\\ud800"}\n')
    monkeypatch.setattr("sys.stdin", standard_input(b"a\tb\n"))
    for arguments, message in (
        ([tmp_path / "none", "--text", "a"], "none: no run.json in it; expected a run folder"),
        ([folder, "--text", "a", "--text-b", "b"], "--text: sst2 takes one text; expected no --text-b"),
        ([own, "--text", "a"], "--text: own takes two texts; expected --text-b, too"),
        ([folder, "--input", tmp_path / "bad.txt"], "bad.txt: line 2: 2 columns; sst2 takes one text"),
        ([folder, "--input", tmp_path / "none.txt"], "none.txt: no such file"),
        ([folder, "--input", tmp_path / "empty.txt"], "empty.txt: no rows"),
        ([folder, "--input", tmp_path / "x.xlsx"], "x.xlsx: expected a name that ends in .txt"),
        ([folder, "--input", tmp_path / "plain.tsv"], "plain.tsv: line 1: no column 'sentence'"),
        ([folder, "--input", tmp_path / "half.jsonl"], "half.jsonl: line 1: 'sentence' is not Unicode text"),
        ([folder], "standard input: line 1: 2 columns"),
        ([folder, "--glue-test", "--glue", tmp_path], "test.tsv: no such file"),
        ([own, "--glue-test"], "own is no GLUE task"),
    ):
        code, _, err = command("predict", *arguments)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--text-b", "x"], "--text-b without --text"),
        (["--text", "x", "--input", "y.txt"], "--text and --input: expected one of them"),
        (["--glue", "x"], "--glue has an effect with --glue-test alone"),
        (["--text", "x", "--out", "y"], "--out has an effect with --glue-test alone"),
        (["--glue-test", "--text", "x"], "--glue-test and --text"),
        (["--glue-test", "--gates"], "--glue-test and --gates"),
        (["--output", "x.csv"], "--output has an effect with --input alone"),
        (["--input", "x.csv", "--output", "y.xlsx"], "y.xlsx: expected a name that ends in .csv or .jsonl"),
        (["--input", "x.csv", "--output", "y.csv", "--gates"], "--output and --gates"),
        (["--input", "x.csv", "--output", "./x.csv"], "this is the input"),
        (["--input", "x.csv", "--output", "nowhere/y.csv"], "no folder nowhere"),
        (["--input", "x.csv", "--output", "folder.csv"], "this is a folder; expected a file"),
    ],
)
def test_arguments_that_would_be_ignored_are_errors(command, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    code, _, err = command("predict", "runs/any", *arguments)
    assert code == 2 and message in err.splitlines()[-1]


def test_nan_logits_are_refused(trained, monkeypatch):
    run, _, model, tokenizer = load_run(trained("sst2", "head"))
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(InputError, match="not a number"):
        Predictor(run, model, tokenizer).logits([Example("fine")])
    with pytest.raises(InputError, match="not a number"):
        describe(run.spec, torch.tensor([0.0, float("nan")]))


def test_rows_that_training_skipped_get_no_silent_gap(trained, command, tmp_path, own_data):
    """A run trained with --skip-bad-rows still gives a prediction for every row of a file, or none."""
    folder = trained("own", "head", replace(own_data, skip_bad_rows=True))
    assert load_json(folder / "run.json")["run"]["data"]["skip_bad_rows"]
    (tmp_path / "bad.csv").write_text("first,second\na,b\nc\n")
    code, out, err = command("predict", folder, "--input", tmp_path / "bad.csv")
    assert code == 2 and out == "" and "bad.csv: line 3: 1 column; expected 2" in err


def test_the_device_of_the_command_line_wins(trained, command):
    folder = trained("sst2", "head")
    record = load_json(folder / "run.json")
    record["run"]["device"] = "cuda:99"
    save_json(record, folder / "run.json")
    assert command("predict", folder, "--text", "fine")[0] == 2
    assert command("predict", folder, "--text", "fine", "--device", "cpu")[0] == 0
    assert asdict(load_run(folder, device="cpu")[0])["device"] == "cpu"
