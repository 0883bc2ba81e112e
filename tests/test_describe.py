"""describe.py: the summary names every slot and its counts add up."""

import re

import pytest

from minipelt import describe as chapter
from minipelt.describe import CONFIGS, describe
from minipelt.unipelt import Method

from test_unipelt import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_the_parts_add_up_to_what_the_table_says(name):
    text = describe(Method(name), "all-MiniLM-L6-v2")
    layers = CONFIGS["all-MiniLM-L6-v2"].num_hidden_layers
    listing, table = text.split("\n\n")[1:]
    shown = 0
    for line in listing.split("\n"):
        if number := re.search(r" ([\d,]+)$", line): shown += int(number[1].replace(",", "")) * (layers if line.startswith("  ") else 1)
    counts = {row[:18].strip(): int(row[18:30].replace(",", "")) for row in table.split("\n")[1:]}
    assert shown == sum(count for part, count in counts.items() if part != "base")
    assert max(map(len, text.split("\n"))) <= 100


def test_equations_follow_the_gate():
    gated, plain = describe(Method("apl")), describe(Method("apl", gate=False))
    for line in ("q = W_q h + b_q + g * B A h", "K = [g * P_K ; K]", "f = f + g * up(relu(down(x)))", "adapter.gate"): assert line in gated
    for line in ("q = W_q h + b_q + 16/8 * B A h", "K = [P_K ; K]", "f = f + up(relu(down(x)))"): assert line in plain
    assert "gate" not in plain
    assert "down (48, 768)  up (768, 48)" in gated and "A (8, 768)  B (768, 8)" in gated and "(12, 2, 10, 768)" in gated


def test_a_folder_is_described_by_its_config(tiny_folder):
    assert "N = 3 layers, D = 32" in describe(Method("lora"), str(tiny_folder))


def test_the_command(capsys):
    assert chapter.main(["lora", "--rank", "4"]) == 0
    assert "A (4, 768)  B (768, 4)" in capsys.readouterr().out
    for arguments, message in ((["xyz"], "unknown method 'xyz'"), (["apl", "--model", "nowhere"], "unknown model 'nowhere'"), (["apl", "--rank", "0"], "rank is 0")):
        assert chapter.main(arguments) == 2
        assert message in capsys.readouterr().err
