"""Trained runs for other programs, and back: Hugging Face PEFT's folder format, and plain BERT folders.

    python -m minipelt.export runs/sst2-lora-seed1 --to peft --out peft/sst2       LoRA or prefix-tuning, for peft's PeftModel
    python -m minipelt.export peft/sst2 --from peft --task sst2 --out runs/back    and the other way: a run folder
    python -m minipelt.export runs/sst2-lora-seed1 --merge --out merged/sst2       a BERT with its head: transformers loads it

Merging needs a method that folds into BERT's own weights: LoRA without gates, ia3, ft, head, bitfit, layernorm, top, diff and their unions.
"""

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from minipelt import InputError, run_command

LORA = "base_model.model.bert.encoder.layer.{layer}.attention.self.{which}.lora_{matrix}.weight"
HEADS = {"lora": "base_model.model.", "prefix": "base_model."}  # what PEFT writes before classifier.weight, by method
MERGEABLE = {"lora", "ia3", "ft", "bitfit", "layernorm", "top", "diff"}


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minipelt.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FOLDER", help="a run folder or, with --from, a PEFT folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", choices=["peft"], help="write a PEFT folder")
    what.add_argument("--from", dest="from_", choices=["peft"], help="read a PEFT folder and write a run folder")
    what.add_argument("--merge", action="store_true", help="write a plain BERT folder: config.json, model.safetensors, tokenizer")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the new folder")
    parser.add_argument("--task", metavar="TASK", help="with --from: which task the head is for")
    parser.add_argument("--model", metavar="MODEL", help="with --from: the base (default: the one that the PEFT folder names)")
    parser.add_argument("--glue", default="glue", metavar="FOLDER", help="with --from: where the task's TSVs are (default: %(default)s)")
    return parser


# ---- to PEFT


def tensor_names(kind, num_layers):
    """{PEFT's name: ours} of the tensors of a `lora` or `prefix` run."""
    names = {HEADS[kind] + name: name for name in ("classifier.weight", "classifier.bias")}
    if kind == "prefix": return names | {"prompt_embeddings": "bert.prefix.table"}
    return names | {
        LORA.format(layer=layer, which=which, matrix=matrix): f"bert.encoder.layer.{layer}.attention.self.lora_{which}.{matrix}.weight"
        for layer in range(num_layers) for which in ("query", "value") for matrix in "AB"
    }


def to_peft(run, tensors, config):
    """A run, its trained tensors and its base's BertConfig -> (adapter_config.json as a dict, adapter_model.safetensors as a dict)."""
    method, N, D = run.method, config.num_hidden_layers, config.hidden_size
    common = {"task_type": "SEQ_CLS", "base_model_name_or_path": run.model, "inference_mode": True, "modules_to_save": ["classifier", "score"]}
    if method.name not in HEADS or any(".pooler." in name for name in tensors):
        what = "trained a new pooler" if method.name in HEADS else f"is of method {method.name}"
        raise InputError(f"this run {what}; PEFT's format is written for lora and prefix, on a base that has a pooler")
    theirs = {name: tensors[ours] for name, ours in tensor_names(method.name, N).items()}
    if method.name == "lora":
        return {
            **common, "peft_type": "LORA", "r": method.rank, "lora_alpha": method.alpha, "lora_dropout": 0.0, "target_modules": ["query", "value"], "bias": "none",
        }, theirs
    P = method.prefix_length
    theirs["prompt_embeddings"] = theirs["prompt_embeddings"].permute(2, 0, 1, 3).reshape(P, N * 2 * D).contiguous()  # (N, 2, P, D) -> (P, 2 N D)
    return {
        **common, "peft_type": "PREFIX_TUNING", "num_virtual_tokens": P, "token_dim": D, "num_layers": N, "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1, "encoder_hidden_size": D, "prefix_projection": False,
    }, theirs


# ---- from PEFT


def from_peft(folder, task, model, glue):
    """A PEFT folder -> (Run, trained tensors by our names). Raises InputError for what we cannot compute."""
    from minipelt.bert import BertConfig
    from minipelt.checkpoint import load_json, load_tensors
    from minipelt.loop import Recipe
    from minipelt.run import Run, default_learning_rate, full_path
    from minipelt.unipelt import Method
    from minipelt.weights import find

    place = Path(folder) / "adapter_config.json"
    settings, (found, _) = load_json(place), load_tensors(Path(folder) / "adapter_model.safetensors")
    if not isinstance(settings, dict): raise InputError(f"{place}: expected a JSON object, such as PEFT writes")
    kind = {"LORA": "lora", "PREFIX_TUNING": "prefix"}.get(settings.get("peft_type"))
    if kind is None: raise InputError(f"{place}: peft_type is {settings.get('peft_type')!r}; expected LORA or PREFIX_TUNING")
    expected = {"bias": ("none",), "use_dora": (False, None), "use_rslora": (False, None), "rank_pattern": ({}, None), "alpha_pattern": ({}, None),
                "fan_in_fan_out": (False, None), "prefix_projection": (False, None), "init_lora_weights": (True, False, "gaussian", None)}
    for name, values in expected.items():
        if name in settings and settings[name] not in values: raise InputError(f"{place}: {name} is {settings[name]!r}; expected {values[0]!r}")
    base = model or settings.get("base_model_name_or_path")
    if not base: raise InputError(f"{place}: it names no base; expected --model")
    base = full_path(base)
    if kind == "lora" and sorted(settings.get("target_modules") or []) != ["query", "value"]:
        raise InputError(f"{place}: target_modules is {settings.get('target_modules')!r}; expected query and value")
    try:
        method = Method("lora", rank=int(settings["r"]), alpha=float(settings["lora_alpha"])) if kind == "lora" else Method("prefix", prefix_length=int(settings["num_virtual_tokens"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place}: sizes are missing or no numbers ({error!r}); expected what PEFT writes for {settings['peft_type']}") from None
    config = BertConfig.from_json(find(base) / "config.json")
    run = Run(task, method, Recipe(default_learning_rate(method)), base, full_path(glue), max_length=min(128, config.max_position_embeddings))
    names = tensor_names(kind, config.num_hidden_layers)
    for name in names.keys() ^ found.keys():
        raise InputError(f"{folder}/adapter_model.safetensors: tensor {name} is {'missing' if name in names else 'not expected'}")
    tensors = {ours: found[theirs].float() for theirs, ours in names.items()}
    if kind == "prefix":
        N, D, P = config.num_hidden_layers, config.hidden_size, method.prefix_length
        if (shape := tuple(tensors["bert.prefix.table"].shape)) != (P, 2 * N * D):
            raise InputError(f"{folder}/adapter_model.safetensors: prompt_embeddings has shape {shape}; expected {(P, 2 * N * D)} for the base {base}")
        tensors["bert.prefix.table"] = tensors["bert.prefix.table"].view(P, N, 2, D).permute(1, 2, 0, 3).contiguous()  # (P, 2 N D) -> (N, 2, P, D)
    return run, tensors


# ---- merging


def merge(model):
    """A trained model whose method folds into BERT's own weights -> state dict of a plain BERT with a head."""
    from torch.nn.utils import parametrize

    from minipelt import ia3, lora

    for module in list(model.bert.modules()):  # diff pruning
        if parametrize.is_parametrized(module): parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    lora.merge(model.bert)
    ia3.merge(model.bert)  # second: it scales what LoRA has added to
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def plain_config(run, base):
    """config.json of the merged folder: the base's own, with the labels of the task."""
    names = run.spec.label_names or ("score",)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return config | {
        "architectures": ["BertForSequenceClassification"], "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)}, "problem_type": "single_label_classification" if run.spec.labels else "regression",
    }


# ---- the command


def export(args):
    """Do what was asked, into a folder that must not exist yet."""
    from minipelt.bert import BertConfig
    from minipelt.checkpoint import load_tensors, load_trained, save_json, save_tensors
    from minipelt.experiment import build, load_run
    from minipelt.run import Run
    from minipelt.shared import Shared
    from minipelt.weights import find

    source, out = Path(args.source), Path(args.out)
    if out.exists(): raise InputError(f"{out}: exists; expected a new folder")
    if args.from_:
        if not args.task: raise InputError("--from without --task: expected the task that the head is for")
        run, tensors = from_peft(source, args.task, args.model, args.glue)
        files = {"trained.safetensors": tensors, "run.json": {"run": asdict(run)}}
    elif args.to:
        run = Run.load(source)
        config, tensors = to_peft(run, load_tensors(source / "trained.safetensors")[0], BertConfig.from_json(find(run.model) / "config.json"))
        files = {"adapter_config.json": config, "adapter_model.safetensors": tensors}
    else:
        run, _, model, _ = load_run(source, device="cpu")
        if set(run.method.parts) - MERGEABLE:
            raise InputError(f"{source}: method {run.method.name} does not fold into BERT's own weights; --merge takes {', '.join(sorted(MERGEABLE))}, head and their unions")
        files = {"model.safetensors": merge(model), "config.json": plain_config(run, find(run.model))}
    try:
        out.mkdir(parents=True)
    except OSError as error: raise InputError(f"{out}: cannot be made ({error.strerror})") from None
    for name, content in files.items():
        if name.endswith(".json"): save_json(content, out / name)
        else: save_tensors(content, out / name, {"format": "pt"})
    if args.merge:
        for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
            if (find(run.model) / name).is_file(): shutil.copy(find(run.model) / name, out)
    try:
        if args.from_: load_trained(build(run, "cpu", Shared())[0], out / "trained.safetensors")  # finds shapes that do not fit
    except InputError:
        shutil.rmtree(out)
        raise
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def main(argv=None):
    """The command. Returns the exit code."""
    return run_command(lambda: export(make_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
