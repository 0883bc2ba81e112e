"""grid.py: a sweep's command line -> its runs."""

import pytest

from minipelt.commands.sweep import make_parser
from minipelt.errors import InputError
from minipelt.glue import MINIGLUE
from minipelt.paper.grid import grid

PAPER = ["--methods", "ft,bitfit,adapter,prefix,lora,ap,apl", "--k", "100", "500", "1000", "all", "--seeds", "5"]


def runs(*arguments):
    """The runs of a command line on the sample rows."""
    return grid(make_parser("sweep").parse_args(["--glue", "miniglue", *arguments]))


def test_the_whole_paper_is_one_line():
    found = runs("--tasks", "all", *PAPER)
    assert len(found) == len(set(found)) == 8 * 7 * 4 * 5
    assert {run.k for run in found} == {100, 500, 1000, None}
    seeds = [run.recipe.seed for run in found]
    assert seeds == sorted(seeds) and set(seeds) == {1, 2, 3, 4, 5}


def test_no_gate_adds_a_variant_to_unions_alone():
    found = runs("--tasks", "sst2", "--methods", "lora,apl,ab", "--seeds", "1", "--no-gate")
    assert [(run.method.name, run.method.gate) for run in found] == [
        ("lora", True), ("apl", True), ("apl", False), ("ab", True),
    ]


def test_hyperparameters_multiply_only_where_they_matter():
    found = runs(
        "--tasks", "cola", "--methods", "adapter", "lora", "apl", "ft", "--seeds", "1",
        "--bottleneck", "48", "256", "--alpha", "2", "16", "32",
    )
    assert [(run.method.name, run.method.bottleneck, run.method.alpha) for run in found] == [
        ("adapter", 48, 16), ("adapter", 256, 16), ("lora", 48, 2), ("lora", 48, 16), ("lora", 48, 32),
        ("apl", 48, 16), ("apl", 256, 16), ("ft", 48, 16),
    ]
    assert len({run.name for run in found}) == len(found)


def test_commas_and_spaces_are_alike():
    spaces = runs("--tasks", "cola", "--methods", "adapter", "lora", "--bottleneck", "48", "256", "--alpha", "2", "16")
    assert spaces == runs("--tasks", "cola", "--methods", "adapter,lora", "--bottleneck", "48,256", "--alpha", "2,16")


def test_what_is_no_number_is_refused(capsys):
    with pytest.raises(SystemExit):
        runs("--methods", "lora", "--alpha", "2", "many")
    assert "--alpha 2 many: expected numbers" in capsys.readouterr().err


def test_every_hyperparameter_reaches_the_method():
    (run,) = runs(
        "--tasks", "cola", "--methods", "apl+top+diff", "--seeds", "1", "--no-gate",
        "--bottleneck", "7", "--prefix-length", "6", "--rank", "5", "--alpha", "4", "--top-layers", "3",
        "--share", "0.2",
    )[1:]
    method = run.method
    assert (method.bottleneck, method.prefix_length, method.rank) == (7, 6, 5)
    assert (method.alpha, method.top_layers, method.share) == (4.0, 3, 0.2)


def test_training_settings_reach_every_run():
    found = runs(
        "--tasks", "cola", "--methods", "lora", "--seeds", "2", "--valid-rows", "11", "--max-length", "12",
        "--batch-size", "13", "--epochs", "14", "--patience", "5", "--model", "some/base", "--device", "cpu",
    )
    for run in found:
        assert (run.valid_rows, run.max_length, run.model, run.device) == (11, 12, "some/base", "cpu")
        assert (run.recipe.batch_size, run.recipe.epochs, run.recipe.patience) == (13, 14, 5)


def test_what_is_said_twice_is_done_once():
    assert len(runs("--tasks", "cola,CoLA", "--methods", "a,adapter", "--k", "100,100", "--seeds", "1")) == 1


def test_learning_rates_are_a_list_too():
    found = runs("--tasks", "cola", "--methods", "lora", "--seeds", "1", "--lr", "1e-3", "2e-3")
    assert [run.name for run in found] == ["cola-sample-lora-k100-seed1", "cola-sample-lora-lr0.002-k100-seed1"]


@pytest.mark.parametrize("arguments, message", [
    (["--tasks", "wnli", "--methods", "ft"], "unknown task 'wnli'"),
    (["--methods", "xyz"], "unknown method 'xyz'"),
    (["--methods", "ft", "--k", "many"], "--k many: expected a number of training rows, or all"),
    (["--methods", "ft", "--k", "0"], "k is 0; expected a number above 0"),
    (["--methods", "ft", "--seeds", "0"], "--seeds 0: expected a number of at least 1"),
    (["--methods", ","], "an empty grid"),
    (["--methods", "ft", "--tasks", ","], "an empty grid"),
])
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        runs(*arguments)


def write_rows(path, labels):
    """A CSV file with a row for each label. Returns the path as a string."""
    path.write_text("review,stars\n" + "".join(f"text {label},{label}\n" for label in labels))
    return str(path)


def own_runs(tmp_path, *arguments):
    """The runs of a command line on own files."""
    train, dev = write_rows(tmp_path / "mine.csv", "120"), write_rows(tmp_path / "dev.csv", "02")
    columns = ["--text-column", "review", "--label-column", "stars", "--methods", "lora,apl", "--seeds", "1"]
    return grid(make_parser("sweep").parse_args(["--train", train, "--dev", dev, *columns, *arguments]))


def test_own_files_in_place_of_tasks(tmp_path):
    lora, apl = own_runs(tmp_path)
    assert [run.name for run in (lora, apl)] == ["mine-lora-seed1", "mine-apl-seed1"]
    assert lora.k is None and lora.glue == "" and lora.data.labels == ("0", "1", "2")
    assert (lora.data.text, lora.data.label, lora.data.dev) == ("review", "stars", str(tmp_path / "dev.csv"))
    run, *_ = own_runs(tmp_path, "--name", "reviews", "--k", "2", "--regression")
    assert run.name == "reviews-lora-k2-seed1" and run.spec.metrics == ("spearman", "pearson")


def test_own_files_need_a_dev_file_and_a_name(tmp_path):
    train = write_rows(tmp_path / "mine.csv", "12")
    with pytest.raises(InputError, match="--train without --dev"):
        grid(make_parser("sweep").parse_args(["--train", train, "--methods", "lora"]))
    with pytest.raises(InputError, match="--name 'a/b': expected a name that a folder can have"):
        own_runs(tmp_path, "--name", "a/b")


def test_the_sample_rows_are_the_sample_rows_however_they_are_written():
    (run,) = grid(make_parser("sweep").parse_args(
        ["--glue", str(MINIGLUE), "--tasks", "cola", "--methods", "ft", "--seeds", "1"]
    ))
    assert run.sample_rows


def test_the_sample_rows_stand_in_for_absent_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["--tasks", "cola", "sst2", "--methods", "ft", "--seeds", "1"]
    (tmp_path / "glue/CoLA").mkdir(parents=True)
    assert {run.glue for run in grid(make_parser("sweep").parse_args(command))} == {"miniglue"}
    assert "glue/SST-2" in capsys.readouterr().out
    (tmp_path / "glue/SST-2").mkdir()
    assert {run.glue for run in grid(make_parser("sweep").parse_args(command))} == {"glue"}


def test_a_start_at_zero_is_for_regression_alone():
    """Elsewhere it would be the same run once more, under another name."""
    command = ["--tasks", "sst2", "stsb", "--methods", "lora", "--seeds", "1", "--zero-start"]
    runs = grid(make_parser("sweep").parse_args(command))
    assert [(run.task, run.zero_start) for run in runs] == [("sst2", False), ("stsb", True)]
