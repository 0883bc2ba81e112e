"""timing.py: Table 4's measurement on the tiny model."""

import json

from minipelt.timing import main


def test_the_measurement(tiny_folder, tmp_path, capsys):
    arguments = ["--model", str(tiny_folder), "--glue", "miniglue", "--device", "cpu", "--repeats", "3", "--out", str(tmp_path)]
    assert main([*arguments, "--methods", "ft,lora,apl"]) == 0
    timing = json.loads((tmp_path / "timing.json").read_text())
    first, lora, apl = timing["methods"]
    assert (first["method"], first["training"], first["inference"]) == ("ft", 1, 1)
    assert lora["parameters"] < apl["parameters"] < first["parameters"] == timing["base"]
    assert all(row["training"] > 0 and row["inference"] > 0 for row in timing["methods"])
    assert "100 %" in capsys.readouterr().out


def test_fine_tuning_comes_first(capsys):
    assert main(["--methods", "lora,ft"]) == 2
    assert "expected ft first" in capsys.readouterr().err
