"""tables.py, report.py and paper.py: statistics against known values, tables against small made-up results, the paper's numbers against themselves."""

import csv
import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from minipelt import InputError, paper
from minipelt.glue import TASKS
from minipelt.loop import Recipe
from minipelt.report import main, ranked
from minipelt.run import Run, default_learning_rate
from minipelt.tables import Grid, comparisons, paired_t_test, swept, t_probability, table_1, table_2, table_3, tradeoff
from minipelt.unipelt import Method


def record(task, method, seed, score, k=100, **settings):
    method = Method(method, **settings)
    run = Run(task, method, Recipe(default_learning_rate(method), seed=seed), k=k)
    gates = {"adapter": [0.2, 0.6]} if method.gated else {}
    return json.loads(json.dumps({"run": asdict(run), "parameters": {"lora": 7, "head": 2, "base": 100}, "results": {"test": {TASKS[task].metrics[0]: score}, "gates": gates}}))


SCORES = {"adapter": [0.70, 0.72, 0.74], "prefix": [0.60, 0.60, 0.60], "ap": [0.80, 0.79, 0.84]}


@pytest.fixture
def grid():
    records = [record(task, method, seed, score / (1 if task == "sst2" else 2))
               for method, scores in SCORES.items() for seed, score in enumerate(scores, start=1) for task in ("cola", "sst2")]
    records += [record("sst2", "ap", seed, 0.75, gate=False) for seed in (1, 2, 3)]
    return Grid(records, "here")


@pytest.mark.parametrize("freedom, t, p", [(1, 12.706, 0.05), (2, 4.303, 0.05), (4, 2.776, 0.05), (4, 4.604, 0.01), (9, 2.262, 0.05), (30, 2.042, 0.05), (3, 0.765, 0.5)])
def test_t_against_printed_tables(freedom, t, p):
    assert 1 - t_probability(t, freedom) == pytest.approx(p, rel=2e-3)


def test_the_paired_test():
    one, other = {1: 3.0, 2: 5.0, 3: 9.0, 9: 100.0}, {1: 2.0, 2: 3.0, 3: 4.0}
    mean, p, n = paired_t_test(one, other)  # differences 1, 2, 5: t = 2.2188 with 2 degrees of freedom
    assert (mean, n) == (pytest.approx(8 / 3), 3) and p == pytest.approx(0.1567, abs=1e-3)
    assert math.isnan(paired_t_test({1: 1.0}, {1: 2.0})[1])
    assert paired_t_test({1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.0})[1] == 1


def test_noise_is_not_called_a_win():
    rng = np.random.default_rng()
    draws = [paired_t_test(dict(enumerate(rng.normal(size=5))), dict(enumerate(rng.normal(size=5))))[1] for _ in range(4000)]
    assert np.mean(np.array(draws) < 0.05) == pytest.approx(0.05, abs=0.02)


def test_table_1(grid):
    rows = {(row["method"], row["task"]): row for row in table_1(grid)}
    row = rows["ap", "sst2"]
    assert row["mean"] == pytest.approx(81.0) and row["deviation"] == pytest.approx(np.std([80, 79, 84], ddof=1)) and row["seeds"] == 3
    assert row["paper"] == 77.22
    assert rows["ap", "avg"]["mean"] == pytest.approx(81.0 * 0.75)
    assert ("ap-nogate", "avg") not in rows  # it has no CoLA runs: no average


def test_table_2(grid):
    (row,) = table_2(grid)
    assert row["method"] == "ap" and row["upper bound"] == pytest.approx(72 * 0.75) and row["difference"] == pytest.approx(9 * 0.75)
    assert (row["paper"], row["paper's bound"]) == (pytest.approx((77.22 + 14.42) / 2), pytest.approx((80.48 + 2.02) / 2))  # over the same two tasks


def test_table_3(grid):
    (row,) = table_3(grid)
    assert row["task"] == "sst2" and row["difference"] == pytest.approx(6.0) and 0 < row["p"] < 1


def test_comparisons_pair_by_seed(grid):
    row = next(row for row in comparisons(grid, "ap") if row["method"] == "adapter" and row["task"] == "sst2")
    assert row["difference"] == pytest.approx(9.0) and row["seeds"] == 3


def test_best_and_second_are_marked_and_ties_share():
    assert ranked([(1.0, "1"), (3.0, "3"), (2.0, "2"), (None, ""), (3.001, "3")]) == ["1", "**3**", "<u>2</u>", "", "**3**"]


def test_a_swept_hyperparameter_gets_a_table():
    records = [record("cola", "lora", seed, alpha / 100 + seed / 100, alpha=alpha) for alpha in (2.0, 16.0) for seed in (1, 2)]
    tables = swept(Grid(records, "here"))
    assert list(tables) == ["alpha"] and [(row["alpha"], row["mean"]) for row in tables["alpha"]] == [(2.0, pytest.approx(3.5)), (16.0, pytest.approx(17.5))]


def test_score_against_trained_parameters(tmp_path):
    records = [record("cola", "houlsby", seed, size / 100, bottleneck=size) for size in (8, 64) for seed in (1, 2)] + [record("cola", "ft", seed, 0.5) for seed in (1, 2)]
    rows = {(row["method"], row["task"]): row for row in tradeoff(Grid(records, "here"))}
    assert rows["houlsby-bottleneck64", "cola"]["difference"] == pytest.approx(14) and rows["ft", "avg"]["p"] == 1 and rows["ft", "cola"]["parameters"] == 9
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert main([str(tmp_path)]) == 0
    assert "## Score against trained parameters" in (tmp_path / "report.md").read_text() and (tmp_path / "tradeoff.csv").is_file()


def test_the_figures(tmp_path):
    pytest.importorskip("matplotlib")
    records = [record("cola", "houlsby", seed, size / 100, bottleneck=size) for size in (8, 64) for seed in (1, 2)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert main([str(tmp_path)]) == 0
    for name in ("tradeoff", "bottleneck"): assert "<svg" in (tmp_path / f"{name}.svg").read_text()


def test_small_numbers_of_a_sweep_are_written_as_typed(tmp_path):
    records = [record("cola", "diff", seed, 0.5, share=share) for share in (0.005, 0.00025) for seed in (1, 2)]
    for other in records[:2]:
        records.append(json.loads(json.dumps(other)))
        records[-1]["run"]["recipe"]["learning_rate"] = 2e-5
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| 0.00025 |" in text and "| 2e-05 |" in text and "\n100,cola,diff,2e-05," in (tmp_path / "learning_rate.csv").read_text()


def test_two_swept_settings_stay_apart():
    records = []
    for rate in (1e-3, 2e-3):
        for size in (8, 64):
            records.append(record("cola", "houlsby", 1, size / 100, bottleneck=size))
            records[-1]["run"]["recipe"]["learning_rate"] = rate
    rows = swept(Grid(records, "here"))["bottleneck"]
    assert [(row["method"], row["bottleneck"]) for row in rows] == [("houlsby", 8), ("houlsby", 64), ("houlsby-lr0.002", 8), ("houlsby-lr0.002", 64)]


def test_without_a_complete_average_each_task_stands_alone(tmp_path):
    records = [record("sst2", "ft", 1, 0.5), *(record("cola", "adapter", 1, 0.5, bottleneck=size) for size in (8, 64))]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert main([str(tmp_path)]) == 0
    assert [line.split(",")[3] for line in (tmp_path / "tradeoff.csv").read_text().splitlines()] == ["task", "sst2", "cola", "cola"]


def test_sample_rows_and_real_ones_do_not_mix(grid):
    other = record("sst2", "lora", 1, 0.5)
    other["run"]["glue"] = "glue"
    with pytest.raises(InputError, match="mixes runs of sst2 with data"): Grid([*grid.records, other], "here")


def test_mixed_protocols_are_refused(grid):
    other = record("sst2", "lora", 1, 0.5)
    other["run"]["recipe"]["epochs"] = 20
    with pytest.raises(InputError, match="mixes runs of sst2 with epochs 20 and 50"): Grid([*grid.records, other], "here")
    only = record("rte", "lora", 1, 0.5)
    only["run"]["recipe"]["epochs"] = 20
    assert Grid([*grid.records, only], "here").protocol["epochs"] == "50 (rte: 20)"  # tasks may differ: scores are compared within a task


def test_the_files(grid, tmp_path, capsys):
    failed = {"run": record("rte", "lora", 1, 0)["run"], "error": "too hot"}
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*grid.records, failed]))
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert text.strip() in capsys.readouterr().out and "1 runs failed: rte lora: too hot" in text
    assert "| `ap` | 7 | **81.00<sub>2.6</sub>** | **40.50<sub>1.3</sub>** | **60.75<sub>2.0</sub>** |" in text
    assert "| *paper: ap* |  | 77.22 | 14.42 | 45.82 |" in text
    with open(tmp_path / "table1.csv") as file: rows = list(csv.DictReader(file))
    assert {"k": "100", "method": "ap", "task": "sst2", "mean": "81.0000", "deviation": "2.6458", "seeds": "3", "paper": "77.2200"} in rows


def test_no_results(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no such file; expected a folder that a sweep wrote" in capsys.readouterr().err


# ---- the paper's numbers as typed


def test_the_paper_s_averages_follow_from_its_cells():
    for row in paper.TABLE_1.values(): assert np.mean(row[:-1]) == pytest.approx(row[-1], abs=0.011)


def test_the_paper_s_table_2_follows_from_its_table_1():
    printed = {(100, "ap"): (60.80, 58.86), (100, "apl"): (62.59, 60.60), (500, "ap"): (69.79, 69.69), (500, "apl"): (69.98, 70.02),
               (1000, "ap"): (72.61, 72.58), (1000, "apl"): (73.31, 73.19)}
    for (k, name), (average, bound) in printed.items():
        assert paper.upper_bound(k, Method(name).parts, paper.COLUMNS[:-1]) == pytest.approx(bound, abs=0.015)
        assert paper.average(k, name, paper.COLUMNS[:-1]) == average


def test_the_paper_s_average_is_over_the_same_tasks_as_ours():
    assert paper.average(100, "ap", ["sst2", "cola"]) == pytest.approx((77.22 + 14.42) / 2)
    assert paper.average(None, "apl", ["sst2", "cola"]) is None and paper.average(None, "apl", paper.COLUMNS[:-1]) == 83.50
