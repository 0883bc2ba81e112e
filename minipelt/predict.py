"""Ask a trained run: labels with their probabilities, and what its gates let through.

    python -m minipelt.predict runs/sst2-apl-seed1 --text "a warm , clever film ." --gates
    python -m minipelt.predict runs/rte-apl-seed1 --text "It rained all day." --text-b "The day was dry."
    python -m minipelt.predict runs/sst2-apl-seed1 --input texts.tsv        one text (or text TAB text) a line
    python -m minipelt.predict runs/sst2-apl-seed1 < texts.txt              the same, answered line by line
    python -m minipelt.predict runs/sst2-apl-seed1 --glue-test              writes SST-2.tsv, ready to submit to GLUE
"""

import argparse
import sys
from pathlib import Path

from minipelt import InputError, run_command
from minipelt.glue import Example, read, read_lines

# What GLUE's server calls each submission, and the test file that it answers.
SUBMISSIONS = {
    "cola": {"CoLA.tsv": "test"}, "sst2": {"SST-2.tsv": "test"}, "mrpc": {"MRPC.tsv": "test"}, "stsb": {"STS-B.tsv": "test"},
    "qqp": {"QQP.tsv": "test"}, "qnli": {"QNLI.tsv": "test"}, "rte": {"RTE.tsv": "test"},
    "mnli": {"MNLI-m.tsv": "test_matched", "MNLI-mm.tsv": "test_mismatched"},
}
BARS = " ▁▂▃▄▅▆▇█"


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m minipelt.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder that train.py left")
    parser.add_argument("--text", metavar="TEXT", help="the text, or the first of a pair")
    parser.add_argument("--text-b", metavar="TEXT", help="the second text of a pair")
    parser.add_argument("--input", metavar="FILE", help="a file with one text, or two with a tab between, a line; no header")
    parser.add_argument("--gates", action="store_true", help="show each gate of each layer")
    parser.add_argument("--merge", action="store_true", help="first fold an ungated LoRA or (IA)^3 into the base, which makes it as fast as plain BERT")
    parser.add_argument("--glue-test", action="store_true", help="predict the task's test file and write the submission for GLUE")
    parser.add_argument("--glue", default="glue", metavar="FOLDER", help="with --glue-test: where the official TSVs are (default: %(default)s)")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="with --glue-test: where the submission goes (default: here)")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or mps (default: as the run was trained)")
    return parser


def parse_line(line, task, place):
    """A line of text -> Example. Raises InputError, naming the place, if the task wants another number of texts."""
    texts = line.split("\t")
    if len(texts) != len(task.columns):
        wanted = "two texts with a tab between" if len(task.columns) == 2 else "one text without a tab"
        raise InputError(f"{place}: {len(texts)} columns; {task.name} takes {wanted}")
    return Example(*texts)


def describe(task, logits):
    """One row's logits (C) -> a line: the label and every class's probability, or the score."""
    if not task.labels: return f"{logits.item():.3f}"
    probabilities = logits.softmax(dim=-1).tolist()
    each = "  ".join(f"{name} {p:.3f}" for name, p in zip(task.label_names, probabilities))
    return f"{task.label_names[logits.argmax()]}  ({each})"


def draw_gates(means):
    """{submodule: [gate of each layer]} -> lines of text, a bar and a number for each gate."""
    if not means: return "(this method has no gates)"
    layers, width = len(next(iter(means.values()))), max(12, *(len(name) + 1 for name in means))
    lines = [f"{'gate':<{width}}" + "".join(f"{f'layer {i}':>9}" for i in range(layers))]
    for name, values in means.items():
        lines.append(f"{name:<{width}}" + "".join(f"{BARS[round(value * 8)]:>5}{value:4.2f}" for value in values))
    return "\n".join(lines)


def fold(model, run):
    """Fold what can be into the base's weights: the same answers, at the price of plain BERT."""
    from minipelt.export import merge

    if not {"lora", "ia3"} & set(run.method.parts) or run.method.gated:
        raise InputError(f"--merge: method {run.method.name} has no ungated LoRA and no (IA)^3 to fold in")
    merge(model)


def answer(examples, model, tokenizer, run, gates):
    """Print each example's prediction, and its gates if wanted."""
    from minipelt.batches import encode
    from minipelt.gate import mean_gates, record_gates
    from minipelt.loop import predict

    task = run.spec
    for example in examples:
        with record_gates(model) as recorded:
            logits = predict(model, encode([example], tokenizer, run.max_length))[0]
        print(f"{describe(task, logits)}\t{example.text}" + (f"\t{example.text_b}" if example.text_b else ""), flush=True)
        if gates: print(draw_gates(mean_gates(recorded)))


def submission_lines(task, logits):
    """Logits (n, C) -> the lines of a GLUE submission: index and prediction, the latter as the task's files write it."""
    if task.labels: predictions = [task.labels[i] for i in logits.argmax(dim=-1).tolist()]
    else: predictions = [f"{score:.3f}" for score in logits[:, 0].clamp(0, 5).tolist()]
    return ["index\tprediction", *(f"{index}\t{prediction}" for index, prediction in enumerate(predictions))]


def write_submissions(model, tokenizer, run, glue, out):
    """Predict the task's official test files and write the submissions. Prints their names."""
    from minipelt.batches import encode
    from minipelt.loop import predict

    task = run.spec
    if task.name not in SUBMISSIONS: raise InputError(f"--glue-test: {task.name} is no GLUE task; --input predicts a file")
    examples = {name: read(task, split, glue) for name, split in SUBMISSIONS[task.name].items()}
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, rows in examples.items():
        lines = submission_lines(task, predict(model, encode(rows, tokenizer, run.max_length)))
        (Path(out) / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        print(f"{Path(out) / name}: {len(rows):,} predictions")


def main(argv=None):
    """The command. Returns the exit code."""
    return run_command(lambda: run(make_parser().parse_args(argv)))


def run(args):
    """Load the run and answer what was asked."""
    from minipelt.experiment import load_run

    run, _, model, tokenizer = load_run(args.run, **({"device": args.device} if args.device else {}))
    if args.merge: fold(model, run)
    task = run.spec
    if args.glue_test: return write_submissions(model, tokenizer, run, args.glue, args.out)
    if args.text is not None:
        examples = [parse_line("\t".join(text for text in (args.text, args.text_b) if text is not None), task, "--text")]
    elif args.input:
        examples = [parse_line(line, task, f"{args.input}: line {n}") for n, line in enumerate(read_lines(Path(args.input)), start=1)]
    else:
        examples = (parse_line(line.rstrip("\n"), task, f"standard input: line {n}") for n, line in enumerate(sys.stdin, start=1))
    answer(examples, model, tokenizer, run, args.gates)


if __name__ == "__main__":
    sys.exit(main())
