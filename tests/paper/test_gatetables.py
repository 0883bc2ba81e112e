"""gatetables.py and gatechart.py: the numbers by hand, the page, the figure; the committed ones, made again."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers import as_lines

import minipelt.paper
from minipelt.__main__ import main
from minipelt.errors import InputError
from minipelt.paper.gatechart import draw
from minipelt.paper.gatetables import by_seed, gather, report, spreads, spreads_of_task
from minipelt.settings import Method, Recipe, Run

RESULTS = Path(minipelt.paper.__file__).parent / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/gates.jsonl"))
SVG = "{http://www.w3.org/2000/svg}"
METRICS = {"sst2": "accuracy", "stsb": "spearman"}


def line(task, seed, means, score, constant, k=100, deviation=0.02, changed=0.25):
    """A made-up line of gates.jsonl: the gates' means by layer, the score, the one with their own means."""
    run = Run(task, Method("apl"), Recipe(1e-3, seed=seed), glue="", k=k, device="")
    gates = {"prefix": {"mean": means, "deviation": [deviation] * len(means)}}
    gates["lora_query"] = {"mean": [0.5] * len(means), "deviation": [0.0] * len(means)}
    start = {name: {"mean": [0.5, 0.5][: len(means)], "deviation": [0.01] * len(means)} for name in gates}
    replaced = {
        "own mean": {"scores": {METRICS[task]: constant}, "changed": changed},
        "no prefix": {"scores": {METRICS[task]: 0.5}, "changed": 0.0},
    }
    values = {"run": asdict(run), "rows": 8, "commit": None, "gates": gates, "start": start}
    values["scores"] = {METRICS[task]: score}
    return json.loads(json.dumps(values | {"replaced": replaced}))


def two_tasks():
    """Two seeds each of STS-B and SST-2, in an order that is not the tables'."""
    return [
        line("stsb", 2, [0.7, 0.9], 0.30, 0.29),
        line("stsb", 1, [0.5, 0.7], 0.40, 0.41),
        line("sst2", 1, [0.2, 0.4], 0.80, 0.78, deviation=0.04),
        line("sst2", 2, [0.2, 0.4], 0.90, 0.90, deviation=0.04),
    ]


def gathered(lines):
    """The Studies of some lines."""
    return gather(as_lines(lines), Path("gates.jsonl"))


def study(lines):
    """The only Study of some lines."""
    (found,) = gathered(lines)
    return found


# ---- numbers


def test_spreads_by_hand():
    """Of two values the standard deviation (n - 1) is their distance by the root of 2."""
    found = spreads(study(two_tasks()), "prefix")
    root = 2**0.5
    assert found == {
        "mean gate": pytest.approx(0.5),
        "over layers": pytest.approx(0.2 / root),
        "over sentences": pytest.approx(0.03),
        "over seeds": pytest.approx((0.2 / root + 0) / 2),
        "over tasks": pytest.approx(0.4 / root),
    }
    still = spreads(study(two_tasks()), "lora_query")
    assert still == {"mean gate": 0.5, "over layers": 0, "over sentences": 0, "over seeds": 0, "over tasks": 0}


def test_spreads_of_one_task():
    found = spreads_of_task(study(two_tasks()), "stsb", "prefix")
    root = 2**0.5
    assert found["mean gate"] == (pytest.approx(0.7), pytest.approx(0.2 / root))
    assert found["over layers"] == (pytest.approx(0.2 / root), pytest.approx(0))
    assert found["over sentences"] == (pytest.approx(0.02), 0)
    assert found["over seeds"][0] == pytest.approx(0.2 / root)


def test_scores_are_paired_by_seed():
    found = study(two_tasks())
    assert list(found.lines) == ["sst2", "stsb"]
    assert by_seed(found, "sst2", None) == pytest.approx([80, 90])
    assert by_seed(found, "sst2", "own mean") == pytest.approx([78, 90])
    assert by_seed(found, "sst2", "own mean", minus_as_is=True) == pytest.approx([-2, 0])
    assert by_seed(found, "avg", None) == pytest.approx([60, 60])
    assert by_seed(found, "avg", "own mean", minus_as_is=True) == pytest.approx([-0.5, -0.5])


def test_the_average_is_of_seeds_with_all_tasks():
    lines = two_tasks()[1:]
    assert by_seed(study(lines), "avg", None) == pytest.approx([60])
    assert by_seed(study(lines[:2]), "avg", "no prefix") == pytest.approx([50])
    assert by_seed(study([line("sst2", 1, [0.1], 0.8, 0.8), line("stsb", 2, [0.1], 0.8, 0.8)]), "avg", None) == []


def test_a_task_with_one_seed_tells_nothing_of_seeds():
    found = spreads(study(two_tasks()[:3]), "prefix")  # two seeds of STS-B, one of SST-2
    assert found["over seeds"] == pytest.approx(0.2 / 2**0.5)


def test_each_k_and_method_is_a_study():
    lines = [line("sst2", 1, [0.2], 0.8, 0.8, k=k) for k in (None, 500, 100)]
    found = gathered(lines)
    assert [each.title for each in found] == ["`apl`, K = 100", "`apl`, K = 500", "`apl`, K = all rows"]


def test_two_protocols_do_not_mix():
    second = line("sst2", 1, [0.2, 0.4], 0.8, 0.8)
    second["run"]["recipe"]["epochs"] = 3
    with pytest.raises(InputError, match="gates.jsonl: line 5: a second sst2-apl-k100-seed1; expected one protocol"):
        gathered([*two_tasks(), second])


def test_sample_rows_and_another_base_are_not_averaged_with_the_rest():
    for changes in ({"glue": "miniglue"}, {"model": "bert-base-uncased"}):
        other = line("stsb", 3, [0.2, 0.4], 0.8, 0.8)
        other["run"] |= changes
        with pytest.raises(InputError, match="line 5: mixes stsb-apl-k100-seed2 and stsb-.*; expected one base and"):
            gathered([*two_tasks(), other])


@pytest.mark.parametrize("missing", ["gates", "start", "scores", "replaced"])
def test_lines_of_another_kind_are_refused(missing):
    broken = two_tasks()
    del broken[1][missing]
    with pytest.raises(InputError, match="gates.jsonl: line 2: not a line that `python -m minipelt gates` wrote"):
        gathered(broken)


# ---- the page


def test_the_page():
    text = report(gathered(two_tasks()))
    assert text.startswith("# Gates\n\n4 runs on all-MiniLM-L6-v2 and GLUE, seeds 1, 2;")
    for row in (
        "| gates of | mean gate | over layers | over sentences | over seeds | over tasks |",
        "| prefix | 0.500 | 0.141 | 0.030 | 0.071 | 0.283 |",
        "| prefix | 0.500 | 0.000 | 0.010 | 0.000 | 0.000 |",
        "| stsb | prefix | 0.700<sub>0.141</sub> | 0.141<sub>0.000</sub> | 0.020<sub>0.000</sub> | 0.141 |",
        "|  | as they are | own mean | no prefix |",
        "| sst2 accuracy | 85.00<sub>7.07</sub> | 84.00<sub>8.49</sub> | 50.00<sub>0.00</sub> |",
        "| average | 60.00<sub>0.00</sub> | 59.50<sub>0.00</sub> | 50.00<sub>0.00</sub> |",
        "| sst2 accuracy | -1.00<sub>1.41</sub> | -35.00<sub>7.07</sub> |",
        "| stsb spearman | +0.00<sub>1.41</sub> | +15.00<sub>7.07</sub> |",
        "| sst2 | 25.00 % | 0.00 % |",
        "| stsb | by 0.250 | by 0.000 |",
    ):
        assert f"\n{row}\n" in text, row


def test_lines_from_before_a_setting_was_there():
    lines = two_tasks()
    for each in lines:
        del each["run"]["frozen_head"], each["run"]["valid_rows"]
    assert report(gathered(lines)) == report(gathered(two_tasks()))


def test_one_run_has_no_spread_over_seeds_or_tasks():
    text = report(gathered(two_tasks()[:1]))
    assert "| prefix | 0.800 | 0.141 | 0.020 | -- | -- |" in text
    assert "| stsb spearman | 30.00<sub>--</sub> | 29.00<sub>--</sub> | 50.00<sub>--</sub> |" in text
    assert "average" not in text


# ---- the figure


def test_the_figure_has_a_bar_a_spread():
    root = ElementTree.fromstring(draw(gathered(two_tasks())))
    bars = [(bar.get("class"), float(bar.get("width"))) for bar in root.iter(f"{SVG}rect")]
    assert [style for style, _ in bars] == ["prefix"] * 4 + ["lora"] * 4
    widths = [width for _, width in bars]
    assert widths[3] == max(widths) > 400 and widths[4:] == [0] * 4
    assert widths[0] / widths[3] == pytest.approx(0.5, abs=0.01)
    shown = [text.text for text in root.iter(f"{SVG}text")]
    for expected in ("apl, K = 100", "prefix", "LoRA query", "over sentences", "0.283"):
        assert expected in shown
    assert "prefix over layers 0.141 (0.000 before), over sentences 0.030 (0.010 before)" in root[1].text


def test_everyone_can_read_the_figure():
    root = ElementTree.fromstring(draw(gathered(two_tasks()[:1])))
    light, dark = root.find("{*}style").text.split("@media (prefers-color-scheme: dark)")
    styles = set(re.findall(r"\.(\w+) {", light)) & set(re.findall(r"\.(\w+) {", dark))
    for element in root.iter():
        if element.tag.split("}")[1] in ("text", "rect", "path"):
            assert element.get("class") in styles  # no colour of its own
        assert float(element.get("font-size", 12)) >= 12
    assert len(list(root.iter(f"{SVG}rect"))) == 4  # no bars for what one run cannot tell


@pytest.mark.parametrize("name", FOLDERS)
def test_committed_tables_come_out_again(tmp_path, name):
    """Byte for byte, from gates.jsonl alone."""
    (tmp_path / "gates.jsonl").write_bytes((RESULTS / name / "gates.jsonl").read_bytes())
    assert main(["gates", "--out", str(tmp_path)]) == 0
    for file in ("gates.md", "gates.svg"):
        assert (tmp_path / file).read_bytes() == (RESULTS / name / file).read_bytes(), file
