"""What a method adds to a BERT, where, with shapes, parameters and equations: the summary for a slide. Needs no weights.

    python -m minipelt.describe apl
    python -m minipelt.describe lora --model bert-large-uncased --rank 4
"""

import argparse
import sys
from pathlib import Path

import torch

from minipelt import InputError, run_command
from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.experiment import parameter_table
from minipelt.unipelt import HYPERPARAMETERS, Method, attach, count_parameters

CONFIGS = {  # models whose shape is known without their files
    "all-MiniLM-L6-v2": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "bert-base-uncased": BertConfig(),
    "bert-large-uncased": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}


def config_of(model):
    """The BertConfig of a known name, or of a folder with a config.json."""
    if model in CONFIGS: return CONFIGS[model]
    if (Path(model) / "config.json").is_file(): return BertConfig.from_json(Path(model) / "config.json")
    raise InputError(f"unknown model {model!r}: expected a folder with config.json, or one of {', '.join(CONFIGS)}")


def shapes(module):
    """`down (48, 768)  up (768, 48)`: a module's weight matrices as torch keeps them, (out, in); its gate is shown apart."""
    matrices = [(name, p) for name, p in module.named_parameters() if p.ndim == 2 and not name.startswith("gate.")]
    return "  ".join(f"{name.removesuffix('.weight')} {tuple(p.shape)}" for name, p in matrices)


def size(module):
    """A module's parameters, its gate's left out."""
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith("gate."))


def parts(model, method):
    """What trains, in the order of the forward pass: (name, shapes, parameters, equation); None where a number says nothing."""
    bert, layers = model.bert, len(model.bert.encoder.layer)
    layer, attention = bert.encoder.layer[0], bert.encoder.layer[0].attention.self
    g, s = ("g * ", "g") if method.gated else ("", f"{method.alpha:g}/{method.rank}")
    counts = count_parameters(model)

    if method.name == "ft": yield "bert", "", counts["ft"], "every weight and bias"
    if "bitfit" in counts: yield "bert, every Linear and LayerNorm", "", counts["bitfit"], "W x + b: only b trains"
    if "layernorm" in counts: yield "bert, every LayerNorm", "", counts["layernorm"], "w * (x - mean) / deviation + b: w and b train"
    if "top" in counts: yield f"bert, top {method.top_layers} of {layers} layers, pooler", "", counts["top"], "every weight and bias there"
    if bert.prompt: yield "bert.prompt", shapes(bert.prompt), counts["prompt"], "h = [h_[CLS] ; p_1 ... p_P ; h_rest]"
    if bert.prefix:
        yield "bert.prefix", f"(N, 2, P, D) = {bert.prefix.shape}", counts["prefix"], "P_K and P_V of all layers; while training they are"
        yield "bert.prefix.network", "", counts["prefix network"], "W_2 tanh(W_1 E + b_1) + b_2, dropped afterwards"
    slots = [(name, module, equation) for name, module, equation in (
        ("attention.self.prefix", attention.prefix, f"K = [{g}P_K ; K]   V = [{g}P_V ; V]"),
        ("attention.self.lora_query", attention.lora_query, f"q = W_q h + b_q + {s} * B A h"),
        ("attention.self.lora_value", attention.lora_value, f"v = W_v h + b_v + {s} * B A h"),
        ("attention.self.ia3_key", attention.ia3_key, "k = l_k * (W_k h + b_k)"),
        ("attention.self.ia3_value", attention.ia3_value, "v = l_v * (W_v h + b_v)"),
        ("attention.output.adapter", layer.attention.output.adapter, f"o = o + {g}up(gelu(down(o)))"),
        ("intermediate.ia3", layer.intermediate.ia3, "x = l_ff * activation(W a + b)"),
        ("output.adapter", layer.output.adapter, f"f = f + {g}up(gelu(down(f)))"),
        ("parallel", layer.parallel, f"f = f + {'g' if method.gated else '4'} * up(relu(down(a)))"),
        ("adapter", layer.adapter, f"f = f + {g}up(relu(down(x)))   x = LayerNorm(f + a)"),
    ) if module]
    if slots: yield f"bert.encoder.layer.0 ... {layers - 1}, each with", "", None, ""
    for name, module, equation in slots:
        yield f"  {name}", shapes(module), size(module) or None, equation
        if getattr(module, "gate", None): yield f"  {name}.gate", shapes(module.gate), size(module.gate), "g = mean over real tokens of sigmoid(w . x + b)"
    if model.penalty: yield "bert, every matrix of every layer", f"{method.share:.2%} of the entries", counts["diff"], "W = W_0 + z * delta; while training also"
    if model.penalty: yield "delta and a of every entry", "", counts["diff network"], "z = clip(3 sigmoid(log u - log(1 - u) + a) - 1.5, 0, 1)"
    if model.side: yield "side", "", counts["side"], "pooled = alpha * pooled + (1 - alpha) * side(embeddings)"
    yield "classifier", shapes(model.classifier), counts["head"], "logits = W dropout(pooled) + b"


def describe(method, model_name="bert-base-uncased", num_outputs=2):
    """The summary of a Method on a model, as text."""
    config = config_of(model_name)
    with torch.device("meta"): model = attach(BertClassifier(BertModel(config), num_outputs), method)  # shapes without numbers
    lines = [f"{method.name} on {model_name}: N = {config.num_hidden_layers} layers, D = {config.hidden_size}, H = {config.num_attention_heads} heads", ""]
    for name, matrices, parameters, equation in parts(model, method):
        lines.append(f"{name:<36}{matrices:<34}{'' if parameters is None else f'{parameters:,}':>14}".rstrip())
        if equation: lines.append(" " * (len(name) - len(name.lstrip())) + f"    {equation}")
    return "\n".join([*lines, "", parameter_table(count_parameters(model))])


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minipelt.describe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", metavar="METHOD", help="as for train.py: ft, head, adapter, prefix, lora, bitfit, apl ...")
    parser.add_argument("--model", default="bert-base-uncased", metavar="MODEL", help=f"{', '.join(CONFIGS)}, or a folder with config.json (default: %(default)s)")
    parser.add_argument("--no-gate", action="store_true", help="without gates")
    for name in HYPERPARAMETERS:
        default = getattr(Method, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, metavar="V", help="(default: %(default)s)")
    return parser


def main(argv=None):
    """The command. Returns the exit code."""
    args = make_parser().parse_args(argv)
    return run_command(lambda: print(describe(Method(args.method, not args.no_gate, **{name: getattr(args, name) for name in HYPERPARAMETERS}), args.model)))


if __name__ == "__main__":
    sys.exit(main())
