"""One run on several processes (data parallel): each computes its share of every batch, and all make the same step.

    torchrun --nproc-per-node 2 train.py --task sst2 --method apl

The training loop knows nothing of it: a DataParallel stands in the model's place, takes the whole batch and gives the
whole batch's logits. Why the gradients are those of one process: let n processes share a batch with the logits
Z = (z_1, ..., z_n), where z_r = f(x_r; w) comes from process r, and let L(Z) be the batch's loss.

    each process gathers Z and computes all of L(Z)     process r gets dL/dz_r: autograd knows only its own z_r
    its gradient is multiplied by n on the way back     process r gets n (dz_r/dw)^T dL/dz_r
    DistributedDataParallel averages over processes     1/n sum_r n (dz_r/dw)^T dL/dz_r = dL/dw

A term of the loss that depends on w alone, such as diff pruning's, is computed by every process, and the average leaves
its gradient as it is. So with dropout off the result equals that of one process, but for the order in which floats
are added. With dropout it is another run of the same kind: each process draws the noise of its own rows.
"""

import math
import os

import torch
import torch.distributed.nn.functional  # unused, but if it comes after `start`, gloo's threads outlive `stop`
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from minipelt.errors import InputError


def start(device: str) -> None:
    """Join the other processes if torchrun started several. device: the name that the user gave. Raises InputError."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    if not device.startswith("cuda") and not (device == "auto" and torch.cuda.is_available()):
        distributed.init_process_group("gloo")
        return
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if ":" in device:
        raise InputError(f"device {device!r} for several processes; expected cuda, of which each takes one")
    if local >= gpus:
        raise InputError(
            f"process {local} of this machine has no GPU of its own; expected --nproc-per-node {gpus} at most"
        )
    torch.cuda.set_device(local)
    distributed.init_process_group("nccl")


def stop() -> None:
    """Leave the other processes, if there are any, when the work is done and no DataParallel is left.

    Gloo's threads end with it. One that is still at work when Python ends would abort the process.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """(this process's number, how many share the run)."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


class DataParallel(nn.Module):
    """What trains and scores in a BertClassifier's place when several processes share a run.

    All processes call it with the same batches and get the same logits.
    """

    def __init__(self, model):
        super().__init__()
        # The gradients of what trains travel, and nothing else: for LoRA 0.3 million numbers a step, not BERT's 110.
        self.parallel = DistributedDataParallel(model)

    @property
    def extra_loss(self):
        """What the method asks of the loop (BertClassifier's slot), computed by every process alike."""
        return self.parallel.module.extra_loss

    def forward(self, *inputs):
        """The whole batch's inputs, (B, T) each -> its logits (B, C)."""
        rank, size = rank_and_size()
        B = len(inputs[0])
        share = math.ceil(B / size)  # rows a process
        # All shares are equally large, as all_gather wants them: past the batch's end its last row comes again.
        rows = torch.arange(rank * share, (rank + 1) * share, device=inputs[0].device).clamp(max=B - 1)
        logits = self.parallel(*(x[rows] for x in inputs))  # (share, C)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: size * gradient)
        gathered = [torch.empty_like(logits) for _ in range(size)]
        distributed.all_gather(gathered, logits.detach().contiguous())
        gathered[rank] = logits
        return torch.cat(gathered)[:B]  # (B, C)


def wrap(model):
    """A BertClassifier -> what stands in its place: a DataParallel if several processes share the run, else itself."""
    return DataParallel(model) if rank_and_size()[1] > 1 else model
