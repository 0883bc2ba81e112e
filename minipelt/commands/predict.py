"""Ask a trained run: labels with their probabilities, and what its gates let through.

    python -m minipelt predict runs/sst2-apl-seed1 --text "a warm , clever film ." --gates
    python -m minipelt predict runs/rte-apl-seed1 --text "It rained all day." --text-b "The day was dry."
    python -m minipelt predict runs/sst2-apl-seed1 --input reviews.csv --output answers.csv
    python -m minipelt predict runs/sst2-apl-seed1 < texts.txt              answered line by line
    python -m minipelt predict runs/sst2-apl-seed1 --glue-test              writes SST-2.tsv, ready to submit to GLUE

A .csv, .tsv or .jsonl file has the columns that the run was trained on, with labels or without; with them, the score is
printed, too.
A .txt file, like standard input, has one text a line, or two with a tab between.
"""

import argparse
from pathlib import Path

WORK = "minipelt.tools.predict:predict"
OUTPUTS = (".csv", ".jsonl")


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder that train.py left")
    texts = parser.add_argument_group("what to predict (default: standard input, line by line)")
    texts.add_argument("--text", metavar="TEXT", help="the text, or the first of a pair")
    texts.add_argument("--text-b", metavar="TEXT", help="with --text: the second of a pair")
    texts.add_argument("--input", metavar="FILE", help="a .csv, .tsv, .jsonl or .txt file")
    texts.add_argument(
        "--glue-test", action="store_true", help="the task's official test files: writes the submission for GLUE"
    )
    texts.add_argument("--glue", metavar="FOLDER", help="with --glue-test: where the official TSVs are (default: glue)")
    answers = parser.add_argument_group("how to answer")
    answers.add_argument(
        "--output", metavar="FILE",
        help="with --input: write texts, predictions and probabilities into a .csv or .jsonl file",
    )
    answers.add_argument("--out", metavar="FOLDER", help="with --glue-test: where the submission goes (default: here)")
    answers.add_argument("--gates", action="store_true", help="show each gate of each layer")
    answers.add_argument(
        "--merge", action="store_true",
        help="first fold into the base what can be (lora without gates, ia3, diff, dora): "
        "the same answers at plain BERT's speed",
    )
    answers.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or mps (default: as the run was trained)")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse arguments that would have no effect together."""
    if args.text_b is not None and args.text is None:
        parser.error("--text-b without --text: expected the first text of the pair, too")
    if args.text is not None and args.input is not None:
        parser.error("--text and --input: expected one of them")
    if args.glue_test:
        for name, value in (("--text", args.text), ("--input", args.input), ("--gates", args.gates or None)):
            if value is not None:
                parser.error(f"--glue-test and {name}: expected one of them")
    for name, given in (("--glue", args.glue), ("--out", args.out)):
        if given is not None and not args.glue_test:
            parser.error(f"{name} has an effect with --glue-test alone")
    if args.output is not None:
        check_output(parser, args)


def check_output(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse an --output that cannot be written, or would say less than was asked."""
    if args.input is None:
        parser.error("--output has an effect with --input alone")
    if args.gates:
        parser.error("--output and --gates: expected one of them; gates are for the screen")
    output = Path(args.output)
    if output.suffix not in OUTPUTS:
        parser.error(f"--output {output}: expected a name that ends in {' or '.join(OUTPUTS)}")
    if output.resolve() == Path(args.input).resolve():
        parser.error(f"--output {output}: this is the input; expected another file")
    if output.is_dir():
        parser.error(f"--output {output}: this is a folder; expected a file")
    if not output.parent.is_dir():
        parser.error(f"--output {output}: no folder {output.parent}; expected one that exists")
