"""Fixtures of the attack: all of its tests are slow, throw dice that a failure names, and never ask the network."""

from pathlib import Path

import pytest
import torch
from attack.machinery import TALLY, Killer, new_dice, write_base

from minipelt import weights
from minipelt.errors import InputError


def pytest_collection_modifyitems(items):
    """Mark all of them slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter):
    """What the attack did, in numbers."""
    for name, number in sorted(TALLY.items()):
        terminalreporter.write_line(f"{number:>9,} {name}")


@pytest.fixture
def dice(request):
    """Random numbers, the same in every run of a test; their seed is printed if it fails."""
    dice, seed = new_dice(request.node.nodeid)
    request.node.add_report_section("setup", "dice", f"seed: {seed!r}")
    return dice


@pytest.fixture
def base(tmp_path, seeded):
    """The tiny encoder with vocab.txt."""
    return write_base(tmp_path / "base")


@pytest.fixture(scope="module")
def shared_base(tmp_path_factory):
    """The tiny encoder, one for all tests of a file."""
    torch.manual_seed(1)
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def killer():
    """What runs command lines and kills them."""
    killer = Killer()
    yield killer
    killer.stop()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A model's name that is no folder is refused, where it would be looked up on the network."""

    def refuse(*_):
        raise InputError("no network in this test; expected a folder")

    monkeypatch.setattr(weights, "fetch_default", refuse)
    monkeypatch.setattr(weights, "fetch_from_hub", refuse)
