"""The plotting command, on run folders made up as JSON."""

import json
import re
import sys
from pathlib import Path

import pytest

from minipelt import InputError, plot

APL = {"adapter": 223776, "prefix": 46080, "prefix network": 2564864, "lora": 73728, "gates": 9240, "head": 770, "base": 22713216}
GATES = {"prefix": [0.1, 0.2, 0.3], "lora_query": [0.4, 0.5, 0.6], "lora_value": [0.7, 0.8, 0.9], "adapter": [0.15, 0.25, 0.35]}


def make_run(folder, task="sst2", score=0.8, gates=GATES, parameters=APL, finished=True):
    """A run folder with three epochs, the second one best."""
    folder.mkdir()
    record = {"run": {"task": task, "method": {"name": "apl"}}, "parameters": parameters}
    metric = {"sst2": "accuracy", "cola": "matthews"}[task]
    if finished: record["results"] = {"test": {metric: score}, "gates": gates, "best_epoch": 2}
    (folder / "run.json").write_text(json.dumps(record))
    scores = [score - 0.1, score, score - 0.05]
    reports = [{"epoch": i, "loss": 0.7 / i, "score": s, "best_epoch": min(i, 2)} for i, s in enumerate(scores, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    return str(folder)


def error_of(capsys, *argv):
    """The one line that the command prints on stderr when it refuses `argv`."""
    assert plot.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("kind, suffix, start", [("curve", ".png", b"\x89PNG\r\n"), ("gates", ".svg", b"<?xml"), ("compare", ".SVG", b"<?xml")])
def test_the_suffix_sets_the_type(tmp_path, capsys, kind, suffix, start):
    pytest.importorskip("matplotlib")
    runs, out = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "cola", -0.02)], tmp_path / f"x{suffix}"
    assert plot.main([*runs, "--kind", kind, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(start)


def test_the_kind_follows_the_number_of_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    runs = [make_run(Path(name)) for name in "ab"]
    assert plot.main(runs[:1]) == 0 and Path("curve.png").is_file()
    assert plot.main(runs) == 0 and Path("compare.png").is_file()


def test_svg_text_stays_text_and_the_file_repeats(tmp_path):
    pytest.importorskip("matplotlib")
    run, files = make_run(tmp_path / "sst2-apl"), [tmp_path / "1.svg", tmp_path / "2.svg"]
    for file in files: plot.main([run, "--kind", "gates", "--out", str(file)])
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", files[0].read_text(encoding="utf-8"))
    assert {"sst2-apl", "0.10", "0.90", "layer"} <= set(texts)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_curve_draws_every_epoch_and_marks_the_best(tmp_path):
    pytest.importorskip("matplotlib")
    loss, score = plot.draw_curve([make_run(tmp_path / "a", finished=False)]).axes  # an unfinished run has a curve, too
    assert loss.lines[0].get_xydata().tolist() == [[1, 0.7], [2, 0.35], [3, 0.7 / 3]]
    assert score.lines[0].get_ydata() == pytest.approx([70, 80, 75])
    star = score.lines[1]
    assert star.get_marker() == "*" and star.get_xydata()[0] == pytest.approx([2, 80])
    assert score.get_ylabel() == "validation accuracy"


def test_gates_draws_layers_as_rows_and_submodules_as_columns(tmp_path):
    pytest.importorskip("matplotlib")
    panel, other, *_ = plot.draw_gates([make_run(tmp_path / "a"), make_run(tmp_path / "b", gates={"prefix": [0.5], "adapter": [0.6]})]).axes
    image = panel.images[0]
    assert image.get_array().tolist() == [[0.1, 0.4, 0.7, 0.15], [0.2, 0.5, 0.8, 0.25], [0.3, 0.6, 0.9, 0.35]]
    assert image.get_clim() == other.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["prefix", "lora\nquery", "lora\nvalue", "adapter"]
    assert {text.get_position(): text.get_text() for text in panel.texts}[(2, 0)] == "0.70"
    assert other.images[0].get_array().tolist() == [[0.5, 0.6]]


def test_many_panels_wrap(tmp_path):
    pytest.importorskip("matplotlib")
    figure = plot.draw_gates([make_run(tmp_path / str(i)) for i in range(6)])
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["0", "1", "2", "3", "4", "5"]


def test_compare_draws_scores_and_the_parameters_that_are_kept(tmp_path):
    pytest.importorskip("matplotlib")
    ft = {"ft": 22713216, "head": 770, "base": 22713216}
    axes, = plot.draw_compare([make_run(tmp_path / "a", score=0.75), make_run(tmp_path / "b", parameters=ft)]).axes
    assert [bar.get_width() for bar in axes.patches] == [75, 80]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:4] == ["75.00", "80.00", "353,594", "22,713,986"]  # apl: without the network that made the prefixes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_two_metrics_are_named(tmp_path):
    pytest.importorskip("matplotlib")
    axes, = plot.draw_compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", "cola", -0.02)]).axes
    assert [text.get_text() for text in axes.texts][:2] == ["80.00 accuracy", "-2.00 matthews"]


def test_runs_of_one_name_keep_their_paths(tmp_path):
    for parent in "xy": (tmp_path / parent).mkdir()
    runs = [tmp_path / "x" / "a", tmp_path / "y" / "a", tmp_path / "y" / "b"]
    assert plot.run_names(runs) == [str(runs[0]), str(runs[1]), "b"]


def test_unfinished_runs_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path / "a", finished=False)
    for draw in (plot.draw_gates, plot.draw_compare):
        with pytest.raises(InputError, match="no results yet, only --kind curve"): draw([run])
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no epoch has ended yet"): plot.read_reports(run)


def test_bad_input_is_one_line(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run, out = make_run(tmp_path / "a", gates={}), str(tmp_path / "x.png")
    assert "expected a name that ends in .png or .svg" in error_of(capsys, run, "--out", str(tmp_path / "x.pdf"))
    assert "has no gates" in error_of(capsys, run, "--kind", "gates", "--out", out)
    assert "expected a run folder" in error_of(capsys, str(tmp_path / "none"), "--out", out)
    assert "cannot be written" in error_of(capsys, run, "--out", str(tmp_path / "none" / "x.png"))
    (tmp_path / "a" / "metrics.jsonl").write_text('{"epoch": 1')
    assert "metrics.jsonl: line 1: not valid JSON" in error_of(capsys, run, "--out", out)
    (tmp_path / "a" / "run.json").write_text("[]")
    assert "run.json: not a run" in error_of(capsys, run, "--out", out)
    assert not Path(out).exists()


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install -e ".[plot]"' in error_of(capsys, make_run(tmp_path / "a"), "--out", str(tmp_path / "x.png"))
