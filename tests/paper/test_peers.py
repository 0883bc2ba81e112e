"""peers.py: other libraries' rows, where they are installed, on equal terms with ours."""

import copy

import pytest
import torch
from helpers import disturb, tiny_run

from minipelt.__main__ import main
from minipelt.batches import collate
from minipelt.experiment import prepare
from minipelt.paper import peers
from minipelt.paper.race import Contestant, keep_what_is_saved, training_step
from minipelt.settings import Method
from minipelt.unipelt import count_parameters, kept_parameters

OWN_MODULES = {  # the packages that a library's modules may come from: adapters changes classes of transformers
    "transformers": {"transformers", "torch"},
    "peft": {"transformers", "torch", "peft"},
}


def test_without_any_library_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    assert main(["timing", "--peers"]) == 2
    assert "--peers: expected one of transformers, peft, adapters to be installed" in capsys.readouterr().err


def test_those_that_are_installed_have_their_version(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda package: package == "peft")
    monkeypatch.setattr(peers.metadata, "version", lambda package: "1.2.3")
    assert peers.find_libraries() == {"peft": "peft 1.2.3"}


# ---- with the libraries


@pytest.fixture
def field(tiny_folder):
    """({method: our Contestant}, {(library, method): a peer's}, a batch), all with the same base."""
    for package in peers.LIBRARIES:
        pytest.importorskip(package)
    methods = {name: Method(name, bottleneck=4, prefix_length=3, prefix_hidden=8) for name in (
        "ft", "lora", "prefix", "adapter", "apl",
    )}
    ours = {}
    for name in methods:
        _, model, rows = prepare(tiny_run(tiny_folder, "sst2", name, k=8, valid_rows=1))
        ours[name] = Contestant("minipelt", name, kept_parameters(count_parameters(model)), model, keep_what_is_saved)
    built = peers.build_peers(list(ours.values()), methods, {name: name for name in peers.LIBRARIES})
    return ours, {(each.library, each.method): each for each in built}, collate(rows["train"], range(8))


@pytest.mark.slow
def test_equal_weights_and_equal_sizes(field):
    """Fine-tuning computes what ours does; what the others train is of our size."""
    ours, theirs, (inputs, _) = field
    assert set(theirs) == {(package, method) for package, method, _ in peers.PEERS}
    with torch.no_grad():
        expected = ours["ft"].model.eval()(*inputs)
        torch.testing.assert_close(theirs["transformers", "ft"].model.eval()(*inputs), expected)
    head = sum(parameter.numel() for parameter in ours["ft"].model.classifier.parameters())
    for (_, method), peer in theirs.items():
        trained = sum(parameter.numel() for parameter in peer.model.parameters() if parameter.requires_grad) - head
        mine = sum(parameter.numel() for parameter in ours[method].model.parameters() if parameter.requires_grad) - head
        if method in ("ft", "lora", "adapter"):
            assert trained == mine == peer.parameters
        if method == "prefix":
            assert trained == mine


@pytest.mark.slow
def test_all_that_trains_moves_and_the_base_does_not(field):
    ours, theirs, batch = field
    recipe = tiny_run("unused", "sst2", "ft").recipe
    for (library, method), peer in theirs.items():
        before = copy.deepcopy(peer.model.state_dict())
        step = training_step(peer.model.train(), recipe)
        for _ in range(3):  # the first leaves some where they are, behind a matrix of zeros
            step([batch])
        for name, parameter in peer.model.named_parameters():
            is_word = "word_embeddings" in name  # only those of the batch
            moved = not torch.equal(parameter, before[name])
            assert moved == parameter.requires_grad or is_word, (library, method, name)


@pytest.mark.slow
def test_what_is_saved_predicts_the_same(field):
    _, theirs, (inputs, _) = field
    for peer in theirs.values():
        disturb(peer.model).eval()
        with torch.no_grad():
            before = peer.model(*inputs)
            saved = peer.save(peer.model).eval()
            torch.testing.assert_close(saved(*inputs), before)
        if "prefix" in Method(peer.method).parts:
            names = [name for name, _ in saved.named_parameters()]
            assert not [name for name in names if "transform." in name or "control_trans." in name]


@pytest.mark.slow
def test_hugging_face_and_peft_are_measured_untouched(field):
    """After AdapterHub has been imported and used, no module of theirs is of its classes."""
    _, theirs, _ = field
    for (package, _), peer in theirs.items():
        if package in OWN_MODULES:
            found = {type(module).__module__.split(".")[0] for module in peer.model.model.modules()}
            assert found <= OWN_MODULES[package]
