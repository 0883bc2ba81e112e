"""tables.py: statistics against known values, tables against small made-up results."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import as_lines
from helpers import sweep_record as record

from minipelt.errors import InputError
from minipelt.paper.tables import (
    Results,
    comparisons,
    find_reference,
    gate_table,
    paired_t_test,
    swept,
    t_probability,
    table_1,
    table_2,
    table_3,
    table_4,
    tradeoff,
)
from minipelt.settings import Data

SCORES = {"adapter": [0.70, 0.72, 0.74], "prefix": [0.60, 0.60, 0.60], "ap": [0.80, 0.79, 0.84]}


def results_of(records):
    """The Results of some records."""
    return Results(as_lines(records), "here")


@pytest.fixture
def records():
    """Three seeds of adapter, prefix and ap on SST-2, half as good on CoLA; ap without gates on SST-2 alone."""
    records = []
    for method, scores in SCORES.items():
        for seed, score in enumerate(scores, start=1):
            records += [record("cola", method, seed, score / 2), record("sst2", method, seed, score)]
    records += [record("sst2", "ap", seed, 0.75, gate=False) for seed in (1, 2, 3)]
    return records


@pytest.fixture
def results(records):
    """The Results of these runs."""
    return results_of(records)


def by_cell(rows):
    """The rows of a table by (method, task)."""
    return {(row["method"], row["task"]): row for row in rows}


# ---- statistics


@pytest.mark.parametrize("freedom, t, p", [
    (1, 12.706, 0.05), (2, 4.303, 0.05), (4, 2.776, 0.05), (4, 4.604, 0.01), (9, 2.262, 0.05), (30, 2.042, 0.05),
    (3, 0.765, 0.5),
])
def test_t_against_printed_tables(freedom, t, p):
    assert 1 - t_probability(t, freedom) == pytest.approx(p, rel=2e-3)


def test_the_paired_test():
    one, other = {1: 3.0, 2: 5.0, 3: 9.0, 9: 100.0}, {1: 2.0, 2: 3.0, 3: 4.0, 8: -100.0}
    mean, p, n = paired_t_test(one, other)  # differences 1, 2, 5: t = 2.2188 with 2 degrees of freedom
    assert (mean, n) == (pytest.approx(8 / 3), 3)
    assert p == pytest.approx(0.1567, abs=1e-3)


def test_the_paired_test_where_there_is_little_to_test():
    mean, p, n = paired_t_test({1: 1.0}, {1: 2.0})
    assert (mean, n) == (-1, 1) and math.isnan(p)
    mean, p, n = paired_t_test({1: 1.0}, {2: 2.0})
    assert math.isnan(mean) and math.isnan(p) and n == 0
    assert paired_t_test({1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.0}) == (0, 1, 2)
    assert paired_t_test({1: 1.0, 2: 2.0}, {1: 2.0, 2: 3.0}) == (-1, 0, 2)


def test_noise_is_not_called_a_win():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(4000):
        one, other = rng.normal(size=(2, 5))
        found.append(paired_t_test(dict(enumerate(one)), dict(enumerate(other)))[1])
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.02)


# ---- tables


def test_table_1(results):
    rows = by_cell(table_1(results))
    row = rows["ap", "sst2"]
    assert row["mean"] == pytest.approx(81.0) and row["seeds"] == 3
    assert row["deviation"] == pytest.approx(np.std([80, 79, 84], ddof=1))
    assert row["paper"] == 77.22
    assert rows["ap", "avg"]["mean"] == pytest.approx(81.0 * 0.75)
    assert rows["ap", "avg"]["deviation"] == pytest.approx(np.std([60, 59.25, 63], ddof=1))  # of averages by seed
    assert ("ap-nogate", "avg") not in rows  # it has no CoLA runs: no average


def test_methods_stand_in_the_paper_s_order():
    names = ["apl", "lora", "houlsby", "ft", "adapter", "prefix", "bitfit", "ap", "head"]
    records = [record("cola", name, 1, 0.5) for name in names]
    records += [record("cola", "houlsby", 1, 0.5, bottleneck=size) for size in (64, 8)]
    assert results_of(records).methods(100) == [
        "ft", "head", "bitfit", "adapter", "prefix", "lora", "ap", "apl",
        "houlsby", "houlsby-bottleneck8", "houlsby-bottleneck64",
    ]


def test_runs_with_another_protocol_of_the_head_stand_apart():
    records = [record("stsb", "lora", 1, score) for score in (0.5, 0.7)]
    records[1]["run"] |= {"frozen_head": True, "zero_start": True}
    rows = by_cell(table_1(results_of(records)))
    assert rows["lora", "stsb"]["mean"] == pytest.approx(50)
    assert rows["lora-frozenhead-zerostart", "stsb"]["mean"] == pytest.approx(70)


def test_table_2(results):
    (row,) = table_2(results)
    assert row["method"] == "ap"
    assert row["upper bound"] == pytest.approx(72 * 0.75) and row["difference"] == pytest.approx(9 * 0.75)
    assert row["paper"] == pytest.approx((77.22 + 14.42) / 2)
    assert row["paper's bound"] == pytest.approx((80.48 + 2.02) / 2)  # over the same two tasks


def test_the_upper_bound_is_taken_task_by_task():
    """The adapter is best on SST-2, the prefix on CoLA: no single submodule reaches the bound."""
    scores = {"adapter": (0.80, 0.10), "prefix": (0.60, 0.40), "ap": (0.70, 0.30)}
    records = []
    for method, (sst2, cola) in scores.items():
        records += [record("sst2", method, 1, sst2), record("cola", method, 1, cola)]
    (row,) = table_2(results_of(records))
    assert row["upper bound"] == pytest.approx((80 + 40) / 2)
    assert row["average"] == pytest.approx(50) and row["difference"] == pytest.approx(-10)


def test_the_upper_bound_takes_means_over_seeds():
    """One lucky seed of the prefix is above the adapter; its mean is not."""
    records = [record("sst2", "adapter", seed, 0.7) for seed in (1, 2)]
    records += [record("sst2", "prefix", seed, score) for seed, score in ((1, 0.9), (2, 0.3))]
    records += [record("sst2", "ap", seed, 0.5) for seed in (1, 2)]
    (row,) = table_2(results_of(records))
    assert row["upper bound"] == pytest.approx(70)


def test_there_is_no_upper_bound_without_every_submodule_on_every_task():
    records = [record("sst2", name, 1, 0.5) for name in ("adapter", "prefix", "ap", "apl")]
    assert [row["method"] for row in table_2(results_of(records))] == ["ap"]
    records += [record("cola", name, 1, 0.5) for name in ("adapter", "ap")]
    assert not list(table_2(results_of(records)))


def test_a_union_without_gates_or_with_settings_of_its_own_has_no_upper_bound():
    records = [record("sst2", name, 1, 0.5) for name in ("adapter", "prefix", "ap")]
    records += [record("sst2", "ap", 1, 0.5, gate=False), record("sst2", "ap", 1, 0.5, bottleneck=8)]
    assert [row["method"] for row in table_2(results_of(records))] == ["ap"]


def test_table_3(results):
    (row,) = table_3(results)
    assert (row["method"], row["task"], row["seeds"]) == ("ap", "sst2", 3)
    assert (row["gates"], row["no gates"]) == (pytest.approx(81), pytest.approx(75))
    assert row["difference"] == pytest.approx(6.0) and 0 < row["p"] < 1


def test_table_3_has_unions_with_settings_and_variants():
    wide = [record("sst2", "ap", 1, score, gate=gate, bottleneck=64) for score, gate in ((0.8, True), (0.7, False))]
    frozen = [record("sst2", "ap", 1, score, gate=gate) for score, gate in ((0.6, True), (0.4, False))]
    for line in frozen:
        line["run"]["frozen_head"] = True
    rows = by_cell(table_3(results_of([*wide, *frozen])))
    found = {method: row["difference"] for (method, task), row in rows.items() if task == "sst2"}
    assert found == {"ap-bottleneck64": pytest.approx(10), "ap-frozenhead": pytest.approx(20)}


def test_table_4():
    timing = {"base": 1000, "methods": [
        {"method": "ft", "parameters": 1000, "training": 1.0, "inference": 1.0},
        {"method": "lora", "parameters": 30, "training": 0.6, "inference": 1.1},
    ]}
    ft, lora = table_4(timing)
    assert (ft["share of base"], ft["training"], ft["paper's training"]) == (100, 100, None)
    assert (lora["share of base"], lora["training"], lora["inference"]) == pytest.approx((3, 60, 110))
    assert (lora["paper's training"], lora["paper's inference"]) == (53, 105)


def test_comparisons_pair_by_seed(results):
    rows = by_cell(comparisons(results, "ap"))
    assert rows["adapter", "sst2"]["difference"] == pytest.approx(9.0) and rows["adapter", "sst2"]["seeds"] == 3
    assert ("ap", "sst2") not in rows
    fewer = results_of([record("sst2", "ap", 1, 0.5), *(record("sst2", "lora", seed, 0.4) for seed in (1, 2))])
    (row, _) = comparisons(fewer, "ap")
    assert row["seeds"] == 1 and row["difference"] == pytest.approx(10)


def test_others_are_compared_with_apl_or_else_ap(records, results):
    assert find_reference(results) == "ap"
    assert find_reference(results_of([*records, record("sst2", "apl", 1, 0.5)])) == "apl"
    assert find_reference(results_of([record("sst2", "lora", 1, 0.5)])) is None


def test_mean_gates(results):
    rows = by_cell(gate_table(results))
    assert set(rows) == {("ap", "sst2"), ("ap", "cola")}  # not where there are none
    row = rows["ap", "sst2"]
    assert (row["submodule"], row["seeds"]) == ("adapter", 3) and row["gate"] == pytest.approx(0.4)


def test_score_against_trained_parameters():
    records = [record("cola", "ft", seed, 0.5) for seed in (1, 2)]
    for size in (8, 64):
        records += [record("cola", "houlsby", seed, size / 100, bottleneck=size) for seed in (1, 2)]
    rows = by_cell(tradeoff(results_of(records)))
    assert rows["houlsby-bottleneck64", "cola"]["difference"] == pytest.approx(14)
    assert rows["ft", "avg"]["p"] == 1
    assert rows["ft", "cola"]["parameters"] == 7 + 2  # the head's are counted


def test_tasks_on_different_bases_have_parameters_of_their_own():
    small = [record("sst2", "lora", 1, 0.5), record("cola", "lora", 1, 0.5)]
    large = record("rte", "lora", 1, 0.5, model="bert-base-uncased")
    large["parameters"]["lora"] = 28
    assert results_of(small).size("lora") == 7
    mixed = results_of([*small, large])
    assert mixed.size("lora") is None
    rows = by_cell(tradeoff(mixed))
    found = {task: row["parameters"] for (_, task), row in rows.items()}
    assert found == {"sst2": 7 + 2, "cola": 7 + 2, "rte-bert-base-uncased": 28 + 2}


def test_the_average_stands_at_the_mean_of_its_tasks_parameters():
    records = [record("sst2", "lora", 1, 0.5), record("cola", "lora", 1, 0.5)]
    records[1]["parameters"]["head"] = 4
    assert by_cell(tradeoff(results_of(records)))["lora", "avg"]["parameters"] == 7 + 3


# ---- settings that take several values


def test_a_swept_hyperparameter_gets_a_table():
    records = []
    for alpha in (16.0, 2.0):
        records += [record("cola", "lora", seed, alpha / 100 + seed / 100, alpha=alpha) for seed in (1, 2)]
    tables = swept(results_of(records))
    assert list(tables) == ["alpha"]
    assert [(row["alpha"], row["mean"], row["seeds"]) for row in tables["alpha"]] == [
        (2.0, pytest.approx(3.5), 2), (16.0, pytest.approx(17.5), 2),
    ]


def test_two_swept_settings_stay_apart():
    records = []
    for rate in (1e-3, 2e-3):
        for size in (8, 64):
            records.append(record("cola", "houlsby", 1, size / 100, bottleneck=size))
            records[-1]["run"]["recipe"]["learning_rate"] = rate
    rows = swept(results_of(records))["bottleneck"]
    assert [(row["method"], row["bottleneck"]) for row in rows] == [
        ("houlsby", 8), ("houlsby", 64), ("houlsby-lr0.002", 8), ("houlsby-lr0.002", 64),
    ]


# ---- what does not compare

OWN = Data("my.csv", "dev.csv", labels=("no", "yes"))


def test_one_kind_of_rows_on_one_base_has_a_mean(results):
    assert results.columns == ["sst2", "cola", "avg"]
    sample = results_of([record(task, "lora", 1, 0.5, glue="miniglue") for task in ("cola", "sst2")])
    assert sample.columns == ["sst2-sample", "cola-sample", "avg"]


@pytest.mark.parametrize("other, name", [
    ({"glue": "miniglue"}, "rte-sample"), ({"model": "some/base"}, "rte-base"), ({"data": OWN}, "rte-own"),
])
def test_runs_that_do_not_compare_are_in_no_mean(records, other, name):
    """Neither in the average of Table 1 nor in any other, such as the upper bound."""
    more = [record("rte", method, seed, 0.5, **other) for method in SCORES for seed in (1, 2, 3)]
    mixed = results_of([*records, *more])
    assert mixed.columns == ["sst2", "cola", name]
    for table in (table_1(mixed), table_3(mixed), comparisons(mixed, "ap"), tradeoff(mixed)):
        assert "avg" not in {row["task"] for row in table}
    assert not list(table_2(mixed))


def test_the_paper_s_numbers_stand_beside_glue_s_own_rows_alone():
    for settings in ({"glue": "miniglue"}, {"data": OWN}):
        found = results_of([record("sst2", name, 1, 0.5, **settings) for name in ("adapter", "prefix", "ap")])
        assert {row["paper"] for row in table_1(found)} == {None}
        (row,) = table_2(found)
        assert row["paper"] is None and row["paper's bound"] is None
    other_base = results_of([record("sst2", "ap", 1, 0.5, model="bert-base-uncased")])
    assert by_cell(table_1(other_base))["ap", "sst2-bert-base-uncased"]["paper"] == 77.22


def test_own_data_is_scored_by_its_own_metric():
    scores = replace(OWN, labels=(), regression=True)
    found = results_of([record("prices", "lora", 1, 0.25, data=scores), record("mine", "lora", 1, 0.5, data=OWN)])
    assert found.tasks == ["mine", "prices"] == found.columns  # two data sets have no mean
    assert (found.metric("mine"), found.metric("prices")) == ("accuracy", "spearman")
    assert by_cell(table_1(found))["lora", "prices"]["mean"] == pytest.approx(25)


# ---- one protocol


def test_other_files_of_the_same_name_do_not_mix():
    records = [record("mine", "lora", 1, 0.5, data=data) for data in (OWN, replace(OWN, train="/other/my.csv"))]
    with pytest.raises(InputError, match="mixes runs of mine with files train /other/my.csv, dev .* and train my.csv,"):
        results_of(records)


def test_sample_rows_and_real_ones_do_not_mix(records):
    other = record("sst2", "lora", 1, 0.5, glue="miniglue")
    with pytest.raises(InputError, match="mixes runs of sst2 with data"):
        results_of([*records, other])


def test_mixed_protocols_are_refused(records):
    other = record("sst2", "lora", 1, 0.5)
    other["run"]["recipe"]["epochs"] = 20
    with pytest.raises(InputError, match="mixes runs of sst2 with epochs 20 and 50"):
        results_of([*records, other])


def test_tasks_may_differ_in_their_protocol(records):
    """Scores are compared within a task."""
    only = record("rte", "lora", 1, 0.5)
    only["run"]["recipe"]["epochs"] = 20
    assert results_of([*records, only]).protocol["epochs"] == "50 (rte: 20)"


def test_without_a_finished_run_there_is_nothing_to_report():
    failed = {"run": record("sst2", "lora", 1, 0.5)["run"], "error": "too hot"}
    with pytest.raises(InputError, match="here: no finished run"):
        results_of([failed])
