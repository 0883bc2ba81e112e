"""methods/side.py: the blend, and that no gradient enters the encoder."""

import torch
from helpers import TINY

from minipelt.bert import BertClassifier
from minipelt.methods.side import SideNetwork
from minipelt.settings import Method
from minipelt.unipelt import attach


def test_the_blend(tiny, batch):
    side = SideNetwork(TINY, 8).eval()
    mask = batch[1]
    h = tiny(*batch).hidden_states[0]
    pooled = torch.randn(3, 32)
    assert side.blend.item() == 0  # one half of each
    half = side(h, mask, pooled)
    torch.nn.init.constant_(side.blend, 50.0)
    assert half.shape == (3, 32)
    assert torch.allclose(side(h, mask, pooled), pooled)  # alpha = 1: the encoder alone
    torch.nn.init.constant_(side.blend, -50.0)
    assert torch.allclose(half, (pooled + side(h, mask, pooled)) / 2, atol=1e-6)


def test_no_mask_is_all_real(tiny):
    side = SideNetwork(TINY, 8).eval()
    h, pooled = torch.randn(2, 5, 32), torch.randn(2, 32)
    assert torch.equal(side(h, None, pooled), side(h, torch.ones(2, 5), pooled))


def test_the_encoder_takes_no_part_in_the_backward_pass(tiny, batch):
    model = attach(BertClassifier(tiny, 2), Method("side", bottleneck=8))
    assert not model.bert(*batch).pooled.requires_grad
    assert model(*batch).requires_grad
