"""numbers.py: the paper's numbers as typed, against each other."""

import numpy as np
import pytest

from minipelt.paper import numbers
from minipelt.settings import Method

TASKS = numbers.COLUMNS[:-1]
TABLE_2 = {  # (K, method): (average, upper bound), as the paper prints them
    (100, "ap"): (60.80, 58.86), (100, "apl"): (62.59, 60.60),
    (500, "ap"): (69.79, 69.69), (500, "apl"): (69.98, 70.02),
    (1000, "ap"): (72.61, 72.58), (1000, "apl"): (73.31, 73.19),
}


def test_the_averages_follow_from_the_cells():
    for row in numbers.TABLE_1.values():
        assert np.mean(row[:-1]) == pytest.approx(row[-1], abs=0.011)


def test_table_2_follows_from_table_1():
    for (k, name), (average, bound) in TABLE_2.items():
        assert numbers.upper_bound(k, Method(name).parts, TASKS) == pytest.approx(bound, abs=0.015)
        assert numbers.average(k, name, TASKS) == average


def test_an_average_is_over_the_tasks_that_are_asked_for():
    assert numbers.average(100, "ap", ["sst2", "cola"]) == pytest.approx((77.22 + 14.42) / 2)
    assert numbers.upper_bound(100, ["adapter", "prefix"], ["sst2", "rte"]) == pytest.approx((80.48 + 55.96) / 2)


def test_with_all_rows_the_paper_has_averages_alone():
    assert numbers.average(None, "apl", TASKS) == 83.50
    assert numbers.average(None, "apl", ["sst2", "cola"]) is None
    assert numbers.score(None, "apl", "sst2") is None


def test_what_the_paper_lacks_is_none():
    assert numbers.score(100, "ia3", "sst2") is None
    assert numbers.average(7, "apl", TASKS) is None
    assert numbers.upper_bound(100, ["adapter", "ia3"], TASKS) is None


def test_a_cell_is_found_by_its_task():
    assert numbers.score(500, "lora", "cola") == 39.86
    assert numbers.score(100, "apl", "qqp") == 62.70
