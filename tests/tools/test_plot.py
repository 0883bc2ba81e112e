"""tools/plot.py, on run folders made up as JSON."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers import ROOT

from minipelt.commands import plot as options
from minipelt.errors import InputError
from minipelt.files import load_json, save_json
from minipelt.settings import Method, Recipe, Run
from minipelt.tools import plot

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

APL = {"adapter": 223776, "prefix": 46080, "prefix network": 2564864, "lora": 73728, "gates": 9240, "head": 770}
LARGE = {"adapter": 22713216, "prefix": 0, "lora": 0, "gates": 0, "head": 770}
GATES = {
    "prefix": [0.1, 0.2, 0.3],
    "lora_query": [0.4, 0.5, 0.6],
    "lora_value": [0.7, 0.8, 0.9],
    "adapter": [0.15, 0.25, 0.35],
}
METRICS = {"sst2": "accuracy", "cola": "matthews"}


def make_run(folder, task="sst2", score=0.8, gates=GATES, parameters=APL, finished=True):
    """A run folder with three epochs, the second one best."""
    folder.mkdir(parents=True)
    record = {"run": asdict(Run(task, Method("apl"), Recipe(1e-3))), "parameters": parameters | {"base": 22713216}}
    if finished:
        record["results"] = {"test": {METRICS[task]: score}, "gates": gates, "best_epoch": 2}
    save_json(record, folder / "run.json")
    scores = [score - 0.1, score, score - 0.05]
    with open(folder / "metrics.jsonl", "w") as log:
        for epoch, value in enumerate(scores, start=1):
            best = {"best_score": max(scores[:epoch]), "best_epoch": min(epoch, 2)}
            log.write(json.dumps({"epoch": epoch, "loss": 0.7 / epoch, "score": value, **best}) + "\n")
    return str(folder)


@pytest.fixture
def matplotlib():
    """Tests that draw need the extra."""
    return pytest.importorskip("matplotlib")


def figure_of(kind, *folders):
    """What the command draws, as a matplotlib Figure."""
    read, draw = plot.KINDS[kind]
    return draw(plot.read_runs(list(folders), read))


# ---- files


@pytest.mark.parametrize(
    "kind, suffix, start",
    [("curve", ".png", b"\x89PNG\r\n"), ("gates", ".svg", b"<?xml"), ("compare", ".SVG", b"<?xml")],
)
def test_the_suffix_sets_the_type(matplotlib, command, tmp_path, kind, suffix, start):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "cola", -0.02)]
    out = tmp_path / f"x{suffix}"
    assert command("plot", *runs, "--kind", kind, "--out", out) == (0, f"{out}\n", "")
    assert out.read_bytes().startswith(start)


def test_a_dollar_in_a_name_is_a_dollar(matplotlib, command, tmp_path):
    """matplotlib would read what stands between two as a formula."""
    runs = [make_run(tmp_path / "US$ to EU$"), make_run(tmp_path / "a$^$b")]
    for kind in plot.KINDS:
        assert command("plot", *runs, "--kind", kind, "--out", tmp_path / "x.svg")[0] == 0
        assert "a$^$b" in (tmp_path / "x.svg").read_text()


def test_the_kind_follows_the_number_of_runs(matplotlib, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make_run(Path(name)) for name in "ab"]
    assert command("plot", runs[0])[0] == 0 and Path("curve.png").is_file()
    assert command("plot", *runs)[0] == 0 and Path("compare.png").is_file()


def test_the_command_line_knows_every_kind():
    assert options.KINDS == tuple(plot.KINDS)


def test_svg_text_stays_text_and_the_file_repeats(matplotlib, command, tmp_path):
    run = make_run(tmp_path / "sst2-apl")
    files = [tmp_path / "1.svg", tmp_path / "2.svg"]
    for file in files:
        command("plot", run, "--kind", "gates", "--out", file)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", files[0].read_text(encoding="utf-8"))
    assert {"sst2-", "apl", "0.10", "0.90", "layer"} - set(texts) <= {"sst2-", "apl"}
    assert "sst2-apl" in texts or {"sst2-", "apl"} <= set(texts)
    assert files[0].read_bytes() == files[1].read_bytes()


# ---- the pictures


def test_curve_draws_every_epoch_and_marks_the_best(matplotlib, tmp_path):
    unfinished = make_run(tmp_path / "a", finished=False)  # it has a curve, too
    loss, score = figure_of("curve", unfinished).axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 0.7], [2, 0.35], [3, 0.7 / 3]]
    assert score.lines[0].get_ydata() == pytest.approx([70, 80, 75])
    star = score.lines[1]
    assert star.get_marker() == "*" and star.get_xydata()[0] == pytest.approx([2, 80])
    assert score.get_ylabel() == "validation accuracy"


def test_more_runs_than_colours_differ_in_their_lines(matplotlib, tmp_path):
    loss = figure_of("curve", *[make_run(tmp_path / str(number)) for number in range(13)]).axes[0]
    looks = {(line.get_color(), line.get_linestyle()) for line in loss.lines}
    assert len(looks) == 13


def test_no_axis_goes_beyond_what_a_score_can_be(matplotlib, tmp_path):
    for task, score, lowest in (("sst2", 1.0, 0), ("cola", -0.2, -100)):
        run = make_run(tmp_path / task, task, score)
        bottom, top = figure_of("curve", run).axes[1].get_ylim()
        assert lowest <= bottom < top <= 100
        left, right = figure_of("compare", run, make_run(tmp_path / f"{task}-2", task, 0.3)).axes[0].get_xlim()
        assert lowest <= left < right <= 100
    assert figure_of("curve", run).axes[0].get_ylim()[0] >= 0  # no loss is negative


@pytest.mark.slow
def test_nothing_is_printed_over_anything_else(matplotlib, tmp_path):
    """Ticks, titles, numbers and the legend, with names as long as they come, do not touch each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    houlsby = {**GATES, "attention.output.adapter": [0.1, 0.2, 0.3], "output.adapter": [0.1, 0.2, 0.3]}
    names = [f"sst2-prefix+lora+houlsby+parallel-bottleneck96-k500-seed{number}" for number in range(5)]
    runs = [make_run(tmp_path / name, gates=houlsby, parameters=APL | {"ft": 334000000}) for name in names]
    for kind in plot.KINDS:
        figure = figure_of(kind, *runs, make_run(tmp_path / f"{kind}-cola", "cola", -0.02))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts_of(figure)]
        whole = figure.bbox
        for number, (text, box) in enumerate(boxes):
            inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
            assert inside, f"{kind}: {text!r} is cut off"
            for other, other_box in boxes[:number]:
                width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
                height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
                assert width <= 1 or height <= 1, f"{kind}: {text!r} over {other!r}"
        for legend in figure.legends:
            assert not any(legend.get_window_extent(renderer).overlaps(axes.bbox) for axes in figure.axes)


def texts_of(figure):
    """Every text that is seen in a Figure. matplotlib also keeps labels of ticks beyond an axis."""
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        if not axes.axison:
            continue
        texts.extend([axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts])
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    texts.extend([tick.label1, tick.label2])
    return [text for text in texts if text.get_text() and text.get_visible()]


def test_gates_draws_layers_as_rows_and_submodules_as_columns(matplotlib, tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", gates={"prefix": [0.5], "adapter": [0.6]})]
    panel, other, *_ = figure_of("gates", *runs).axes
    image = panel.images[0]
    assert image.get_array().tolist() == [[0.1, 0.4, 0.7, 0.15], [0.2, 0.5, 0.8, 0.25], [0.3, 0.6, 0.9, 0.35]]
    assert image.get_clim() == other.images[0].get_clim() == (0, 1)
    labels = [label.get_text() for label in panel.get_xticklabels()]
    assert labels == ["prefix", "lora\nquery", "lora\nvalue", "adapter"]
    assert {text.get_position(): text.get_text() for text in panel.texts}[(2, 0)] == "0.70"
    assert other.images[0].get_array().tolist() == [[0.5, 0.6]]


def test_many_panels_wrap(matplotlib, tmp_path):
    figure = figure_of("gates", *[make_run(tmp_path / str(number)) for number in range(6)])
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["0", "1", "2", "3", "4", "5"]


def test_compare_draws_scores_and_the_parameters_that_are_kept(matplotlib, tmp_path):
    runs = [make_run(tmp_path / "a", score=0.75), make_run(tmp_path / "b", parameters=LARGE)]
    (axes,) = figure_of("compare", *runs).axes
    assert [bar.get_width() for bar in axes.patches] == [75, 80]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:4] == ["75.00", "353,594", "80.00", "22,713,986"]  # without the network that made the prefixes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "test accuracy"


def test_two_metrics_are_named(matplotlib, tmp_path):
    (axes,) = figure_of("compare", make_run(tmp_path / "a"), make_run(tmp_path / "b", "cola", -0.02)).axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "80.00 accuracy" and texts[2] == "-2.00 matthews"


def test_runs_of_one_name_keep_their_paths(tmp_path):
    for parent in "xy":
        (tmp_path / parent).mkdir()
    runs = [tmp_path / "x" / "a", tmp_path / "y" / "a", tmp_path / "y" / "b"]
    assert plot.run_names(runs) == [str(runs[0]), str(runs[1]), "b"]


# ---- refusals


def test_what_is_no_finished_run_is_passed_over_with_a_line(matplotlib, command, tmp_path):
    """As the shell hands over runs/*: results of a sweep, a run that goes on, an empty folder, a broken one."""
    runs = [make_run(tmp_path / "runs" / name) for name in "ab"]
    make_run(tmp_path / "runs" / "unfinished", finished=False)
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "results.jsonl").write_text("{}\n")
    make_run(tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "run.json").write_text('{"run": ')
    out = tmp_path / "x.svg"
    code, _, err = command("plot", *sorted((tmp_path / "runs").iterdir()), "--out", out)
    assert code == 0
    passed_over = re.findall(r"passed over: \S*/runs/(\w+)", err)
    assert passed_over == ["broken", "empty", "results", "unfinished"]
    assert err.count("\n") == 4
    picture = out.read_text()
    assert all(f">{Path(run).name}</text>" in picture for run in runs) and "unfinished" not in picture
    code, _, err = command("plot", tmp_path / "runs" / "empty", tmp_path / "runs" / "unfinished")
    assert code == 2 and err.splitlines()[-1] == "error: none of the 2 can be drawn; expected at least one run folder"


def test_a_run_that_does_not_exist_is_named(matplotlib, command, tmp_path):
    run, missing = make_run(tmp_path / "a"), tmp_path / "typo"
    for runs in ([missing], [run, missing]):
        code, _, err = command("plot", *runs)
        assert code == 2
        assert err == f"error: {missing}: no such run; expected a run folder, such as train.py leaves in runs/\n"


def test_unfinished_runs_are_refused(matplotlib, tmp_path):
    run = make_run(tmp_path / "a", finished=False)
    for kind in ("gates", "compare"):
        with pytest.raises(InputError, match="no results yet, only --kind curve"):
            figure_of(kind, run)
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no epoch has ended yet"):
        figure_of("curve", run)


def test_an_imported_run_is_not_told_to_go_on(matplotlib, tmp_path, capsys):
    """Nothing of it can: it has trained tensors, and neither a training state nor a log."""
    run = make_run(tmp_path / "a", finished=False)
    (tmp_path / "a" / "metrics.jsonl").unlink()
    (tmp_path / "a" / "trained.safetensors").write_bytes(b"")
    for kind in ("gates", "compare"):
        with pytest.raises(InputError, match="no test score on record; expected a run that was trained here") as caught:
            figure_of(kind, run)
        assert "--resume" not in str(caught.value)
    (tmp_path / "a" / "resume.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="go on with: python train.py --resume"):
        figure_of("compare", run)


def test_bad_input_is_one_line(matplotlib, command, tmp_path):
    run, out = make_run(tmp_path / "a", gates={}), tmp_path / "x.png"

    def error_of(*arguments):
        code, shown, err = command("plot", *arguments)
        assert code == 2 and not shown
        return err.splitlines()[-1]

    assert "expected a name that ends in .png or .svg" in error_of(run, "--out", tmp_path / "x.pdf")
    assert "has no gates" in error_of(run, "--kind", "gates", "--out", out)
    assert "x.png: cannot be written" in error_of(run, "--out", tmp_path / "none" / "x.png")
    odd_loss = '{"epoch": 1, "loss": [], "score": 1, "best_score": 1, "best_epoch": 1}'
    odd_epoch = '{"epoch": true, "loss": 1, "score": 1, "best_score": 1, "best_epoch": 1}'
    odd_best = '{"epoch": 1, "loss": 1, "score": 1, "best_score": 0.5, "best_epoch": 1}'
    for line in ('{"epoch": 1', "[]", '{"epoch": 1}', odd_loss, odd_epoch, odd_best, "[" * 9999):
        (tmp_path / "a" / "metrics.jsonl").write_text(line)
        assert "metrics.jsonl: line 1: not the report of an epoch" in error_of(run, "--out", out)
    record = load_json(tmp_path / "a" / "run.json")
    for results, message in (
        ([], "results is []; expected an object"),
        ({"test": 1, "gates": 1}, "results: test is 1; expected an object"),
        ({"test": {"accuracy": None}, "gates": {}}, "results: test: accuracy is None; expected a number from -1 to 1"),
        ({"test": {"accuracy": 1}, "gates": {"adapter": ["x"]}}, "results: gates: adapter is 'x'; expected a number"),
    ):
        save_json(record | {"results": results}, tmp_path / "a" / "run.json")
        for kind in ("gates", "compare"):
            assert f"run.json: {message}" in error_of(run, "--kind", kind, "--out", out)
    (tmp_path / "a" / "run.json").write_text("[]")
    assert "run.json: not the settings of a run" in error_of(run, "--out", out)
    assert not out.exists()


def test_without_matplotlib_one_line_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = command("plot", make_run(tmp_path / "a"), "--out", tmp_path / "x.png")
    assert code == 2 and err.count("\n") == 1 and 'pip install -e ".[plot]"' in err


def test_the_rest_of_minipelt_imports_no_matplotlib():
    """It is an extra: only this tool and the paper's pictures draw, and only when they are asked to."""
    for path in sorted((ROOT / "minipelt").rglob("*.py")):
        assert not re.search(r"^(import|from) matplotlib", path.read_text(encoding="utf-8"), re.MULTILINE), path
