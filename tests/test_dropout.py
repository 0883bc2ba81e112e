"""dropout.py: how often, how much, and that the noise follows torch's seed."""

import pytest
import torch

from minipelt.dropout import Dropout, dropout, noise


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_the_share_and_the_scale(p):
    z = noise(torch.empty(4_000_000), p)
    dropped = (z == 0).double().mean().item()
    deviation = (p * (1 - p) / z.numel()) ** 0.5
    assert abs(dropped - p) < 5 * deviation + 1 / 131_072
    assert z.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    assert set(z.unique().tolist()) == {0.0, z.max().item()}
    assert z.mean().item() == pytest.approx(1, abs=0.01)


def test_the_probability_is_exact_to_1e_4():
    """Of the 65,536 levels, those below 65,536 p are dropped."""
    for p in torch.rand(100).tolist():
        assert abs(round(p * 65_536) / 65_536 - p) < 1e-4


def test_elements_are_dropped_independently():
    """Neighbours share a random number, but no bits: at any distance, both are dropped p^2 of the time."""
    z = (noise(torch.empty(4_000_000), 0.3) == 0).double()
    for distance in range(1, 9):
        together = (z[distance:] * z[:-distance]).mean().item()
        assert together == pytest.approx(0.09, abs=0.001)


def test_the_noise_follows_the_seed():
    x = torch.randn(7, 5, 3)  # 105 elements: no multiple of 4
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    second = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first) and not torch.equal(second, first)
    assert first.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_is_the_noise(dtype):
    x = torch.randn(4, 6, dtype=dtype, requires_grad=True)
    torch.manual_seed(3)
    y = dropout(x, 0.25)
    torch.manual_seed(3)
    z = noise(x, 0.25)
    y.sum().backward()
    assert y.dtype == dtype and torch.equal(y, x * z) and torch.equal(x.grad, z)


def test_only_while_training():
    x, module = torch.randn(5, 5), Dropout(0.5)
    assert not torch.equal(module(x), x)
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(dropout(x, 0.0), x)
