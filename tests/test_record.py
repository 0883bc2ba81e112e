"""record.py: a run's record and reports, as JSON; every field is checked, and a wrong one is named."""

import copy
import json
from dataclasses import asdict

import pytest

from minipelt.errors import InputError
from minipelt.files import save_json
from minipelt.record import check_record, check_reports, load_record
from minipelt.settings import Method, Recipe, Run

RUN = Run("rte", Method("apl"), Recipe(1e-3))
RECORD = {
    "run": asdict(RUN),
    "rows": {"train": 8, "validation": 4, "test": 4},
    "parameters": {"adapter": 9, "prefix": 8, "lora": 7, "gates": 3, "head": 2, "base": 100},
    "fingerprints": {"base": "abc", "train": "def"},
    "results": {
        "test": {"accuracy": 0.5},
        "validation": {"accuracy": 1},
        "gates": {"lora": [0.5, 0.25], "adapter": [0.0, 1.0]},
        "best_epoch": 1,
        "epochs": 2,
        "train_seconds": 0.5,
    },
}


def changed(place, value):
    """RECORD with another value at a place such as "results.test.accuracy"; None removes it."""
    record = copy.deepcopy(RECORD)
    *outer, last = place.split(".")
    inner = record
    for key in outer:
        inner = inner[key]
    inner[last] = value
    if value is None:
        del inner[last]
    return record


def test_a_record_is_read_from_a_run_folder(tmp_path):
    save_json(RECORD, tmp_path / "run.json")
    assert load_record(tmp_path) == RECORD
    assert check_record(RECORD, "here") == RUN
    with pytest.raises(InputError, match="no run.json in it"):
        load_record(tmp_path / "none")


@pytest.mark.parametrize("name", ["rows", "parameters", "fingerprints", "results", "results.validation"])
def test_all_but_the_settings_may_be_missing(name):
    check_record(changed(name, None), "here")


WRONG = [
    ("run", 3, "run is 3"),
    ("run", None, "run is None"),
    ("run.k", "x", "k is 'x'"),
    ("run.k", 9, "rows: train is 8; expected 9, as k says"),
    ("rows", [], "rows is []; expected an object"),
    ("rows.test", None, "rows: no test"),
    ("rows.test", True, "rows: test is True; expected a whole number from 0 on"),
    ("rows.train", -1, "rows: train is -1"),
    ("parameters.lora", 0.5, "parameters: lora is 0.5"),
    ("parameters.base", None, "parameters: no base"),
    ("parameters.prefix", None, "parameters: no prefix; expected it with adapter, prefix, lora, gates, head"),
    ("parameters.gates", None, "parameters: no gates"),
    ("fingerprints", "abc", "fingerprints is 'abc'"),
    ("fingerprints.base", 3, "fingerprints: base is 3"),
    ("rows.train", 1.0, "rows: train is 1.0"),
    ("fingerprints.train", None, "fingerprints: no train"),
    ("results", 3, "results is 3"),
    ("results.test", None, "results: no test"),
    ("results.test.accuracy", None, "results: test: no accuracy"),
    ("results.test.accuracy", float("nan"), "results: test: accuracy is nan; expected a number from -1 to 1"),
    ("results.test.accuracy", 69.7, "accuracy is 69.7"),
    ("results.validation.accuracy", "1", "accuracy is '1'"),
    ("results.gates", [], "results: gates is []"),
    ("results.gates.lora", 0.5, "gates: lora is 0.5; expected a number for each layer"),
    ("results.gates.lora", [], "gates: lora is []"),
    ("results.gates.lora", [0.5, 2], "gates: lora is 2; expected a number from 0 to 1"),
    ("results.gates.lora", [0.5], "gates of different numbers of layers"),
    ("results.best_epoch", 0, "best_epoch is 0; expected a whole number from 1 on"),
    ("results.epochs", 1.0, "epochs is 1.0"),
    ("results.train_seconds", float("inf"), "train_seconds is inf"),
    ("results.train_seconds", 10**400, "train_seconds is 1000"),
]


@pytest.mark.parametrize("place, value, message", WRONG, ids=[f"{place}-{i}" for i, (place, *_) in enumerate(WRONG)])
def test_a_wrong_field_is_named_in_one_line(place, value, message):
    with pytest.raises(InputError) as caught:
        check_record(changed(place, value), "here")
    text = str(caught.value)
    assert text.startswith("here: ") and message in text and "\n" not in text and len(text) < 300


@pytest.mark.parametrize("value", [None, 3, "x", [], [RECORD]])
def test_what_is_no_record_at_all(value):
    with pytest.raises(InputError, match="here: .*; expected the record of a run"):
        check_record(value, "here")


# ---- epochs


def reports(*scores):
    """What loop.py makes of these scores."""
    found = []
    for epoch, score in enumerate(scores, start=1):
        best = max(scores[:epoch])
        found.append({"epoch": epoch, "loss": 0.5, "score": score, "best_score": best,
                      "best_epoch": scores.index(best) + 1})
    return found


def test_reports_are_what_the_loop_makes():
    check_reports([])
    check_reports(reports(0.5, 0.25, 0.75, 0.75))
    check_reports(json.loads(json.dumps(reports(-0.5, 0.0))))


@pytest.mark.parametrize("number, name, value", [
    (0, "epoch", 2), (0, "epoch", True), (0, "epoch", 1.0), (1, "epoch", 1), (0, "loss", -1), (0, "loss", float("nan")),
    (0, "score", 0.25), (0, "score", 2), (1, "score", 0.75), (0, "best_score", 0.75), (0, "best_score", None),
    (1, "best_epoch", 2), (0, "best_epoch", 0), (0, "best_epoch", "1"), (0, "train_seconds", "x"),
])
def test_reports_that_contradict_themselves(number, name, value):
    found = reports(0.5, 0.25)
    found[number][name] = value
    with pytest.raises(ValueError, match="epoch"):
        check_reports(found)


def test_seconds_are_there_where_they_are_needed():
    found = reports(0.5)
    with pytest.raises(ValueError, match="epoch 1: train_seconds is None; expected a number from 0 on"):
        check_reports(found, seconds=True)
    found[0] |= {"train_seconds": 1, "validation_seconds": 0.5}
    check_reports(found, seconds=True)


@pytest.mark.parametrize("value", [None, {}, "x", [3], [None], [[]], [{}]])
def test_what_are_no_reports_at_all(value):
    with pytest.raises(ValueError):
        check_reports(value)
