"""side.py: the blend, and that no gradient enters the encoder."""

import torch

from minipelt.bert import BertClassifier
from minipelt.side import SideNetwork
from minipelt.unipelt import Method, attach
from conftest import TINY


def test_the_blend(tiny, batch):
    side = SideNetwork(TINY, 8).eval()
    ids, mask, types = batch
    h, pooled = tiny(*batch).hidden_states[0], torch.randn(3, 32)
    half = side(h, mask, pooled)
    torch.nn.init.constant_(side.blend, 50.0)
    assert half.shape == (3, 32) and torch.allclose(side(h, mask, pooled), pooled)  # alpha = 1: the encoder alone
    torch.nn.init.constant_(side.blend, -50.0)
    assert torch.allclose(half, (pooled + side(h, mask, pooled)) / 2, atol=1e-6)


def test_no_mask_is_all_real(tiny):
    side, h, pooled = SideNetwork(TINY, 8).eval(), torch.randn(2, 5, 32), torch.randn(2, 32)
    assert torch.equal(side(h, None, pooled), side(h, torch.ones(2, 5), pooled))


def test_the_encoder_takes_no_part_in_the_backward_pass(tiny, batch):
    model = attach(BertClassifier(tiny, 2), Method("side", bottleneck=8))
    assert not model.bert(*batch).pooled.requires_grad and model(*batch).requires_grad
