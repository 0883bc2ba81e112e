"""Several tasks on one frozen base: any number of trained runs, switched between per call or within a batch.

    board = Switchboard(["runs/sst2-apl-seed1", "runs/rte-lora-seed1"])
    logits = board(["sst2-apl-seed1", "rte-lora-seed1"], input_ids, mask, token_type_ids)      # a run for each row

The base is in memory once, and a batch passes through its matrices once, whatever its rows ask for. In each slot sits
a Switch that sends every row through the module of its own run. A run that trained part of the base itself cannot take
part.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from minipelt.errors import InputError, plural
from minipelt.experiment import choose_device, load_base, load_run
from minipelt.settings import Run
from minipelt.unipelt import detach, slots

# ---- what fills the slots


class Switch(nn.Module):
    """What fills a slot: one module a run, None for one that leaves it empty. The board knows which rows are whose."""

    def __init__(self, modules, board):
        super().__init__()
        self.filled = {number for number, module in enumerate(modules) if module is not None}
        self.modules_of_runs = nn.ModuleDict({str(number): modules[number] for number in self.filled})
        self.board = [board]  # in a list, so that it does not count as a part of this module

    def groups(self):
        """(number of the run, its module, its rows) for every run of the batch that fills this slot."""
        for number, rows in self.board[0].rows.items():
            if number in self.filled:
                yield number, self.modules_of_runs[str(number)], rows


class AddSwitch(Switch):
    """For adapters and LoRA: what is to be added, 0 for rows of other runs."""

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T) -> (B, T, D)."""
        out = torch.zeros_like(x)
        for _, module, rows in self.groups():
            out[rows] = module(x[rows], mask[rows])
        return out


class ScaleSwitch(Switch):
    """For (IA)^3: rows of other runs stay as they are."""

    def forward(self, x):
        """x (B, T, features) -> the same shape."""
        out = x.clone()
        for _, module, rows in self.groups():
            out[rows] = module(x[rows])
        return out


class TableSwitch(Switch):
    """For the model's `prefix`: the prefixes of every run in the batch."""

    def forward(self):
        """-> for each layer a dict {number of the run: (2, P, D)}; P differs from run to run."""
        tables = {number: module() for number, module, _ in self.groups()}  # (N, 2, P, D) each
        layers = len(self.board[0].bert.encoder.layer)
        return [{number: table[layer] for number, table in tables.items()} for layer in range(layers)]


class PrefixSwitch(Switch):
    """For a layer's `prefix`: the longest prefix makes room for all; where a row has less, the room is masked."""

    def forward(self, h, k, v, mask, prefixes):
        """h, k, v (B, T, D), mask (B, T), prefixes {run: (2, P, D)} -> k, v (B, max P + T, D), mask (B, max P + T)."""
        longest = max((prefix.shape[1] for prefix in prefixes.values()), default=0)
        new_k = F.pad(k, (0, 0, longest, 0))
        new_v = F.pad(v, (0, 0, longest, 0))
        new_mask = F.pad(mask, (longest, 0))
        for number, module, rows in self.groups():
            one_k, one_v, one_mask = module(h[rows], k[rows], v[rows], mask[rows], prefixes[number])
            room = longest - prefixes[number].shape[1]
            new_k[rows] = F.pad(one_k, (0, 0, room, 0))
            new_v[rows] = F.pad(one_v, (0, 0, room, 0))
            new_mask[rows] = F.pad(one_mask, (room, 0))
        return new_k, new_v, new_mask


class PromptSwitch(Switch):
    """For the model's `prompt`: the longest makes room behind [CLS]; where a row has less, the room is masked."""

    def forward(self, h, mask):
        """h (B, T, D), mask (B, T) -> (B, longest P + T, D), (B, longest P + T)."""
        groups = list(self.groups())
        longest = max((len(module.vectors) for _, module, _ in groups), default=0)
        new_h, new_mask = make_room(h, longest), make_room(mask, longest)
        for _, module, rows in groups:
            one_h, one_mask = module(h[rows], mask[rows])
            room = longest - len(module.vectors)
            new_h[rows], new_mask[rows] = make_room(one_h, room), make_room(one_mask, room)
        return new_h, new_mask


def make_room(x, room):
    """x (B, T, ...) -> (B, T + room, ...): zeros behind the first place."""
    zeros = x.new_zeros((len(x), room, *x.shape[2:]))
    return torch.cat([x[:, :1], zeros, x[:, 1:]], dim=1)


SWITCHES = {
    ("BertModel", "prompt"): PromptSwitch,
    ("BertModel", "prefix"): TableSwitch,
    ("BertSelfAttention", "prefix"): PrefixSwitch,
    ("BertSelfAttention", "lora_query"): AddSwitch,
    ("BertSelfAttention", "lora_value"): AddSwitch,
    ("BertSelfAttention", "ia3_key"): ScaleSwitch,
    ("BertSelfAttention", "ia3_value"): ScaleSwitch,
    ("BertIntermediate", "ia3"): ScaleSwitch,
    ("BertOutput", "adapter"): AddSwitch,
    ("BertLayer", "parallel"): AddSwitch,
    ("BertLayer", "adapter"): AddSwitch,
}


# ---- the board


class Switchboard(nn.Module):
    """One base, many runs. Raises InputError if a folder is no run, its base is another, or it trained the base."""

    def __init__(self, folders, device="auto"):
        super().__init__()
        if not folders:
            raise InputError("no run folder; expected at least one")
        self.names = [Path(folder).name for folder in folders]
        if len(set(self.names)) < len(self.names):
            raise InputError(f"{', '.join(map(str, folders))}: expected folders with different names")
        self.runs = [Run.load(folder) for folder in folders]
        for folder, run in zip(folders, self.runs, strict=True):
            self.check(folder, run)
        device = choose_device(device)
        self.bert, self.tokenizer = load_base(self.runs[0].model, device)
        self.heads, self.sides = nn.ModuleList(), nn.ModuleList()
        self.rows = {}  # {number of a run: which rows of the batch ask for it}
        filled = [self.load_modules(folder, device) for folder in folders]
        for (_, module, slot), of_runs in zip(list(slots(self.bert)), zip(*filled, strict=True), strict=True):
            if any(each is not None for each in of_runs):
                setattr(module, slot, SWITCHES[type(module).__name__, slot](of_runs, self))
        self.eval()

    def check(self, folder, run):
        """Raise InputError if a run cannot share the base of the first one."""
        if run.method.trains_base:
            raise InputError(f"{folder}: method {run.method.name} trains the base itself; it cannot share it")
        if run.model != self.runs[0].model:
            raise InputError(f"{folder}: its base is {run.model}; expected {self.runs[0].model}, as for the others")
        if run.precision != "float32":
            raise InputError(f"{folder}: its precision is {run.precision}; expected float32, as the shared base has")

    def load_modules(self, folder, device):
        """Load a run into the base, keep its head and side network, and take out again what fills each slot: a list."""

        def shared_base(name, device):
            return self.bert, self.tokenizer

        run, _, model, _ = load_run(folder, shared_base, device=str(device))
        if model.bert.pooler_is_new:
            raise InputError(f"{folder}: its base has no pooler, so each run trained its own; it cannot be shared")
        if any(parametrize.is_parametrized(module) for module in model.bert.modules()):
            raise InputError(f"{folder}: method {run.method.name} rewrites the base's matrices; it cannot share them")
        self.heads.append(model.classifier)
        self.sides.append(nn.Identity() if model.side is None else model.side)
        found = [getattr(module, slot) for _, module, slot in slots(model.bert)]
        detach(model.bert)
        return found

    def forward(self, names, input_ids, attention_mask=None, token_type_ids=None):
        """A batch, row by row for any of the runs.

        names: a run's name for all rows, or one for each; the rest as BertModel takes it, (B, T) each.
        Returns a list of B logits, (C of the run) each. Raises InputError for a wrong name or number of names.
        """
        numbers = self.numbers_of(names, len(input_ids)).to(input_ids.device)  # (B)
        self.rows = {number: (numbers == number).nonzero().flatten() for number in numbers.unique().tolist()}
        hidden_states, pooled = self.bert(input_ids, attention_mask, token_type_ids)
        logits = [None] * len(input_ids)
        for number, rows in self.rows.items():
            x = pooled[rows]  # (b, D)
            if "side" in self.runs[number].method.parts:
                mask = None if attention_mask is None else attention_mask[rows]
                x = self.sides[number](hidden_states[0][rows], mask, x)
            for row, values in zip(rows.tolist(), self.heads[number](x), strict=True):
                logits[row] = values
        return logits

    def numbers_of(self, names, batch_size):
        """Names of runs -> their numbers, (B)."""
        if isinstance(names, str):
            names = [names] * batch_size
        if len(names) != batch_size:
            wrong = f"{plural(len(names), 'name')} for {plural(batch_size, 'row')}"
            raise InputError(f"{wrong}; expected one name for all, or one for each")
        for name in names:
            if name not in self.names:
                raise InputError(f"unknown run {name!r}; expected one of {', '.join(self.names)}")
        return torch.tensor([self.names.index(name) for name in names])
