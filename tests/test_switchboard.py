"""switchboard.py: a mixed batch equals the runs by themselves."""

import pytest
import torch

from minipelt import InputError
from minipelt.experiment import load_run, new_folder, prepare, run_experiment
from minipelt.switchboard import Switchboard
from test_train import tiny_run

METHODS = {"sst2": "apl", "rte": "lora", "stsb": "prefix", "mnli": "parallel+p", "cola": "prompt", "qnli": "ia3", "mrpc": "side", "qqp": "head"}


@pytest.fixture
def folders(tiny_folder, tmp_path):
    """A trained run of every task, each of another method; prefixes and prompts of two lengths. Everything trained is moved far from its start."""
    from dataclasses import replace
    made = []
    for task, method in METHODS.items():
        run = tiny_run(tiny_folder, task, method, epochs=1, k=20, valid_rows=10)
        run = replace(run, method=replace(run.method, prefix_length=2 if task == "mnli" else 4), recipe=replace(run.recipe, learning_rate=0.05))
        run_experiment(prepare(run), folder := new_folder(run, tmp_path / "runs"))
        made.append(folder)
    return made


def test_a_mixed_batch_equals_the_runs_by_themselves(folders, batch):
    board = Switchboard(folders, "cpu")
    ids, mask, types = (x.repeat(6, 1) for x in batch)  # 18 rows of three lengths
    names = [board.names[i] for i in torch.randint(len(folders), (18,))]
    names[:8] = board.names
    with torch.no_grad():
        mixed = board(names, ids, mask, types)
        for folder in folders:
            alone = load_run(folder, device="cpu")[2]
            rows = [row for row, name in enumerate(names) if name == folder.name]
            expected = alone(ids[rows], mask[rows], types[rows])
            for row, logits in zip(rows, expected): assert torch.allclose(mixed[row], logits, atol=1e-5), folder.name
            for row, logits in zip(rows, board(folder.name, ids[rows], mask[rows], types[rows])): assert torch.allclose(mixed[row], logits, atol=1e-5)
    spread = torch.stack([board(name, ids[:1], mask[:1], types[:1])[0][0] for name in board.names])
    assert spread.std() > 1e-3  # the runs do differ


def test_the_base_is_there_once(folders):
    board = Switchboard(folders, "cpu")
    assert len([name for name, _ in board.named_parameters() if name.endswith("word_embeddings.weight")]) == 1


def test_without_a_mask(folders, batch):
    board = Switchboard(folders, "cpu")
    ids = batch[0]
    for one, other in zip(board(board.names[:3], ids), board(board.names[:3], ids, torch.ones_like(ids))): assert torch.allclose(one, other, atol=1e-6)


def test_what_cannot_take_part(folders, tiny_folder, tmp_path):
    run = tiny_run(tiny_folder, "sst2", "bitfit", epochs=1, k=20, valid_rows=10)
    run_experiment(prepare(run), folder := new_folder(run, tmp_path / "runs"))
    with pytest.raises(InputError, match="bitfit trains the base itself"): Switchboard([folders[0], folder], "cpu")
    with pytest.raises(InputError, match="at least one"): Switchboard([])
    with pytest.raises(InputError, match="different names"): Switchboard([folders[0], folders[0]], "cpu")
    with pytest.raises(InputError, match="unknown run 'x'"): Switchboard(folders[:2], "cpu")("x", torch.tensor([[2, 3]]))
    with pytest.raises(InputError, match="1 names for 2 rows"): Switchboard(folders[:2], "cpu")([folders[0].name], torch.tensor([[2, 3], [2, 3]]))
