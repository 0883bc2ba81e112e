"""Trained runs for other programs, and back (`python -m minipelt export`): PEFT's folders, and plain BERT folders."""

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from minipelt.checkpoint import load_trained, save_tensors, trained_tensors
from minipelt.errors import InputError
from minipelt.experiment import build, load_run
from minipelt.files import load_json, save_json
from minipelt.settings import Data
from minipelt.tools.merge import merge
from minipelt.tools.peft import describe_head, from_peft, to_peft
from minipelt.weights import find

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


def export(args):
    """Do what was asked, into a folder that must not exist yet."""
    out = Path(args.out)
    if out.exists():
        raise InputError(f"{out}: exists; expected a new folder")
    write = import_run if args.from_ else export_peft if args.to else export_merged
    with whole_folder(out) as folder:
        write(args, folder)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


@contextmanager
def whole_folder(out):
    """A scratch folder beside `out` that becomes `out` once it is whole. If anything fails, nothing is left of it."""
    out = Path(out).absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=".exporting-")
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror})") from None
    with scratch as parent:
        folder = Path(parent) / "folder"  # inside, because a temporary folder itself is closed to all other users
        folder.mkdir()
        yield folder
        folder.rename(out)


# ---- the three ways


def export_peft(args, folder):
    """A run folder -> a PEFT folder."""
    run, _, model, _ = load_run(args.source, device="cpu")
    settings, tensors = to_peft(run, trained_tensors(model), model.bert.config)
    save_json(settings, folder / "adapter_config.json")
    save_json(describe_head(run), folder / "minipelt.json")
    save_tensors(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def import_run(args, folder):
    """A PEFT folder -> a run folder, which loads."""
    data = own_data(args) if args.labels is not None else None
    run, tensors = from_peft(args.source, args.task, data, args.model, args.glue or "glue")
    save_json({"run": asdict(run)}, folder / "run.json")
    save_tensors(tensors, folder / "trained.safetensors")
    load_trained(build(run, "cpu")[0], folder / "trained.safetensors")


def own_data(args):
    """--labels and the columns -> settings.Data. Raises InputError for labels that are empty, alone, or there twice."""
    labels = tuple(label.strip() for label in args.labels.split(","))
    if len(labels) < 2 or len(set(labels)) < len(labels) or "" in labels:
        raise InputError(f"--labels {args.labels}: expected two or more different labels with commas between")
    origin = str(Path(args.source))
    return Data(origin, origin, text=args.text_column or "text", text_b=args.text_b_column, labels=labels)


def export_merged(args, folder):
    """A run folder -> a plain BERT folder with a head."""
    run, _, model, tokenizer = load_run(args.source, device="cpu")
    base = find(run.model)
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    save_json(plain_config(run.spec, base), folder / "config.json")
    positions = model.bert.config.max_position_embeddings
    save_json(tokenizer_config(base, tokenizer, positions), folder / "tokenizer_config.json")
    save_tensors(merge(model), folder / "model.safetensors", {"format": "pt"})


def plain_config(task, base):
    """config.json of a merged folder: that of the base, with the labels of the task."""
    names = task.label_names or ("score",)
    return load_json(base / "config.json") | {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "single_label_classification" if task.labels else "regression",
    }


def tokenizer_config(base, tokenizer, positions):
    """tokenizer_config.json of a merged folder: the base's, if any, with what transformers needs to cut long texts.

    Without `model_max_length` it would hand texts to the model that are longer than its position embeddings.
    """
    config, path = {}, base / "tokenizer_config.json"
    if path.is_file():
        config = load_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected a JSON object")
    length = config.get("model_max_length")
    if type(length) is not int or not 0 < length <= positions:
        length = positions
    lowercase = tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("A") == "a"
    return config | {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "model_max_length": length}
