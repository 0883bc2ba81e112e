"""growth.py: what grows, the slopes, and a table and figure that come out again."""

import json

import pytest
from helpers import TINY

from minipelt.__main__ import main
from minipelt.commands.growth import make_parser
from minipelt.paper import growth


@pytest.fixture
def small(monkeypatch):
    """Growth on the tiny encoder: length and rank, in three sizes."""
    monkeypatch.setattr(growth, "CONFIG", TINY)
    monkeypatch.setattr(growth, "BATCH", 2)
    monkeypatch.setattr(growth, "LENGTH", 16)
    axes = {
        "length": growth.Axis("length", "apl", (8, 16, 32)),
        "rank": growth.Axis("rank", "lora", (1, 4, 16)),
    }
    monkeypatch.setattr(growth, "AXES", axes)


def test_the_command_offers_every_axis():
    assert make_parser("growth").parse_args([]).axes == list(growth.AXES)


@pytest.mark.parametrize("name", growth.AXES)
def test_one_size_grows_and_all_others_stay(name):
    axis = growth.AXES[name]
    assert len(axis.values) >= 3 and list(axis.values) == sorted(axis.values)
    config, method, B, T = zip(*(growth.sizes_at(axis, value) for value in axis.values), strict=True)
    layers = [each.num_hidden_layers for each in config]
    settings = [getattr(each, name, None) for each in method]
    found = {"length": T, "batch": B, "layers": layers}
    for other, values in found.items():
        assert len(set(values)) == (len(axis.values) if other == name else 1)
    assert list(found.get(name, settings)) == list(axis.values)
    assert max(T) <= config[0].max_position_embeddings


@pytest.mark.parametrize("power", [0, 1, 2])
def test_a_slope_is_the_power(power):
    points = [{"value": value, "cost": 3 * value**power} for value in (2, 4, 8, 16)]
    assert growth.slope(points, "cost") == pytest.approx(power)


def test_a_slope_is_that_of_the_upper_end():
    points = [{"value": value, "cost": max(100, value)} for value in (1, 10, 100, 200, 400)]
    assert growth.slope(points, "cost") == pytest.approx(1)


@pytest.mark.slow
def test_the_files_come_out_again_without_measuring(small, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    options = ["growth", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*options, "--repeats", "1", "--axes", "length,rank"]) == 0
    record = json.loads((tmp_path / "growth.json").read_text())
    assert [each["axis"] for each in record["axes"]] == ["length", "rank"]
    for each in record["axes"]:
        for smaller, larger in zip(each["points"], each["points"][1:], strict=False):
            assert smaller["memory"] < larger["memory"]
            assert smaller["training_flops"] < larger["training_flops"]
            assert smaller["training"] > 0 and smaller["inference"] > 0
    text = (tmp_path / "growth.md").read_text()
    assert text in capsys.readouterr().out
    assert "| length | `apl` | 8 to 32 |" in text
    before = {name: (tmp_path / name).read_bytes() for name in ("growth.json", "growth.md", "growth.svg")}
    for name in ("growth.md", "growth.svg"):
        (tmp_path / name).unlink()
    monkeypatch.setattr(growth, "measure_all", lambda args: pytest.fail("it measures"))
    assert main([*options, "--redraw"]) == 0
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("arguments, message", [
    (["--axes", "depth"], "--axes depth: expected some of length, batch"),
    (["--axes", ","], "expected some of"),
    (["--repeats", "0"], "--repeats 0: expected at least 1"),
    (["--redraw"], "growth.json: no such file"),
])
def test_wrong_input(tmp_path, capsys, arguments, message):
    assert main(["growth", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))
