"""tools/describe.py: the summary names everything that trains, and its counts add up."""

import re
from collections import Counter

import pytest
import torch
from torch import nn

from minipelt.bert import BertClassifier, BertModel
from minipelt.experiment import parameter_table
from minipelt.settings import PARTS, Method
from minipelt.tools import describe as tool
from minipelt.tools.describe import CONFIGS, all_entries, describe
from minipelt.unipelt import attach, count_parameters, trained_parameters

MODEL = "all-MiniLM-L6-v2"
ROW = re.compile(r" +(kept: )?(?P<name>\S+) +\((?P<shape>[\d, ]*)\) +(?P<size>[\d,]+)  (?P<part>[a-z0-9 ]+)")
UNIONS = ["apl", "plb", "l+houlsby+p+parallel", "lora+layernorm+side", "bitfit+top"]


def listing_of(text):
    """The lines between the first one and the table, with how many layers each stands for."""
    layers = 1
    for line in text.split("\n\n")[1].split("\n"):
        if title := re.fullmatch(r"bert\.encoder\.layer\.(\d+)( \.\.\. (\d+))?, (each )?with", line):
            layers = int(title[3] or title[1]) - int(title[1]) + 1
        elif not line.startswith(" "):
            layers = 1
        yield line, layers


@pytest.mark.parametrize("name", [*PARTS, *UNIONS])
def test_the_rows_add_up_to_what_the_table_says_for_every_part(name):
    text = describe(Method(name), MODEL)
    shown = Counter()
    for line, layers in listing_of(text):
        if row := ROW.fullmatch(line):
            size = int(row["size"].replace(",", ""))
            assert size == torch.Size(int(n) for n in row["shape"].split(", ") if n).numel()
            shown[row["part"]] += size * layers
    table = text.split("\n\n")[2].split("\n")[1:]
    counts = {line[:18].strip(): int(line[18:30].replace(",", "")) for line in table}
    assert shown == {part: count for part, count in counts.items() if part != "base"}
    assert max(map(len, text.split("\n"))) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PARTS, *UNIONS])
def test_every_parameter_that_trains_is_there_with_its_shape(name):
    with torch.device("meta"):
        model = attach(BertClassifier(BertModel(CONFIGS[MODEL]), 2), Method(name))
    found = {}
    for entry in all_entries(model):
        for row in entry.rows:
            if not row.name.startswith("kept: "):
                found[f"{entry.place}.{row.name}"] = row.shape
    assert found == {name: tuple(parameter.shape) for name, parameter in trained_parameters(model).items()}


def test_side_and_prefix_are_whole():
    side = describe(Method("side"), MODEL)
    assert "layer.attention.self.query.weight        (48, 48)" in side
    assert "blend                                    ()" in side
    prefix = describe(Method("prefix"), MODEL)
    assert re.search(r"network\.3\.weight +\(4608, 512\) +2,359,296  prefix network", prefix)
    assert re.search(r"kept: table +\(6, 2, 10, 384\) +46,080  prefix", prefix)


def test_a_method_that_nobody_has_told_of_is_described(monkeypatch):
    """Its class says which part it is and what it computes; describe.py knows no names."""

    class Shift(nn.Module):
        part = "shift"
        equation = "f = f + {g}shift"

        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(384))

    def attach_shift(model, method):
        attach(model, method)
        for layer in model.bert.encoder.layer:
            layer.adapter = Shift()
        return model

    monkeypatch.setattr(tool, "attach", attach_shift)
    monkeypatch.setattr(tool, "count_parameters", lambda model: {"shift": 6 * 384, "base": 1})
    text = describe(Method("head"), MODEL)
    assert re.search(r"  adapter +f = f \+ shift\n      shift +\(384\) +384  shift\n", text)


def test_equations_follow_the_gate():
    gated, plain = describe(Method("apl")), describe(Method("apl", gate=False))
    for line in ("W h + b + g * B A h", "K = [g * P_K ; K]", "f = f + g * up(relu(down(x)))", "g = mean"):
        assert line in gated
    for line in ("W h + b + 2 * B A h", "K = [P_K ; K]", "f = f + up(relu(down(x)))"):
        assert line in plain
    assert "gate" not in plain
    assert re.search(r"down\.weight +\(48, 768\)", gated)
    assert re.search(r"A\.weight +\(8, 768\)", gated)
    assert "(12, 2, 10, 768)" in gated


def test_layers_that_differ_are_apart():
    text = describe(Method("top", top_layers=2), MODEL)
    assert "bert.encoder.layer.4 ... 5, each with" in text
    assert "bert.encoder.layer.5, with" in describe(Method("top"), MODEL)


def test_a_folder_is_described_by_its_config(tiny_folder):
    assert "N = 3 layers, D = 32" in describe(Method("lora"), str(tiny_folder))


def test_the_table_is_that_of_the_model():
    with torch.device("meta"):
        model = attach(BertClassifier(BertModel(CONFIGS[MODEL]), 2), Method("apl"))
    assert describe(Method("apl"), MODEL).endswith(parameter_table(count_parameters(model)))


def test_the_command(command):
    code, out, _ = command("describe", "lora", "--rank", "4")
    assert code == 0
    assert re.search(r"A\.weight +\(4, 768\)", out)
    _, out, _ = command("describe", "pl", "--no-gate")
    assert "gate" not in out
    for arguments, message in (
        (["xyz"], "unknown method 'xyz'"),
        (["apl", "--model", "nowhere"], "unknown model 'nowhere'"),
        (["apl", "--rank", "0"], "rank is 0"),
        (["apl", "--alpha", "4"], "--alpha has no effect on apl"),
        (["lora", "--no-gate"], "--no-gate has no effect on lora"),
    ):
        code, _, err = command("describe", *arguments)
        assert code == 2 and message in err and err.count("\n") == 1
