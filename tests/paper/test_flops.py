"""flops.py: the count on paper against torch's own counter."""

from dataclasses import replace

import pytest
import torch
from helpers import TINY, tiny_bert
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minipelt.bert import BertClassifier
from minipelt.paper.flops import inference_flops, kept_bytes, product, training_flops
from minipelt.paper.growth import random_batch
from minipelt.paper.machine import SavedForBackward
from minipelt.paper.race import keep_what_is_saved, training_step
from minipelt.settings import Method, Recipe
from minipelt.unipelt import attach

CPU = torch.device("cpu")
METHODS = ["ft", "adapter", "prefix", "lora", "al", "apl"]


def counted(step):
    """What torch counts of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def model_of(method, config=TINY):
    """A method on the tiny encoder."""
    return attach(BertClassifier(tiny_bert(config), 2), method)


def test_a_product_by_hand():
    assert product(2, 3, 5) == 2 * 2 * 3 * 5


@pytest.mark.parametrize("name", METHODS)
def test_inference_is_counted_exactly(name):
    method = Method(name, bottleneck=6, prefix_length=3, prefix_hidden=8, rank=2)
    model = keep_what_is_saved(model_of(method)).eval().requires_grad_(False)
    inputs, _ = random_batch(TINY, 4, 20, CPU)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # its counter does not know the CPU's attention kernel
        found = counted(lambda: model(*inputs))
    assert found == inference_flops(TINY, method, 4, 20)


@pytest.mark.parametrize("name", METHODS)
def test_training_is_counted_but_for_the_first_layer(name):
    """There torch leaves out gradients that nothing needs: at most a layer's share of the backward pass."""
    layers = 8
    config = replace(TINY, num_hidden_layers=layers)
    method = Method(name, bottleneck=6, prefix_length=3, prefix_hidden=8, rank=2)
    model = model_of(method, config).train()
    step = training_step(model, Recipe(1e-4))
    found = counted(lambda: step([random_batch(config, 4, 20, CPU)]))
    predicted = training_flops(config, method, 4, 20)
    assert (1 - 1 / layers) * predicted < found <= predicted


@pytest.mark.parametrize("name", ["adapter", "prefix", "lora", "apl"])
def test_what_is_kept_is_about_what_autograd_keeps(name):
    layers = 8
    config = replace(TINY, num_hidden_layers=layers)
    method = Method(name, bottleneck=6, prefix_length=3, prefix_hidden=8, rank=2)
    model = model_of(method, config).train()
    step = training_step(model, Recipe(1e-4))
    saved = SavedForBackward(model)
    with saved:
        step([random_batch(config, 4, 60, CPU)])
    assert saved.bytes == pytest.approx(kept_bytes(config, method, 4, 60), rel=0.2)
