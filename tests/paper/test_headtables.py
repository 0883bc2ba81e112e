"""headtables.py: small made-up results, with heads both ways, against sums by hand."""

import pytest
from helpers import as_lines
from helpers import sweep_record as record

from minipelt.paper.headtables import head_bounds, heads, heads_section, make_head_tables
from minipelt.paper.numbers import TABLE_1
from minipelt.paper.tables import Results
from minipelt.settings import Data


def records():
    """Two seeds on SST-2 and CoLA, half as good there; adapter, prefix, lora, apl; prefix and lora frozen as well."""
    found = []
    trained = {"adapter": (0.7, 0.8), "prefix": (0.6, 0.6), "lora": (0.9, 0.8), "apl": (0.8, 0.9)}
    for method, scores in trained.items():
        for seed, score in enumerate(scores, start=1):
            found += [record("sst2", method, seed, score), record("cola", method, seed, score / 2)]
    for method, scores in {"prefix": (0.5, 0.6), "lora": (0.6, 0.7)}.items():
        for seed, score in enumerate(scores, start=1):
            for task, share in (("sst2", 1), ("cola", 0.5)):
                found.append(record(task, method, seed, score * share, frozen_head=True))
    return found


def results_of(lines):
    """The Results of some records."""
    return Results(as_lines(lines), "here")


def test_what_a_trained_head_adds():
    rows = {(row["method"], row["task"]): row for row in heads(results_of(records()))}
    assert set(rows) == {(method, task) for method in ("prefix", "lora") for task in ("sst2", "cola", "avg")}
    lora = rows["lora", "sst2"]
    assert (lora["trained"], lora["frozen"], lora["seeds"]) == (pytest.approx(85), pytest.approx(65), 2)
    assert lora["difference"] == pytest.approx(20)
    assert lora["p"] == pytest.approx(0.2952, abs=1e-4)  # differences 30 and 10: t = 2 with one degree of freedom
    assert rows["prefix", "avg"]["difference"] == pytest.approx((5 + 2.5) / 2)


def test_the_bound_is_that_of_the_heads():
    """LoRA is best with a trained head, the adapter is with a frozen one."""
    rows = {(row["method"], row["heads"]): row for row in head_bounds(results_of(records()))}
    assert set(rows) == {("apl", "as the public code"), ("apl", "every head trained")}
    frozen, trained = rows["apl", "as the public code"], rows["apl", "every head trained"]
    assert frozen["average"] == trained["average"] == pytest.approx((85 + 42.5) / 2)
    assert frozen["upper bound"] == pytest.approx((75 + 37.5) / 2)
    assert trained["upper bound"] == pytest.approx((85 + 42.5) / 2)
    assert frozen["difference"] == pytest.approx((10 + 5) / 2)
    assert frozen["paper"] == pytest.approx((TABLE_1[100, "apl"][0] + TABLE_1[100, "apl"][2]) / 2)
    assert trained["paper"] is None


def test_only_tasks_that_ran_both_ways_count():
    """RTE has trained heads alone, so it is no column, and in no mean."""
    more = records() + [record("rte", method, 1, 0.5) for method in ("adapter", "prefix", "lora", "apl")]
    results = results_of(more)
    assert {row["task"] for row in heads(results)} == {"sst2", "cola", "avg"}
    averages = [row["average"] for row in head_bounds(results)]
    assert averages == [row["average"] for row in head_bounds(results_of(records()))]


def test_own_data_has_nothing_of_the_paper_and_no_average():
    """Two data sets of the user's own: differences, but no bound, which is an average."""
    found = []
    for name in ("mine", "yours"):
        data = Data(f"{name}.csv", f"{name}-dev.csv", labels=("no", "yes"))
        for method, frozen in (("lora", False), ("lora", True), ("adapter", False), ("al", False)):
            found.append(record(name, method, 1, 0.5 + 0.1 * frozen, data=data, frozen_head=frozen))
    results = results_of(found)
    assert [row["difference"] for row in heads(results)] == [pytest.approx(-10)] * 2
    assert list(head_bounds(results)) == []


def test_the_section():
    results = results_of(records())
    tables = make_head_tables(results)
    text = "\n".join(heads_section(results, tables))
    assert "| `adapter` | 75.00<sub>7.1</sub> | 75.00<sub>7.1</sub> | 37.50<sub>3.5</sub> |" in text
    assert "| `lora` | 65.00<sub>7.1</sub> | 85.00<sub>7.1</sub> | 32.50<sub>3.5</sub> | 42.50<sub>3.5</sub> |" in text
    assert "| 100 | `lora` | +20.00<sub>0.30</sub> | +10.00<sub>0.30</sub> | +15.00<sub>0.30</sub> |" in text
    assert "frozenhead" not in text


def test_without_frozen_heads_there_is_nothing():
    results = results_of([line for line in records() if not line["run"]["frozen_head"]])
    assert make_head_tables(results) == {} and heads_section(results, {}) == []
