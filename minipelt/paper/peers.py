"""The same methods by other libraries, for the benchmark's rows: transformers, peft and AdapterHub's adapters.

Each gets the weights of our fine-tuning model, the same sizes, and the same batches, optimiser and clipping. Dropout is
the base's; none of these methods adds any. What a library leaves out of a saved run, it leaves out here. Nothing here
is imported before it is asked for.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module, metadata
from importlib.util import find_spec

import torch
from torch import nn

from minipelt.bert import BertClassifier
from minipelt.errors import InputError
from minipelt.paper.race import Contestant
from minipelt.settings import Method

LIBRARIES = {"transformers": "Hugging Face", "peft": "peft", "adapters": "AdapterHub"}  # package -> name in the table
NAME = "benchmark"  # of an adapter, as AdapterHub wants one


def find_libraries() -> dict[str, str]:
    """{package: its name with its version} of those that are installed. Raises InputError if none is."""
    found = {package: name for package, name in LIBRARIES.items() if find_spec(package)}
    if not found:
        raise InputError(f"--peers: expected one of {', '.join(LIBRARIES)} to be installed")
    return {package: f"{name} {metadata.version(package)}" for package, name in found.items()}


class Peer(nn.Module):
    """Another library's model, called as ours are."""

    extra_loss = None

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        """The three inputs of BertModel, (B, T) each -> logits (B, C)."""
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits


def as_transformers(ours: BertClassifier) -> nn.Module:
    """Plain BERT with a head of ours -> a BertForSequenceClassification with its weights: modules have equal names."""
    transformers = import_module("transformers")
    config = transformers.BertConfig(**asdict(ours.bert.config), num_labels=ours.classifier.out_features)
    theirs = transformers.BertForSequenceClassification(config)
    theirs.load_state_dict(ours.state_dict())
    return theirs


# ---- the methods: (a BertForSequenceClassification, a Method) -> (a Peer, what its `save` is)


def fine_tuning(base: nn.Module, method: Method) -> tuple[Peer, Callable]:
    """Everything trains."""
    return Peer(base), as_it_is


def peft_lora(base: nn.Module, method: Method) -> tuple[Peer, Callable]:
    """peft's LoRA on queries and values."""
    peft = import_module("peft")
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=method.rank, lora_alpha=method.alpha, lora_dropout=0.0,
        target_modules=["query", "value"],
    )
    return Peer(peft.get_peft_model(base, config)), as_it_is


def peft_prefix(base: nn.Module, method: Method) -> tuple[Peer, Callable]:
    """peft's prefix-tuning, with the network that makes the prefix while it trains."""
    peft = import_module("peft")
    plain = copy.deepcopy(base)

    def config(**options):
        return peft.PrefixTuningConfig(
            task_type="SEQ_CLS", num_virtual_tokens=method.prefix_length, prefix_projection=True,
            encoder_hidden_size=method.prefix_hidden, **options,
        )

    @torch.no_grad()
    def save(peer):
        table = peer.model.get_prompt_embedding_to_save("default")  # (P, 2 N D)
        loaded = peft.get_peft_model(plain, config(inference_mode=True)).to(table.device)
        loaded.prompt_encoder["default"].embedding.weight.copy_(table)
        loaded.classifier.load_state_dict(peer.model.classifier.state_dict())
        return Peer(loaded)

    return Peer(peft.get_peft_model(base, config())), save


def adapterhub(make_config: Callable) -> Callable:
    """A method of AdapterHub's, by a function (its package, a Method, D) -> its config."""

    def build(base, method):
        adapters = import_module("adapters")
        adapters.init(base)
        base.add_adapter(NAME, config=make_config(adapters, method, base.config.hidden_size))
        base.train_adapter(NAME)  # active from here on, and all but it and the head frozen
        return Peer(base), save

    def save(peer):
        peer.model.eject_prefix_tuning(NAME)  # drops the network that makes a prefix, if there is one
        return peer

    return build


def hub_adapter(adapters, method: Method, width: int, gate: bool = False):
    """Pfeiffer's placement: after the feed-forward block."""
    return adapters.SeqBnConfig(reduction_factor=width / method.bottleneck, non_linearity="relu", use_gating=gate)


def hub_lora(adapters, method: Method, width: int):
    """On queries and values."""
    return adapters.LoRAConfig(r=method.rank, alpha=method.alpha)


def hub_unipelt(adapters, method: Method, width: int):
    """The union of the three, each with a gate. LoRA's own scale is 1: the gate takes its place."""
    return adapters.ConfigUnion(
        adapters.PrefixTuningConfig(
            prefix_length=method.prefix_length, bottleneck_size=method.prefix_hidden, use_gating=True
        ),
        hub_adapter(adapters, method, width, gate=True),
        adapters.LoRAConfig(r=method.rank, alpha=method.rank, use_gating=True),
    )


def as_it_is(peer: Peer) -> Peer:
    """A model that a saved run holds whole."""
    return peer


PEERS = (  # (package, our method, how it is made)
    ("transformers", "ft", fine_tuning),
    ("peft", "lora", peft_lora),
    ("peft", "prefix", peft_prefix),
    ("adapters", "lora", adapterhub(hub_lora)),
    ("adapters", "adapter", adapterhub(hub_adapter)),
    ("adapters", "apl", adapterhub(hub_unipelt)),
)


def build_peers(
    ours: list[Contestant], methods: dict[str, Method], libraries: dict[str, str]
) -> list[Contestant]:
    """Every peer that is installed and whose method is among ours, with the weights of our fine-tuning model, the
    first. libraries: as `find_libraries` has them.
    """
    plain = ours[0].model
    kept = {each.method: each.parameters for each in ours}
    built = []
    for package, name, make in PEERS:
        if package in libraries and name in methods:
            model, save = make(as_transformers(plain), methods[name])
            model.to(plain.classifier.weight.device)
            built.append(Contestant(libraries[package], name, kept[name], model, save))
    return built
