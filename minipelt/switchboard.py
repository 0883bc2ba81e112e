"""Several tasks on one frozen base: any number of trained runs, switched between per call or within a batch.

    board = Switchboard(["runs/sst2-apl-seed1", "runs/rte-lora-seed1"])
    logits = board(["sst2-apl-seed1", "rte-lora-seed1"], input_ids, mask, token_type_ids)      one run's name for each row

The base is in memory once, and a batch passes through its matrices once, whatever its rows ask for. In each slot sits a Switch that
sends every row through the module of its own run. A run that trained part of the base itself cannot take part.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from minipelt import InputError
from minipelt.checkpoint import load_trained
from minipelt.experiment import build, choose_device
from minipelt.run import Run
from minipelt.shared import Shared
from minipelt.unipelt import detach, slots


class Switch(nn.Module):
    """What fills a slot: one module a run, or None for a run that leaves the slot empty. `rows` of the Switchboard tells who is whose."""

    def __init__(self, modules, board):
        super().__init__()
        self.modules_of_runs = nn.ModuleList(module or nn.Identity() for module in modules)
        self.empty = [module is None for module in modules]
        self.board = [board]  # in a list, so that it does not count as a part of this module

    def groups(self):
        """(number of the run, its module, its rows) for every run of the batch that fills this slot."""
        for number, rows in self.board[0].rows.items():
            if not self.empty[number]: yield number, self.modules_of_runs[number], rows


class AddSwitch(Switch):
    """For adapters and LoRA: what is to be added, 0 for rows of other runs."""

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T) -> (B, T, D)."""
        out = torch.zeros_like(x)
        for _, module, rows in self.groups(): out[rows] = module(x[rows], mask[rows])
        return out


class ScaleSwitch(Switch):
    """For (IA)^3: rows of other runs stay as they are."""

    def forward(self, x):
        """x (B, T, features) -> the same shape."""
        out = x.clone()
        for _, module, rows in self.groups(): out[rows] = module(x[rows])
        return out


class TableSwitch(Switch):
    """For the model's `prefix`: every run's prefixes, a dict {run: (2, P, D)} for each layer."""

    def forward(self):
        tables = {number: module() for number, module, _ in self.groups()}  # (N, 2, P, D) each; P differs
        layers = len(self.board[0].bert.encoder.layer)
        return [{number: table[layer] for number, table in tables.items()} for layer in range(layers)]


class PrefixSwitch(Switch):
    """For a layer's `prefix`: the longest prefix makes room for all; where a row has less, the room is masked."""

    def forward(self, h, k, v, mask, prefixes):
        """h, k, v (B, T, D), mask (B, T), prefixes {run: (2, P, D)} -> k and v (B, longest P + T, D), mask (B, longest P + T)."""
        longest = max((prefix.shape[1] for prefix in prefixes.values()), default=0)
        new_k, new_v = (F.pad(x, (0, 0, longest, 0)) for x in (k, v))
        new_mask = F.pad(mask, (longest, 0))
        for number, module, rows in self.groups():
            one_k, one_v, one_mask = module(h[rows], k[rows], v[rows], mask[rows], prefixes[number])
            room = longest - prefixes[number].shape[1]
            new_k[rows], new_v[rows], new_mask[rows] = F.pad(one_k, (0, 0, room, 0)), F.pad(one_v, (0, 0, room, 0)), F.pad(one_mask, (room, 0))
        return new_k, new_v, new_mask


class PromptSwitch(Switch):
    """For the model's `prompt`: the longest makes room behind [CLS]; where a row has less, the room is masked."""

    def forward(self, h, mask):
        """h (B, T, D), mask (B, T) -> (B, longest P + T, D), (B, longest P + T)."""
        groups = list(self.groups())
        longest = max((len(module.vectors) for _, module, _ in groups), default=0)

        def spread(x, room, value=0):  # room behind the first place
            return torch.cat([x[:, :1], x.new_full((len(x), room, *x.shape[2:]), value), x[:, 1:]], dim=1)

        new_h, new_mask = spread(h, longest), spread(mask, longest)
        for _, module, rows in groups:
            one_h, one_mask = module(h[rows], mask[rows])
            room = longest - len(module.vectors)
            new_h[rows], new_mask[rows] = spread(one_h, room), spread(one_mask, room)
        return new_h, new_mask


def kind(module, name):
    """Which Switch a slot takes."""
    if name == "prompt": return PromptSwitch
    if name == "prefix": return PrefixSwitch if hasattr(module, "query") else TableSwitch
    return ScaleSwitch if name.startswith("ia3") else AddSwitch


class Switchboard(nn.Module):
    """One base, many runs. Raises InputError if a folder is no run, its base is another, or it trained the base."""

    def __init__(self, folders, device="auto"):
        super().__init__()
        if not folders: raise InputError("no run folder; expected at least one")
        self.names = [Path(folder).name for folder in folders]
        if len(set(self.names)) < len(self.names): raise InputError(f"{', '.join(map(str, folders))}: expected folders with different names")
        shared, device, self.runs, filled, heads, sides = Shared(), choose_device(device), [], [], [], []
        for folder in map(Path, folders):
            run = Run.load(folder)
            if run.method.trains_base: raise InputError(f"{folder}: method {run.method.name} trains the base itself; it cannot share it")
            if self.runs and run.model != self.runs[0].model: raise InputError(f"{folder}: its base is {run.model}; expected {self.runs[0].model}, as for the others")
            model, self.tokenizer = build(run, device, shared)
            if model.bert.pooler_is_new: raise InputError(f"{folder}: its base has no pooler of its own, so each run trained one; it cannot share it")
            load_trained(model, folder / "trained.safetensors")
            filled.append([getattr(module, name) for module, name in slots(model.bert)])
            heads.append(model.classifier)
            sides.append(model.side or nn.Identity())
            self.runs.append(run)
        self.bert, self.heads, self.sides, self.rows = detach(model.bert).eval(), nn.ModuleList(heads), nn.ModuleList(sides), {}
        for (module, name), of_runs in zip(list(slots(self.bert)), zip(*filled)):
            if any(of_runs): setattr(module, name, kind(module, name)(of_runs, self))
        self.eval()

    def forward(self, names, input_ids, attention_mask=None, token_type_ids=None):
        """names: a run's name for all rows, or one for each; the rest as BertModel takes it, (B, T) each -> list of B logits (C of the run)."""
        names = [names] * len(input_ids) if isinstance(names, str) else names
        if len(names) != len(input_ids): raise InputError(f"{len(names)} names for {len(input_ids)} rows; expected one name for all, or one for each")
        for name in names:
            if name not in self.names: raise InputError(f"unknown run {name!r}; expected one of {', '.join(self.names)}")
        numbers = torch.tensor([self.names.index(name) for name in names], device=input_ids.device)
        self.rows = {number: (numbers == number).nonzero().flatten() for number in numbers.unique().tolist()}
        hidden_states, pooled = self.bert(input_ids, attention_mask, token_type_ids)
        logits = [None] * len(names)
        for number, rows in self.rows.items():
            x = pooled[rows]  # (b, D)
            if "side" in self.runs[number].method.parts: x = self.sides[number](hidden_states[0][rows], None if attention_mask is None else attention_mask[rows], x)
            for row, values in zip(rows.tolist(), self.heads[number](x)): logits[row] = values
        return logits
