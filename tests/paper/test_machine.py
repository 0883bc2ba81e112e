"""machine.py: the memory of a step, and the matrix products that it makes."""

import pytest
import torch
from helpers import tiny_run
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minipelt.experiment import prepare
from minipelt.paper.machine import (
    SavedForBackward,
    describe_machine,
    limit_step,
    memory_of_training,
    products_of,
)
from minipelt.paper.race import inference_step, make_batches, training_step

CPU = torch.device("cpu")


def test_the_machine_is_described():
    machine = describe_machine(CPU)
    assert machine["processor"] and machine["cores"] >= 1
    assert machine["torch"] == torch.__version__
    assert machine["gpu"] is None


# ---- memory


def test_what_autograd_keeps_counts_once_and_parameters_do_not():
    first, second = nn.Linear(8, 4), nn.Linear(4, 2)
    x = torch.randn(16, 8)
    saved = SavedForBackward(nn.ModuleList([first, second]))
    with saved:
        h = first(x)  # keeps x
        y = h * h  # keeps h, twice
        second(y).sum().backward()  # keeps y, and the second weight
    assert saved.bytes == 4 * (16 * 8 + 16 * 4 + 16 * 4)
    assert first.weight.grad is not None


def test_the_memory_of_training():
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False))
    model[0].requires_grad_(False)
    x = torch.randn(16, 8)

    def step():
        model(x).sum().backward()

    found = memory_of_training(model, step, CPU)
    assert found == {"model": 4 * (32 + 8), "optimizer": 4 * 2 * 8, "step": 4 * (16 * 4 + 8)}  # tanh's output alone


# ---- the limit


def flops(products):
    """Multiplications and additions of some products."""
    total = 0
    for (left, _, _), (right, _, _) in products:
        batch = left[0] if len(left) == 3 else 1
        total += 2 * batch * left[-2] * left[-1] * right[-1]
    return total


@pytest.mark.parametrize("kind", ["training", "inference"])
@pytest.mark.parametrize("method", ["ft", "apl", "head"])
def test_the_products_are_those_that_torch_counts(tiny_folder, method, kind):
    """Forward and backward, linear layers and attention, by torch's own counter."""
    run = tiny_run(tiny_folder, "sst2", method, k=8, valid_rows=1)
    _, model, rows = prepare(run)
    batches = make_batches(rows["train"], 4, 30, CPU)["real"]
    if kind == "training":
        step = training_step(model.train(), run.recipe)
        found = products_of(lambda: step(batches))
        with FlopCounterMode(display=False) as counter:
            step(batches)
    else:
        step = inference_step(model.eval())
        found = products_of(lambda: step(batches))
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for inputs, _ in batches:  # its counter knows neither inference mode nor the CPU's attention kernel
                model(*inputs)
    assert flops(found) == counter.get_total_flops() > 0


def test_frozen_weights_save_products(tiny_folder):
    """Fine-tuning makes three products where a frozen base makes two, and the head one."""
    counts = {}
    for method in ("ft", "lora", "head"):
        run = tiny_run(tiny_folder, "sst2", method, k=8, valid_rows=1)
        _, model, rows = prepare(run)
        batches = make_batches(rows["train"], 4, 30, CPU)["padded"]
        step = training_step(model.train(), run.recipe)
        counts[method] = flops(products_of(lambda step=step, batches=batches: step(batches)))
    assert counts["ft"] > counts["lora"] > 1.5 * counts["head"]


def test_attention_s_kernel_counts_as_its_products():
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))
    found = products_of(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    forward = 2 * 2 * 2 * 3 * 5 * 7 * 8
    assert flops(found) == 3 * forward


def test_the_limit_makes_the_same_products():
    left, right = torch.randn(3, 4, 5), torch.randn(3, 6, 5).transpose(1, 2)
    found = products_of(lambda: torch.bmm(left, right))
    assert found == [(((3, 4, 5), (20, 5, 1), torch.float32), ((3, 5, 6), (30, 1, 5), torch.float32))]
    factors = {}
    step = limit_step(found, CPU, factors)
    assert products_of(step) == found
    assert len(factors) == 2
    limit_step(found, CPU, factors)
    assert len(factors) == 2


