"""sweep.py: the grid, the results file, kills, ranks, failures; on the tiny model, as a user would start it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minipelt import InputError, experiment, sweep
from minipelt.run import Run
from minipelt.sweep import append, grid, main, make_parser, mend, read_results
from test_parallel import ENVIRONMENT, TORCHRUN, launch

SMALL = ["--tasks", "sst2", "stsb", "--methods", "lora,apl", "ft", "--k", "20", "--seeds", "2", "--epochs", "2", "--valid-rows", "20",
         "--max-length", "24", "--glue", "miniglue", "--device", "cpu"]


def runs(*arguments):
    return grid(make_parser().parse_args(["--glue", "miniglue", *arguments]))


def lines(folder):
    return sorted((folder / "results.jsonl").read_bytes().splitlines())


# ---- the grid


def test_the_whole_paper_is_one_line():
    found = runs("--tasks", "all", "--methods", "ft,bitfit,adapter,prefix,lora,ap,apl", "--k", "100", "500", "1000", "all", "--seeds", "5")
    assert len(found) == len(set(found)) == 8 * 7 * 4 * 5
    assert {run.k for run in found} == {100, 500, 1000, None}
    assert [run.recipe.seed for run in found] == sorted(run.recipe.seed for run in found)


def test_no_gate_adds_a_variant_to_unions_alone():
    names = [run.method.name + "-nogate" * (not run.method.gate) for run in runs("--tasks", "sst2", "--methods", "lora,apl,ab", "--seeds", "1", "--no-gate")]
    assert names == ["lora", "apl", "apl-nogate", "ab"]


def test_hyperparameters_multiply_only_where_they_matter():
    found = runs("--tasks", "cola", "--methods", "adapter", "lora", "apl", "ft", "--seeds", "1", "--bottleneck", "48", "256", "--alpha", "2", "16", "32")
    assert [(run.method.name, run.method.bottleneck, run.method.alpha) for run in found] == [
        ("adapter", 48, 16), ("adapter", 256, 16), ("lora", 48, 2), ("lora", 48, 16), ("lora", 48, 32), ("apl", 48, 16), ("apl", 256, 16), ("ft", 48, 16),
    ]
    assert len({run.name for run in found}) == len(found)
    assert found == runs("--tasks", "cola", "--methods", "adapter,lora,apl,ft", "--seeds", "1", "--bottleneck", "48,256", "--alpha", "2,16", "32")
    with pytest.raises(SystemExit): runs("--methods", "lora", "--alpha", "many")


def test_what_is_said_twice_is_done_once():
    assert len(runs("--tasks", "cola,CoLA", "--methods", "a,adapter", "--k", "100,100", "--seeds", "1")) == 1


def test_learning_rates_are_a_list_too():
    assert [run.name for run in runs("--tasks", "cola", "--methods", "lora", "--seeds", "1", "--lr", "1e-3", "2e-3")] == ["cola-lora-k100-seed1", "cola-lora-lr0.002-k100-seed1"]


@pytest.mark.parametrize("arguments, message", [
    (["--tasks", "wnli", "--methods", "ft"], "unknown task 'wnli'"), (["--methods", "xyz"], "unknown method 'xyz'"),
    (["--methods", "ft", "--k", "many"], "--k many: expected a number of training rows, or all"),
    (["--methods", "ft", "--seeds", "0"], "--seeds"), (["--methods", "ft", "--k", "100000"], "leaves none for validation"),
    (["--methods", "ft", "--glue", "nowhere"], "no such file"), (["--methods", "top", "--top-layers", "9"], "top_layers is 9; "),
    (["--methods", "ft", "--max-length", "1000"], "has 128 positions"),
])
def test_wrong_input_is_found_before_anything_is_written(tmp_path, monkeypatch, capsys, tiny_folder, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["--model", str(tiny_folder), "--max-length", "24", *arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err and not Path("results").exists()


# ---- the results file


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, {"run": {"seed": 1}})
    append(path, {"run": {"seed": 2}, "error": "no"})
    whole = path.read_bytes()
    with open(path, "ab") as file: file.write(b'{"run": {"se')
    assert len(read_results(path)) == 2
    mend(path)
    assert path.read_bytes() == whole


def test_a_foreign_results_file_is_refused_and_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"run": {}}\nhello\n')
    with pytest.raises(InputError, match="line 2: not a line that a sweep wrote"): mend(path)
    assert path.read_text() == '{"run": {}}\nhello\n'


# ---- the work


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing disturbed: (its folder, the model's folder)."""
    from conftest import TINY, WORDS
    from dataclasses import asdict
    from minipelt.bert import BertModel
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny").mkdir()
    (folder / "tiny/config.json").write_text(json.dumps(asdict(TINY)))
    (folder / "tiny/vocab.txt").write_text("\n".join(WORDS) + "\n")
    save_file(BertModel(TINY).state_dict(), folder / "tiny/model.safetensors")
    assert main([*SMALL, "--model", str(folder / "tiny"), "--out", str(folder / "out")]) == 0
    return folder / "out", folder / "tiny"


def test_every_run_is_a_line_without_times(whole):
    records = read_results(whole[0] / "results.jsonl")
    assert len(records) == 12 and all(set(record["results"]) == {"test", "gates", "validation", "best_epoch", "epochs"} for record in records)
    times = [json.loads(line) for line in open(whole[0] / "times.jsonl")]
    assert {entry["name"] for entry in times} >= {"sst2-lora-k20-seed1", "stsb-ft-k20-seed2"} and all(entry["seconds"] > 0 for entry in times)
    assert not list((whole[0] / "runs").iterdir())


def test_a_run_of_a_sweep_is_the_run_alone(whole, tmp_path):
    record = next(record for record in read_results(whole[0] / "results.jsonl") if record["run"]["task"] == "stsb" and record["run"]["recipe"]["seed"] == 2)
    run = Run.from_dict(record["run"], "results.jsonl")
    alone = experiment.run_experiment(experiment.prepare(run), experiment.new_folder(run, tmp_path))
    assert alone["results"]["test"] == record["results"]["test"] and alone["parameters"] == record["parameters"]


def test_running_again_does_nothing(whole, capsys):
    before = (whole[0] / "results.jsonl").read_bytes()
    assert main([*SMALL, "--model", str(whole[1]), "--out", str(whole[0])]) == 0
    assert (whole[0] / "results.jsonl").read_bytes() == before


def test_a_killed_and_resumed_sweep_equals_an_uninterrupted_one(whole, tmp_path):
    """SIGKILL after the second run; a half-written line is left behind as well."""
    command = [sys.executable, "-m", "minipelt.sweep", *SMALL, "--model", str(whole[1]), "--out", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = tmp_path / "out/results.jsonl"
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 2): time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= path.read_bytes().count(b"\n") < 12
    with open(path, "ab") as file: file.write(b'{"run": {"task": "ss')
    launch(command, tmp_path)
    assert lines(tmp_path / "out") == lines(whole[0])


def test_a_run_s_leftovers_are_used_only_by_the_same_run(whole, tmp_path, monkeypatch):
    """A killed sweep left a run in the middle; another one with more epochs starts it anew."""
    def interrupt_at_once(*_): raise KeyboardInterrupt

    command = ["--tasks", "sst2", "--methods", "lora", "--k", "20", "--seeds", "1", *SMALL[12:], "--model", str(whole[1]), "--out"]

    def killed(folder):
        run, = grid(make_parser().parse_args([*command, str(tmp_path), "--epochs", "2"]))
        left = tmp_path / folder / "runs" / run.name
        left.mkdir(parents=True)

        def interrupt(line):
            if line.startswith("epoch  1"): raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt): experiment.run_experiment(experiment.prepare(run), left, interrupt, save_seconds=0)
        assert (left / "resume.safetensors").is_file()

    for epochs in ("2", "4"):
        killed(epochs)
        if epochs == "4":  # and this one is killed as well, after it wrote its settings and before its first epoch ended
            with monkeypatch.context() as patch:
                patch.setattr(experiment, "train", interrupt_at_once)
                assert main([*command, str(tmp_path / epochs), "--epochs", epochs]) == 130
        assert main([*command, str(tmp_path / epochs), "--epochs", epochs]) == main([*command, str(tmp_path / f"{epochs}-fresh"), "--epochs", epochs]) == 0
        assert lines(tmp_path / epochs) == lines(tmp_path / f"{epochs}-fresh")


def test_an_interrupt_says_how_to_go_on(whole, tmp_path, monkeypatch, capsys):
    def interrupt(*_): raise KeyboardInterrupt
    monkeypatch.setattr(sweep, "run_one", interrupt)
    assert main([*SMALL, "--model", str(whole[1]), "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err


def test_two_ranks_equal_one(whole, tmp_path):
    printed = launch([*TORCHRUN, "-m", "minipelt.sweep", *SMALL, "--model", str(whole[1]), "--out", "out"], tmp_path)
    assert lines(tmp_path / "out") == lines(whole[0])
    assert all(f"{i:>5} of 12" in printed for i in range(1, 13))


def test_a_failed_run_is_recorded_and_the_others_go_on(whole, tmp_path, monkeypatch, capsys):
    real = experiment.train

    def fail_for_lora(model, rows, recipe, *rest):
        if not model.bert.prefix: raise RuntimeError("out of something")
        return real(model, rows, recipe, *rest)

    arguments = ["--tasks", "sst2", "--methods", "lora,apl", "--k", "20", "--seeds", "1", *SMALL[10:], "--model", str(whole[1]), "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train", fail_for_lora)
        assert main(arguments) == 1
    assert "failed: RuntimeError('out of something')" in capsys.readouterr().out
    records = read_results(tmp_path / "results.jsonl")
    assert ["error" in record for record in records] == [True, False] and records[0]["run"]["method"]["name"] == "lora"
    assert main(arguments) == 0 and read_results(tmp_path / "results.jsonl") == records  # a failure is not tried again by itself
    assert main([*arguments, "--seeds", "1", "--methods", "apl", "--retry-failed"]) == 0
    assert read_results(tmp_path / "results.jsonl") == records  # nor is it forgotten by a sweep that does not hold it
    assert main([*arguments, "--retry-failed"]) == 0
    assert not any("error" in record for record in read_results(tmp_path / "results.jsonl"))


def test_a_failed_run_does_not_stop_the_other_process(whole, tmp_path):
    """Two of four runs fail at once, wherever they run; both processes end with exit code 1 and every run is on record."""
    program = tmp_path / "sweep_that_fails.py"
    program.write_text("import sys\nfrom minipelt import experiment, sweep\nreal = experiment.train\n"
                       "def train(model, rows, recipe, *rest):\n    if recipe.learning_rate > 1: raise RuntimeError('too hot')\n    return real(model, rows, recipe, *rest)\n"
                       "experiment.train = train\nsys.exit(sweep.main())\n")
    arguments = ["--tasks", "sst2", "--methods", "lora", "--lr", "9,1e-3,2e-3,8", "--k", "20", "--seeds", "1", *SMALL[10:], "--model", str(whole[1]), "--out", "out"]
    result = subprocess.run([*TORCHRUN, str(program), *arguments], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode and "4 runs on record" in result.stdout
    assert sorted(record.get("error", "") for record in read_results(tmp_path / "out/results.jsonl")) == ["", "", *["RuntimeError('too hot')"] * 2]


def test_another_protocol_wants_another_folder(whole, capsys):
    arguments = [*SMALL, "--model", str(whole[1]), "--out", str(whole[0]), "--epochs", "3"]
    assert main(arguments) == 2 and "has runs of sst2 with epochs 2; for 3, expected another --out" in capsys.readouterr().err


def test_an_empty_grid_is_refused(capsys):
    assert main(["--tasks", "sst2", "--methods", ",", "--glue", "miniglue"]) == 2 and "an empty grid" in capsys.readouterr().err


def test_what_needs_no_mending_is_not_written_again(whole, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes((whole[0] / "results.jsonl").read_bytes())
    before = path.stat().st_ino
    mend(path)
    assert path.stat().st_ino == before and path.read_bytes() == (whole[0] / "results.jsonl").read_bytes()


def test_sample_rows_do_not_count_as_the_real_ones():
    sample, real, elsewhere = (sweep.settings(runs("--tasks", "cola", "--methods", "ft", "--seeds", "1", "--glue", place)[0]) for place in ("miniglue", "glue", "/data/glue"))
    assert sample != real == elsewhere


def test_an_unwritable_folder_is_found_before_the_first_run(whole, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMALL, "--model", str(whole[1]), "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_dry_run_lists_and_trains_nothing(whole, tmp_path, capsys):
    assert main([*SMALL, "--model", str(whole[1]), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("at most") == 13 and "12 of 12 runs to do" in out and not (tmp_path / "out").exists()
    assert main([*SMALL, "--model", str(whole[1]), "--out", str(whole[0]), "--dry-run"]) == 0
    assert "0 of 12 runs to do" in capsys.readouterr().out
