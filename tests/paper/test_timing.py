"""timing.py: the benchmark on the tiny model, its tables, and what it refuses."""

import json

import pytest

from minipelt.__main__ import main
from minipelt.paper.report import timing_section
from minipelt.paper.tables import table_4
from minipelt.paper.timing import KINDS, LENGTHS, compare, tables


@pytest.fixture
def timing(tiny_folder, tmp_path, capsys):
    """What the command writes, and what it prints."""
    base = ["--model", str(tiny_folder), "--glue", "miniglue", "--device", "cpu", "--batch-size", "4"]
    command = ["timing", *base, "--repeats", "2", "--methods", "ft,lora,apl,diff", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    return json.loads((tmp_path / "out/timing.json").read_text()), capsys.readouterr().out


@pytest.mark.slow
def test_the_measurement(timing):
    record, printed = timing
    first, lora, apl, diff = record["methods"]
    assert (first["method"], first["training"], first["inference"]) == ("ft", 1, 1)
    assert lora["parameters"] < apl["parameters"] < first["parameters"] == record["base"]
    assert diff["parameters"] < first["parameters"]
    assert [row["method"] for row in record["merged"]] == ["lora", "diff"]
    assert (record["repeats"], record["threads"], record["task"], record["batch_size"]) == (2, 1, "sst2", 4)
    assert record["machine"]["cores"] >= 1
    assert printed.strip() == tables(record)
    padded, real = record["lengths"]["padded"], record["lengths"]["real"]
    assert padded["batches"] == 1 and padded["places"] == 4 * 128
    assert real["batches"] == 4 and real["tokens"] <= real["places"] < 16 * 128


@pytest.mark.slow
def test_each_cell_is_there(timing):
    record, _ = timing
    for row in (*record["methods"], *record["merged"]):
        is_merged = row in record["merged"]
        for length in LENGTHS:
            for kind in KINDS:
                cell = row[length][kind]
                if is_merged and kind == "training":
                    assert cell is None
                    continue
                assert 0 < cell["least"] <= cell["milliseconds"]
                assert 0 < cell["of_limit"]
                tokens = record["lengths"][length]["tokens"] / record["lengths"][length]["batches"]
                assert cell["tokens_per_second"] == pytest.approx(1000 * tokens / cell["milliseconds"])
        assert (row["memory"] is None) == is_merged
    memory = {row["method"]: row["memory"] for row in record["methods"]}
    assert memory["lora"]["optimizer"] < memory["ft"]["optimizer"]
    assert memory["lora"]["step"] < memory["ft"]["step"]


@pytest.mark.slow
def test_the_report_reads_it(timing):
    record, _ = timing
    rows = list(table_4(record))
    assert rows[0]["training"] == rows[0]["training, real batches"] == 100
    assert rows[1]["inference, real batches"] == 100 * record["methods"][1]["real"]["inference"]["of_ft"]
    text = timing_section(record, {"table4": rows})[1]
    assert "padded to 128 tokens; real batches: 4 others, each as long as its longest row; float32." in text


@pytest.mark.slow
def test_json_is_printed_in_place_of_tables(tiny_folder, tmp_path, capsys):
    command = ["timing", "--model", str(tiny_folder), "--glue", "miniglue", "--device", "cpu", "--batch-size", "2"]
    assert main([*command, "--repeats", "1", "--methods", "ft", "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "timing.json").read_text())


def made_up_row(library, method, milliseconds):
    """A row of a benchmark, all of whose times are alike."""
    cell = {"milliseconds": milliseconds, "least": milliseconds, "tokens_per_second": 10.0, "of_limit": 0.5}
    cells = {length: {kind: dict(cell) for kind in KINDS} for length in LENGTHS}
    return {"library": library, "method": method, "parameters": 1, "memory": None} | cells


def test_times_are_compared_with_fine_tuning_and_with_the_same_method_of_ours():
    ft, lora = made_up_row("minipelt", "ft", 8.0), made_up_row("minipelt", "lora", 4.0)
    other = made_up_row("peft", "lora", 5.0)
    compare([ft, lora], [ft, lora, other])
    assert (ft["training"], lora["training"], other["training"]) == (1, 0.5, 0.625)
    cell = other["real"]["inference"]
    assert (cell["of_ft"], cell["ours_of_theirs"]) == (0.625, 0.8)
    assert lora["real"]["inference"]["ours_of_theirs"] == 1


@pytest.mark.parametrize("arguments, message", [
    (["--methods", "lora,ft"], "--methods lora,ft: expected ft first"),
    (["--methods", ","], "expected ft first"),
    (["--repeats", "0"], "--repeats 0: expected at least 1"),
    (["--peers", "--precision", "bf16"], "--peers with --precision bf16: expected float32"),
])
def test_wrong_input(capsys, arguments, message):
    assert main(["timing", *arguments]) == 2
    assert message in capsys.readouterr().err
