"""What a benchmark says of the machine: its description, the memory that a step takes, and the limit that it sets.

No step can be faster than the matrix products that it makes. `Products` writes down which ones a step makes, forward
and backward, and `limit_step` makes the same products and nothing else: the share of a step that they would take is
how close it comes to the limit.
"""

import os
import platform
from collections.abc import Callable

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode


def describe_machine(device: torch.device) -> dict:
    """The machine and the versions that a measurement belongs to."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor_name() -> str:
    """The CPU's name as Linux has it, else as Python does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# ---- memory


class SavedForBackward(saved_tensors_hooks):
    """While open, count the bytes that autograd keeps of a forward pass for the backward one, parameters left out.

    A tensor that several operations keep counts once.
    """

    def __init__(self, model: nn.Module):
        super().__init__(self.pack, lambda tensor: tensor)
        self.known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.storages = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note a tensor's storage. Detached, or it would keep itself alive."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    @property
    def bytes(self) -> int:
        """Bytes so far."""
        return sum(self.storages.values())


def memory_of_training(model: nn.Module, step: Callable[[], None], device: torch.device) -> dict[str, int]:
    """Bytes that training takes: {"model", "optimizer", "step"}.

    model: parameters and buffers. optimizer: AdamW's two averages of each trained parameter. step: on a CPU what
    autograd keeps for the backward pass, and the gradients; on CUDA the peak above what was there before. Not in it:
    what an operation takes and gives back at once, and torch itself.
    """
    trained = sum(bytes_of(parameter) for parameter in model.parameters() if parameter.requires_grad)
    found = {"model": sum(map(bytes_of, [*model.parameters(), *model.buffers()])), "optimizer": 2 * trained}
    if device.type == "cuda":
        step()  # the optimiser makes its averages at the first step
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return found | {"step": torch.cuda.max_memory_allocated(device) - before}
    saved = SavedForBackward(model)
    with saved:
        step()
    return found | {"step": saved.bytes + trained}


def bytes_of(tensor: torch.Tensor) -> int:
    """How much memory a tensor's numbers take."""
    return tensor.numel() * tensor.element_size()


# ---- the limit


class Products(TorchDispatchMode):
    """While open, write down the matrix products that torch makes: `found`, a list of (left, right).

    left, right: (shape, strides, dtype) of the two factors, (n, k) and (k, m), or three-dimensional for a batch.
    Attention's fused kernel counts as the products that are in it.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        with self:  # in inference mode torch hands over a whole linear layer; taken apart, it comes through here again
            result = function.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        name = function.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.add(*args[:2])
        if name in ("addmm", "baddbmm"):
            self.add(*args[1:3])
        if name.startswith("_scaled_dot_product"):
            self.add_attention(args, is_backward=name.endswith("_backward"))
        return function(*args, **(kwargs or {}))

    def add(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Note one product."""
        self.found.append(tuple((tuple(x.shape), x.stride(), x.dtype) for x in (left, right)))

    def add_attention(self, args: tuple, is_backward: bool) -> None:
        """Forward: Q K^T and weights V. Backward: the two gradients of each."""
        if is_backward:
            args = args[1:]  # the first is the gradient
        query, key = (x.flatten(0, 1) for x in args[:2])  # (B H, T, d), (B H, S, d)
        weights = query.new_empty(len(query), query.shape[1], key.shape[1])  # (B H, T, S)
        for _ in range(2 if is_backward else 1):
            self.add(query, key.transpose(1, 2))
            self.add(weights, key)


def products_of(step: Callable[[], None]) -> list[tuple]:
    """The matrix products of a step."""
    with Products() as products:
        step()
    return products.found


def limit_step(products: list[tuple], device: torch.device, factors: dict) -> Callable[[], None]:
    """A function that makes the products that `Products` found, with random factors of the same layout.

    factors: those of other limits, to share with; the new ones are added.
    """
    for shape, strides, dtype in {each for pair in products for each in pair} - set(factors):
        factor = torch.empty_strided(shape, strides, dtype=dtype, device=device)
        factors[shape, strides, dtype] = factor.normal_()
    pairs = [(factors[left], factors[right]) for left, right in products]

    @torch.inference_mode()
    def step():
        for left, right in pairs:
            torch.matmul(left, right)

    return step
