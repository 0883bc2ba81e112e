"""Trained runs for other programs, and back: Hugging Face PEFT's folder format, and plain BERT folders.

    python -m minipelt export runs/sst2-lora-seed1 --to peft --out peft/sst2     LoRA or prefix-tuning, for peft
    python -m minipelt export peft/sst2 --from peft --out runs/back              and the other way: a run folder
    python -m minipelt export peft/theirs --from peft --labels bad,good --out runs/theirs
    python -m minipelt export runs/sst2-lora-seed1 --merge --out merged/sst2     a BERT with its head, for transformers

A PEFT folder that minipelt wrote tells what its head is for; for any other, --task or --labels does.
Merging needs a method that folds into BERT's own weights: lora without gates, ia3, diff, dora, what trains the base's
own tensors alone, and their unions.
"""

import argparse

WORK = "minipelt.tools.export:export"
FOR_IMPORT = ("task", "labels", "text_column", "text_b_column", "model", "glue")


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="FOLDER", help="a run folder or, with --from, a PEFT folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", choices=["peft"], help="write a PEFT folder")
    what.add_argument("--from", dest="from_", choices=["peft"], help="read a PEFT folder and write a run folder")
    what.add_argument(
        "--merge", action="store_true", help="write a plain BERT folder: config.json, model.safetensors, tokenizer"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the new folder")
    back = parser.add_argument_group("with --from")
    back.add_argument("--task", metavar="TASK", help="the head's GLUE task or, with --labels, a name for your own")
    back.add_argument("--labels", metavar="A,B,...", help="your own classes, in the order of the head's outputs")
    back.add_argument("--text-column", metavar="NAME", help="with --labels: your files' column (default: text)")
    back.add_argument("--text-b-column", metavar="NAME", help="with --labels: that of the second text of a pair")
    back.add_argument("--model", metavar="MODEL", help="the base (default: the one that the PEFT folder names)")
    back.add_argument("--glue", metavar="FOLDER", help="where the task's TSVs are (default: glue)")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse arguments that would have no effect."""
    for name in FOR_IMPORT:
        if getattr(args, name) is not None and not args.from_:
            parser.error(f"--{name.replace('_', '-')} has an effect with --from alone")
    if args.labels is None:
        for name in ("text_column", "text_b_column"):
            if getattr(args, name) is not None:
                parser.error(f"--{name.replace('_', '-')} has an effect with --labels alone")
    elif args.glue is not None:
        parser.error("--labels and --glue: expected one of them")
