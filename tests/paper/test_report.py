"""report.py and charts.py: what the tables become on disk; the committed reports, made again."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
from helpers import sweep_record as record

import minipelt.paper
from minipelt.__main__ import main
from minipelt.paper.markdown import difference_table
from minipelt.paper.report import ranked
from minipelt.settings import Data, Run

RESULTS = Path(minipelt.paper.__file__).parent / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/results.jsonl"))


def write_results(folder, records):
    """Write a results.jsonl. Returns its folder."""
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return folder


def widths():
    """Records of Houlsby's adapters in two widths, two seeds each."""
    records = []
    for size in (8, 64):
        records += [record("cola", "houlsby", seed, size / 100, bottleneck=size) for seed in (1, 2)]
    return records


def two_tasks():
    """Three seeds of adapter, prefix and ap on SST-2, half as good on CoLA, and ap without gates."""
    records = []
    for method, scores in (("adapter", (0.70, 0.72, 0.74)), ("prefix", (0.6, 0.6, 0.6)), ("ap", (0.80, 0.79, 0.84))):
        for seed, score in enumerate(scores, start=1):
            records += [record("cola", method, seed, score / 2), record("sst2", method, seed, score)]
    return records + [record("sst2", "ap", seed, 0.75, gate=False) for seed in (1, 2, 3)]


@pytest.fixture
def no_charts(monkeypatch):
    """Leave the figures out, which take most of the time."""
    monkeypatch.setattr("minipelt.paper.report.draw_charts", lambda tables, out: None)


def test_best_and_second_are_marked_and_ties_share():
    column = [(1.0, "1"), (3.0, "3"), (2.0, "2"), (None, ""), (3.001, "3")]
    assert ranked(column) == ["1", "**3**", "<u>2</u>", "", "**3**"]


@pytest.mark.parametrize("p, text", [(0.0049, "&lt;0.01"), (0.006, "0.01"), (0.034, "0.03"), (math.nan, "--")])
def test_a_difference_stands_with_its_p(p, text):
    rows = [{"k": 100, "method": "lora", "task": "cola", "difference": 1.234, "p": p}]
    table = difference_table(rows, ["sst2", "cola", "avg"], "method")
    assert f"| 100 | `lora` |  | +1.23<sub>{text}</sub> |  |" in table


def test_the_files(tmp_path, capsys):
    failed = {"run": record("rte", "lora", 1, 0)["run"], "error": "too hot"}
    write_results(tmp_path, [*two_tasks(), failed])
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    out, err = capsys.readouterr()
    assert text.strip() in out
    assert "Table 4 is missing; measure it with: python -m minipelt timing --out" in err
    assert "\n\n1 run failed: rte lora: too hot" in text
    assert "| `ap` | 7 | **81.00<sub>2.6</sub>** | **40.50<sub>1.3</sub>** | **60.75<sub>2.0</sub>** |" in text
    assert "| *paper: ap* |  | 77.22 | 14.42 | 45.82 |" in text
    with open(tmp_path / "table1.csv") as file:
        rows = list(csv.DictReader(file))
    assert {
        "k": "100", "method": "ap", "task": "sst2",
        "mean": "81.0000", "deviation": "2.6458", "seeds": "3", "paper": "77.2200",
    } in rows


def test_the_sections(tmp_path):
    write_results(tmp_path, two_tasks())
    timing = {"device": "cpu", "threads": 1, "repeats": 3, "model": "tiny", "batch_size": 4, "task": "sst2", "base": 9,
              "methods": [{"method": "ft", "parameters": 9, "training": 1.0, "inference": 1.0}]}
    (tmp_path / "timing.json").write_text(json.dumps(timing))
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert re.findall(r"^## (.*)", text, flags=re.MULTILINE) == [
        "Table 1: K = 100", "`ap` minus each other method", "Table 2: unions against the best of their submodules",
        "Table 3: with gates minus without", "Table 4: parameters and time", "Mean gates",
    ]
    assert "| 100 | `adapter` | +9.00<sub>" in text  # ap minus adapter on SST-2
    assert "| 100 | `ap` | +6.00<sub>" in text  # with gates minus without
    assert "on cpu with 1 thread: medians of 3 turns after" in text
    assert "| `ft` | 9 | 100.00 | 100.00 |  | 100.00 |  |" in text
    assert "| 100 | sst2 | `ap` | 0.40 |" in text
    names = {"table1", "table2", "table3", "table4", "comparisons", "gates"}
    assert {path.stem for path in (tmp_path / "out").glob("*.csv")} == names


def test_sample_rows_are_never_called_official(tmp_path, no_charts):
    write_results(tmp_path, [record(task, "ap", 1, 0.5, glue="miniglue") for task in ("sst2", "cola")])
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "2 runs on all-MiniLM-L6-v2 and the sample rows" in text and "which says nothing about GLUE" in text
    assert "| method | parameters | sst2-sample<br>accuracy | cola-sample<br>matthews | average |" in text
    assert "official" not in text and "paper:" not in text and "The paper's numbers" not in text


def test_own_data_has_its_own_report(tmp_path, no_charts):
    data = Data("my.csv", "dev.csv", labels=("no", "yes"))
    write_results(tmp_path, [record("a|b", "ap", seed, seed / 4, data=data) for seed in (1, 2)])
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "and own files, seeds 1, 2. At most 50 epochs, patience 10, the dev file picks the best epoch" in text
    assert "Scores are percent on the own test file, or the dev file where there is none" in text
    assert "| method | parameters | a\\|b<br>accuracy | average |" in text and "**37.50<sub>17.7</sub>**" in text
    assert "official" not in text and "paper" not in text


def test_what_does_not_compare_gets_no_average(tmp_path, no_charts):
    write_results(tmp_path, [record("sst2", "ap", 1, 0.5), record("rte", "ap", 1, 0.7, glue="miniglue")])
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| method | parameters | sst2<br>accuracy | rte-sample<br>accuracy |\n" in text
    assert "No average: these tasks differ in their base or in their kind of rows." in text
    assert "(GLUE) the official dev set, and (the sample rows) the sample rows' own dev set" in text
    assert "| *paper: ap* |  | 77.22 |  |" in text


def test_on_different_bases_a_method_has_no_one_size(tmp_path, no_charts):
    large = record("rte", "lora", 1, 0.7, model="bert-base-uncased")
    large["parameters"]["lora"] = 28
    write_results(tmp_path, [record("sst2", "lora", 1, 0.5), large])
    assert main(["report", str(tmp_path)]) == 0
    assert "| `lora` |  | **50.00<sub>--</sub>** | **70.00<sub>--</sub>** |" in (tmp_path / "report.md").read_text()


def test_score_against_trained_parameters(tmp_path, no_charts):
    write_results(tmp_path, [*widths(), *(record("cola", "ft", seed, 0.5) for seed in (1, 2))])
    assert main(["report", str(tmp_path)]) == 0
    assert "## Score against trained parameters" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "tradeoff.csv").is_file()


@pytest.mark.slow
def test_without_a_complete_average_each_task_stands_alone(tmp_path):
    records = [record("sst2", "ft", 1, 0.5)]
    records += [record("cola", "adapter", 1, 0.5, bottleneck=size) for size in (8, 64)]
    write_results(tmp_path, records)
    assert main(["report", str(tmp_path)]) == 0
    lines = (tmp_path / "tradeoff.csv").read_text().splitlines()
    assert [line.split(",")[3] for line in lines] == ["task", "sst2", "cola", "cola"]


def test_small_numbers_of_a_sweep_are_written_as_typed(tmp_path, no_charts):
    records = []
    for share in (0.005, 0.00025):
        records += [record("cola", "diff", seed, 0.5, share=share) for seed in (1, 2)]
    for other in records[:2]:
        records.append(json.loads(json.dumps(other)))
        records[-1]["run"]["recipe"]["learning_rate"] = 2e-5
    write_results(tmp_path, records)
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| 0.00025 |" in text and "| 2e-05 |" in text
    assert "\n100,cola,diff,2e-05," in (tmp_path / "learning_rate.csv").read_text()


def test_no_results(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no such file; expected a folder that a sweep wrote" in capsys.readouterr().err


def test_every_line_is_parsed_once(tmp_path, monkeypatch, no_charts):
    records = [*two_tasks(), {"run": record("rte", "lora", 1, 0)["run"], "error": "too hot"}]
    write_results(tmp_path, records)
    real, places = Run.from_dict, []

    def from_dict(values, place):
        places.append(place)
        return real(values, place)

    monkeypatch.setattr(Run, "from_dict", from_dict)
    assert main(["report", str(tmp_path)]) == 0
    assert places == [f"{tmp_path}/results.jsonl: line {number}" for number in range(1, len(records) + 1)]


# ---- figures


@pytest.mark.slow
def test_the_figures(tmp_path):
    pytest.importorskip("matplotlib")
    write_results(tmp_path, widths())
    assert main(["report", str(tmp_path)]) == 0
    for name in ("tradeoff", "bottleneck"):
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


def test_without_matplotlib_the_tables_are_there(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr("minipelt.paper.charts.draw_tradeoff", refuse)
    write_results(tmp_path, widths())
    assert main(["report", str(tmp_path)]) == 0
    assert 'pip install -e ".[plot]"' in capsys.readouterr().err
    assert (tmp_path / "tradeoff.csv").is_file() and (tmp_path / "report.md").is_file()


# ---- the committed reports


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_committed_report_comes_out_again(tmp_path, name):
    """Byte for byte; figures too, where this is the matplotlib that drew them."""
    folder = tmp_path / name
    folder.mkdir()
    for source in ("results.jsonl", "timing.json"):
        if (RESULTS / name / source).is_file():
            (folder / source).write_bytes((RESULTS / name / source).read_bytes())
    assert main(["report", str(folder)]) == 0
    committed = sorted(path.name for path in (RESULTS / name).iterdir())
    for file in committed:
        if file.endswith(".svg") and not drawn_by_this_matplotlib(RESULTS / name / file):
            continue
        assert (folder / file).read_bytes() == (RESULTS / name / file).read_bytes(), file


def drawn_by_this_matplotlib(path):
    """Whether an SVG names the version of matplotlib that is installed here."""
    try:
        import matplotlib
    except ImportError:
        return False
    return f"Matplotlib v{matplotlib.__version__}," in path.read_text()


def test_all_committed_results_are_checked():
    assert FOLDERS == [
        "figure3", "figure3-k500", "full", "heads-k100", "k100", "k500", "k500-bf16", "others", "rates-k500",
    ]
