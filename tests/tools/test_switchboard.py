"""tools/switchboard.py: a mixed batch equals the runs by themselves."""

import pytest
import torch
from helpers import write_tiny_folder

from minipelt.errors import InputError
from minipelt.experiment import load_run
from minipelt.files import load_json, save_json
from minipelt.tools.switchboard import SWITCHES, Switchboard
from minipelt.unipelt import slots

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

METHODS = {
    "sst2": "apl",
    "rte": "lora",
    "stsb": "prefix",
    "mnli": "parallel+p",
    "cola": "prompt",
    "qnli": "ia3",
    "mrpc": "side",
    "qqp": "head",
}


@pytest.fixture
def folders(trained):
    """A run of every task, each of another method; prefixes and prompts of two lengths."""
    return [trained(task, method, prefix_length=2 if task == "mnli" else 4) for task, method in METHODS.items()]


def test_a_mixed_batch_equals_the_runs_by_themselves(folders, batch):
    board = Switchboard(folders, "cpu")
    ids, mask, types = (x.repeat(6, 1) for x in batch)  # 18 rows of three lengths
    names = [board.names[number] for number in torch.randint(len(folders), (18,))]
    names[:8] = board.names
    with torch.no_grad():
        mixed = board(names, ids, mask, types)
        for folder in folders:
            rows = [row for row, name in enumerate(names) if name == folder.name]
            inputs = ids[rows], mask[rows], types[rows]
            expected = load_run(folder)[2](*inputs)
            alone = board(folder.name, *inputs)
            for number, row in enumerate(rows):
                assert torch.allclose(mixed[row], expected[number], atol=1e-5), folder.name
                assert torch.allclose(alone[number], expected[number], atol=1e-5), folder.name
    spread = torch.stack([board(name, ids[:1], mask[:1], types[:1])[0][0] for name in board.names])
    assert spread.std() > 1e-3  # the runs do differ


def test_the_base_is_there_once(folders):
    board = Switchboard(folders, "cpu")
    assert len([name for name, _ in board.named_parameters() if name.endswith("word_embeddings.weight")]) == 1


def test_without_a_mask(folders, batch):
    board = Switchboard(folders, "cpu")
    ids = batch[0]
    names = [board.names[0], board.names[4], board.names[6]]  # gates, a prompt, and a side network ask for the mask
    for one, other in zip(board(names, ids), board(names, ids, torch.ones_like(ids)), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_every_slot_of_the_encoder_has_a_switch(tiny):
    assert {(type(module).__name__, slot) for _, module, slot in slots(tiny)} == set(SWITCHES)


def test_what_cannot_take_part(folders, trained, tmp_path):
    bitfit = trained("sst2", "bitfit")
    with pytest.raises(InputError, match="bitfit trains the base itself"):
        Switchboard([folders[0], bitfit], "cpu")
    with pytest.raises(InputError, match="at least one"):
        Switchboard([])
    with pytest.raises(InputError, match="different names"):
        Switchboard([folders[0], folders[0]], "cpu")
    with pytest.raises(InputError, match="none: no run.json"):
        Switchboard([folders[0], tmp_path / "none"], "cpu")
    board = Switchboard(folders[:2], "cpu")
    ids = torch.tensor([[2, 3], [2, 3]])
    with pytest.raises(InputError, match="unknown run 'x'"):
        board("x", ids)
    with pytest.raises(InputError, match="1 name for 2 rows"):
        board([folders[0].name], ids)


def test_a_run_on_another_base_cannot_take_part(folders, tmp_path):
    record = load_json(folders[1] / "run.json")
    record["run"]["model"] = str(write_tiny_folder(tmp_path / "other"))
    save_json(record, folders[1] / "run.json")
    with pytest.raises(InputError, match="its base is .*other; expected .*tiny-bert"):
        Switchboard(folders[:2], "cpu")


@pytest.mark.parametrize("change, message", [
    ({"fingerprints": {"base": "abc", "train": "def"}}, "another base or vocabulary"),
    ({"precision": "bf16"}, "its precision is bf16; expected float32"),
])
def test_a_run_that_would_answer_otherwise_by_itself_cannot_take_part(folders, change, message):
    """What loading it alone refuses is refused here, too."""
    record = load_json(folders[1] / "run.json")
    record["run"] |= {name: value for name, value in change.items() if name in record["run"]}
    record |= {name: value for name, value in change.items() if name not in record["run"]}
    save_json(record, folders[1] / "run.json")
    with pytest.raises(InputError, match=message):
        Switchboard(folders[:2], "cpu")
