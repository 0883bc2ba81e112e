"""The committed figures are what make.py writes, and can be read by everyone."""

import copy
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from minipelt.paper.figures import make, measured

FOLDER = Path(make.__file__).parent
NAMES = ("layer.svg", "prefix.svg", "bottleneck.svg", "lora.svg", "padding.svg", "gates.svg", "parameters.svg")
RECORDS = [json.loads(line) for line in (FOLDER / "runs.jsonl").read_text(encoding="utf-8").splitlines()]


def texts(svg):
    """The texts of an SVG as people read them, in order."""
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()) for text in found]


def fake_run(name, score, parameters, task="sst2", gates=None):
    """A run record with what the figures read."""
    run = {"task": task, "method": {"name": name, "gate": True}, "recipe": {"seed": 1}, "model": "tiny"}
    results = {"test": {"accuracy": score}, "gates": gates or {}}
    counts = {"head": parameters, "base": 9}
    return {"run": run, "rows": {"train": 500, "test": 872}, "parameters": counts, "results": results}


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_what_the_script_writes(name):
    assert (FOLDER / name).read_bytes() == make.draw(RECORDS)[name].encode("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_everyone_can_read_it(name):
    root = ElementTree.fromstring((FOLDER / name).read_text(encoding="utf-8"))
    assert root.find("{*}title").text and len(root.find("{*}desc").text) > 40
    light, dark = root.find("{*}style").text.split("@media (prefers-color-scheme: dark)")
    styles = set(re.findall(r"\.(\w+) {", light))
    assert styles == set(re.findall(r"\.(\w+) {", dark))
    for element in root.iter():
        if element.tag.split("}")[1] in ("text", "rect", "path", "circle"):
            assert element.get("class") in styles  # no colour of its own
        assert float(element.get("font-size", 12)) >= 12


def test_the_command_collects_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make, "HERE", tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(RECORDS[0]))
    make.main([tmp_path / "run"])
    assert (tmp_path / "runs.jsonl").read_text().count("\n") == 1
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in NAMES]
    make.main([])
    assert (tmp_path / "layer.svg").read_bytes() == (FOLDER / "layer.svg").read_bytes()


def test_collect_takes_finished_runs_by_name_and_hides_where_the_data_was(tmp_path, capsys):
    for name, finished in (("b", True), ("a", True), ("c", False)):
        record = fake_run(name, 0.5, 10)
        record["run"] |= {"glue": "/home/me/glue", "out": "/home/me/runs"}
        if not finished:
            del record["results"]
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record, indent=2))
    first, second = [json.loads(line) for line in make.collect(tmp_path / name for name in "bca").splitlines()]
    expected = fake_run("a", 0.5, 10)
    expected["run"]["glue"] = "glue"
    assert first == expected and second["run"]["method"]["name"] == "b"
    assert "c: not finished" in capsys.readouterr().out


def test_gates_draws_the_mean_over_the_runs_of_a_task():
    first_gates = (("sst2", 0.1), ("sst2", 0.3), ("rte", 0.9))
    runs = [fake_run("apl", 0.5, 10, task, {"prefix": [g, 0.5], "adapter": [0.75, 0.25]}) for task, g in first_gates]
    found = texts(measured.gates([*runs, fake_run("ap", 0.5, 10, "cola", {"prefix": [0.11, 0.11]})]))
    cells = [text for text in found if re.fullmatch(r"\d\.\d\d", text)]
    assert cells == ["0.20", "0.50", "0.75", "0.25", "0.90", "0.50", "0.75", "0.25"]  # column by column
    assert "SST-2" in found and "RTE" in found and "CoLA" not in found


def test_parameters_leave_out_base_and_prefix_network():
    record = fake_run("prefix", 0.5, 770)
    record["parameters"] |= {"prefix": 1000, "prefix network": 5000}
    without = copy.deepcopy(record)
    without["run"]["method"] |= {"name": "apl", "gate": False}
    svg = measured.parameters([record, without])
    assert "prefix: 1,770 parameters, 50.0; apl, no gates: 1,770 parameters, 50.0" in svg
    assert {"prefix", "apl, no gates"} <= set(texts(svg))


def test_no_runs_is_no_error():
    for svg in make.draw([]).values():
        ElementTree.fromstring(svg)


@pytest.mark.parametrize("seed", range(3))
def test_labels_stay_clear_of_each_other_and_of_the_points(seed):
    place, frame = random.Random(seed), (60, 74, 716, 430)
    points = {f"method {i}": (place.uniform(300, 420), place.uniform(150, 250)) for i in range(12)}
    labels = measured.place_labels(points, frame)
    half = 4 * len("method 1")
    boxes = [(x - half, y - 9, x + half, y + 9) for x, y, _ in labels.values()]
    dots = [(x - 5, y - 5, x + 5, y + 5) for x, y in points.values()]
    for i, box in enumerate(boxes):
        assert measured.is_inside(box, frame)
        assert not measured.clashes([box], boxes[:i])
        assert not measured.clashes([box], dots)
