"""economy.py: bfloat16, compilation, recomputed layers and a step in parts change the cost, and not the result."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers import TINY, tiny_bert, tiny_run

from minipelt import economy
from minipelt.batches import Rows
from minipelt.bert import BertClassifier
from minipelt.economy import arithmetic_of, memory_advice, recompute_layers, use_bfloat16, what_the_machine_has
from minipelt.errors import InputError
from minipelt.experiment import new_folder, prepare, run_experiment
from minipelt.gate import record_gates
from minipelt.loop import loss_function, train
from minipelt.settings import Method, Recipe, Run
from minipelt.unipelt import attach, trained_parameters

SMALL = Method("apl", bottleneck=8, prefix_length=4, prefix_hidden=8, rank=4)
NO_DROPOUT = replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
CPU = torch.device("cpu")


@pytest.fixture
def model():
    """A tiny classifier with `apl`, with dropout."""
    return attach(BertClassifier(tiny_bert(TINY), 2), SMALL)


def some_rows(n=13):
    """Rows of 3 to 9 random tokens with random classes."""
    ids = [torch.randint(8, 60, (length,)).tolist() for length in torch.randint(3, 10, (n,))]
    return Rows(ids, [[0] * len(row) for row in ids], torch.randint(0, 2, (n,)))


def a_batch():
    """(inputs, labels) of four rows, one of them padded."""
    ids = torch.randint(8, 60, (4, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return (ids, mask, torch.zeros_like(ids)), torch.tensor([0, 1, 1, 0])


def gradients(model, seed=3):
    """{name: gradient} of one batch, after one fixed seed for dropout. The batch follows the seed, too."""
    torch.manual_seed(seed)
    inputs, labels = a_batch()
    model.train()
    loss_function(model(*inputs), labels).backward()
    return {name: parameter.grad for name, parameter in trained_parameters(model).items()}


def test_recomputed_layers_give_the_same_gradients_to_the_bit(model):
    twin = copy.deepcopy(model)
    recompute_layers(twin.bert)
    expected, found = gradients(model), gradients(twin)
    assert any(gradient.abs().max() > 0 for gradient in expected.values())
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_recomputed_layers_keep_less_for_the_way_back(model):
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            model.train()
            model(*a_batch()[0])
        return sum(sizes)

    before = kept(model)
    recompute_layers(model.bert)
    assert kept(model) < before / 2


def test_the_runs_of_a_sweep_share_a_base_and_do_not_wrap_its_layers_deeper_and_deeper(model):
    twin = copy.deepcopy(model)
    for _ in range(1000):
        recompute_layers(twin.bert)
    expected, found = gradients(model), gradients(twin)  # Python's stack would not be deep enough
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_bfloat16_rounds_products_and_leaves_weights_and_gradients_in_float32(model):
    model.eval()
    inputs, _ = a_batch()
    exact = model(*inputs)
    use_bfloat16(model)
    rounded = model(*inputs)
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded - exact).abs().max() < 0.02 + 0.02 * exact.abs().max()
    found = gradients(model)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_a_product_outside_of_the_model_is_as_exact_as_the_run(precision, dtype):
    x = torch.randn(3, 3)
    with arithmetic_of(Run("sst2", SMALL, Recipe(1e-3), precision=precision), CPU):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def test_gates_of_a_bfloat16_pass_are_averaged_in_float32():
    model = attach(BertClassifier(tiny_bert(), 2), Method("apl")).eval()
    use_bfloat16(model)
    with record_gates(model) as recorded:
        model(*a_batch()[0])
    assert {each.dtype for values in recorded.values() for each in values} == {torch.float32}


def test_a_loss_of_bfloat16_logits_is_computed_in_float32():
    logits, labels = torch.randn(64, 2).bfloat16(), torch.randint(0, 2, (64,))
    assert loss_function(logits, labels) == loss_function(logits.float(), labels)
    assert loss_function(logits[:, :1], labels.float()).dtype == torch.float32


@pytest.mark.parametrize("parts", [2, 3, 5, 100])
def test_a_step_in_parts_ends_where_the_whole_step_ends(parts):
    """Dropout off; 13 rows in steps of 6: parts of different sizes, and a last step of one row."""
    model = attach(BertClassifier(tiny_bert(NO_DROPOUT), 2), SMALL)
    torch.nn.init.normal_(model.classifier.weight)
    check_parts(model, some_rows(), Recipe(1e-1, batch_size=6, epochs=2, warmup=0.0), parts)


class Penalty(torch.nn.Module):
    """An `extra_loss` that grows with a head's weights."""

    def __init__(self, head):
        super().__init__()
        self.heads = [head]  # in a list: not a submodule of its own

    def forward(self, epoch, recipe):
        """-> a number."""
        return self.heads[0].weight.square().sum()


def test_a_method_s_own_loss_counts_once_a_step_in_parts():
    model = attach(BertClassifier(tiny_bert(NO_DROPOUT), 2), SMALL)
    torch.nn.init.normal_(model.classifier.weight)
    model.extra_loss = Penalty(model.classifier)
    check_parts(model, some_rows(6), Recipe(1e-1, batch_size=6, epochs=1, clip=100.0), 3)


def check_parts(model, rows, recipe, parts):
    """Train a model in whole steps, and its twin in parts, by plain gradient descent; both must end alike."""
    trained, reports = {}, {}
    for number in (1, parts):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trained_parameters(twin).values(), lr=recipe.learning_rate)
        reports[number] = list(train(twin, rows, replace(recipe, accumulate=number), lambda model: 0.0, optimizer))
        trained[number] = trained_parameters(twin)
    for one, other in zip(reports[1], reports[parts], strict=True):
        assert math.isclose(one["loss"], other["loss"], rel_tol=1e-5)
    before = trained_parameters(model)
    for name, parameter in trained[1].items():
        assert torch.allclose(trained[parts][name], parameter, atol=1e-5), name
    assert any(not torch.allclose(before[name], parameter, atol=1e-4) for name, parameter in trained[1].items())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_records_its_precision_and_is_scored_in_it(tiny_folder, tmp_path, precision):
    run = tiny_run(tiny_folder, "sst2", "apl", precision=precision, gradient_checkpointing=True, k=20, valid_rows=10)
    folder = new_folder(run, tmp_path)
    record = run_experiment(prepare(run), folder)
    assert record["run"]["precision"] == precision
    assert ("bf16" in folder.name) == (precision == "bf16")


def test_another_precision_is_refused(tiny_folder):
    with pytest.raises(InputError, match="precision is 'fp8'; expected float32 or bf16"):
        tiny_run(tiny_folder, "sst2", "lora", precision="fp8")


def test_what_a_machine_lacks_is_taken_out_with_a_sentence(tiny_folder, monkeypatch):
    run = tiny_run(tiny_folder, "sst2", "lora", precision="bf16", compile=True)
    monkeypatch.setattr(economy, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(economy, "can_compile", lambda device: False)
    said = []
    settled = what_the_machine_has(run, CPU, said.append)
    assert settled == replace(run, precision="float32", compile=False)
    assert [line.count(";") for line in said] == [1, 1]
    monkeypatch.setattr(economy, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(economy, "can_compile", lambda device: True)
    assert what_the_machine_has(run, CPU, said.append) == run
    assert len(said) == 2


def test_a_compiler_that_fails_counts_as_none(monkeypatch):
    def broken(function):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    assert not economy.can_compile(CPU)


@pytest.mark.slow
def test_a_compiled_model_gives_the_plain_one_s_gradients():
    if not economy.can_compile(CPU):
        pytest.skip("no compiler on this machine")
    model = attach(BertClassifier(tiny_bert(replace(NO_DROPOUT, num_hidden_layers=1)), 2), Method("lora", rank=4))
    twin = copy.deepcopy(model)
    expected, found = gradients(model), gradients(torch.compile(twin))
    for name, gradient in expected.items():
        assert torch.allclose(found[f"_orig_mod.{name}"], gradient, atol=1e-5), name


def test_a_compiled_run_trains_what_torch_compile_gives(tiny_folder, tmp_path, monkeypatch):
    """With a compiler that only counts: every step goes through it, and the test with its gates does not."""
    calls = []

    def counting(model):
        model.register_forward_hook(lambda model, inputs, logits: calls.append(model.training))
        return model

    monkeypatch.setattr(torch, "compile", counting)
    run = tiny_run(tiny_folder, "sst2", "lora", compile=True, k=20, valid_rows=10)
    run_experiment(prepare(run), tmp_path)
    assert True in calls


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
])
def test_lack_of_memory_becomes_a_line_with_a_batch_size(tiny_folder, error):
    run = tiny_run(tiny_folder, "sst2", "lora")
    with pytest.raises(InputError, match=f"--batch-size {run.recipe.batch_size // 2}") as caught:
        with memory_advice(run):
            raise error
    assert "\n" not in str(caught.value) and "--accumulate 2" in str(caught.value)


def test_other_errors_pass(tiny_folder):
    with pytest.raises(RuntimeError, match="shapes"):
        with memory_advice(tiny_run(tiny_folder, "sst2", "lora")):
            raise RuntimeError("shapes cannot be multiplied")


def test_a_run_that_finds_no_memory_ends_in_one_sentence(tiny_folder, tmp_path, monkeypatch):
    run = tiny_run(tiny_folder, "sst2", "lora", k=20, valid_rows=10)
    prepared = prepare(run)

    def greedy(*inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(prepared.model, "forward", greedy)
    with pytest.raises(InputError, match="out of memory with"):
        run_experiment(prepared, tmp_path)
