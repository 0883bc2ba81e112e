"""The same four methods in the libraries that people use, on the same base, as models that minipelt's loop can train.

    ft        transformers    BertForSequenceClassification, all of it
    lora      peft            LoRA of rank 8, alpha 16, on queries and values; no dropout of its own
    adapter   adapters        a bottleneck of 48 behind the feed-forward block (SeqBnConfig, Pfeiffer's place)
    apl       adapters        UniPELT: a prefix of 10, that adapter, LoRA of rank 8, a gate each

In all of them the head trains and the pooler is frozen, but for fine-tuning, which trains it: as in minipelt. Each
module starts as its library starts it. AdapterHub draws both halves of an adapter from N(0, 0.02), where minipelt's
starts as plain BERT; its gates have torch's random bias, and average over padding.

`check` puts minipelt's trained numbers into the library's model and compares the logits.
"""

import logging
import warnings

import adapters
import peft
import torch
import transformers

from minipelt.batches import Rows, collate
from minipelt.errors import InputError
from minipelt.loop import predict
from minipelt.paper.peers import Peer
from minipelt.unipelt import trained_parameters

LIBRARIES = {"ft": transformers, "lora": peft, "adapter": adapters, "apl": adapters}
POOL = "bert.encoder.layer.0.attention.self.prefix_tuning.pool.prefix_tunings.peer.self_prefix."
RENAMED = {  # what is named otherwise: minipelt's name -> the library's
    "ft": {},
    "lora": {
        "lora_query.A.": "query.lora_A.default.",
        "lora_query.B.": "query.lora_B.default.",
        "lora_value.A.": "value.lora_A.default.",
        "lora_value.B.": "value.lora_B.default.",
    },
    "adapter": {
        "adapter.down.": "output.adapters.peer.adapter_down.0.",
        "adapter.up.": "output.adapters.peer.adapter_up.",
    },
}
RENAMED["apl"] = RENAMED["adapter"] | {
    "adapter.gate.linear.": "output.adapters.peer.gate.",
    "lora_query.A.weight": "query.loras.peer.lora_A",
    "lora_query.B.weight": "query.loras.peer.lora_B",
    "lora_query.gate.linear.": "query.loras.peer.gate.",
    "lora_value.A.weight": "value.loras.peer.lora_A",
    "lora_value.B.weight": "value.loras.peer.lora_B",
    "lora_value.gate.linear.": "value.loras.peer.gate.",
    "self.prefix.gate.linear.": "self.prefix_tuning.prefix_gates.peer.",
    "bert.prefix.network.0.": f"{POOL}wte.",
    "bert.prefix.network.1.": f"{POOL}control_trans.0.",
    "bert.prefix.network.3.": f"{POOL}control_trans.2.",
}
SAMPLE = 32  # rows that are compared
TOLERANCE = 1e-5

transformers.logging.set_verbosity_error()
logging.getLogger("adapters").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="adapters")


def build(ours, folder: str, method: str, seed: int) -> Peer:
    """The library's model for a method, with the head of `ours` as it is now. folder: of the base."""
    torch.manual_seed(seed)
    num_outputs = ours.classifier.out_features
    model = transformers.BertForSequenceClassification.from_pretrained(
        folder, num_labels=num_outputs, attn_implementation="eager"  # with dropout, the quickest on a CPU
    )
    if method == "lora":
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], lora_dropout=0.0)
        model = peft.inject_adapter_in_model(config, model)
    if method in ("adapter", "apl"):
        config = adapters.SeqBnConfig(reduction_factor=8)  # 384 / 8 = 48
        if method == "apl":
            config = adapters.UniPELTConfig(
                adapters.PrefixTuningConfig(prefix_length=10, bottleneck_size=512), config, adapters.LoRAConfig(r=8)
            )
        adapters.init(model)
        model.add_adapter("peer", config=config)
        model.train_adapter("peer")
    model.classifier.requires_grad_(True)
    model.classifier.load_state_dict(ours.classifier.state_dict())
    peer = Peer(model)
    check_trained(ours, peer, method)
    return peer


def counterpart(name: str, method: str) -> str:
    """The name of one of minipelt's parameters in a Peer."""
    for own, theirs in RENAMED[method].items():
        if own in name:
            return "model." + name.replace(own, theirs)
    return "model." + name


def check_trained(ours, peer: Peer, method: str) -> None:
    """Raise InputError unless the same parameters train on both sides, one by one."""
    own = {counterpart(name, method): p.shape for name, p in trained_parameters(ours).items()}
    theirs = {name: p.shape for name, p in trained_parameters(peer).items()}
    if own != theirs:
        raise InputError(f"{method}: other parameters train: {sorted(own.items() ^ theirs.items())[:4]}")


@torch.no_grad()
def check(ours, peer: Peer, method: str, rows: Rows) -> float:
    """Largest distance of the two models' logits, with random trained numbers, the same in both.

    Changes both models. Raises InputError if it is above the tolerance. Of UniPELT, each row is compared by itself:
    AdapterHub's gates average over padding, and give a row other values in another batch.
    """
    theirs = dict(peer.named_parameters())
    for name, parameter in trained_parameters(ours).items():
        parameter.add_(0.02 * torch.randn_like(parameter))
        theirs[counterpart(name, method)].copy_(parameter)
    some = Rows(rows.input_ids[:SAMPLE], rows.token_type_ids[:SAMPLE], rows.labels[:SAMPLE])
    if method == "apl":
        each = [collate(some, [number])[0] for number in range(len(some))]
        ours.eval()
        peer.eval()
        distance = max((ours(*inputs) - peer(*inputs)).abs().max().item() for inputs in each)
    else:
        distance = (predict(ours, some) - predict(peer, some)).abs().max().item()
    if not distance < TOLERANCE:
        raise InputError(f"{method}: logits differ by {distance:.2g}; expected less than {TOLERANCE:g}")
    return distance
