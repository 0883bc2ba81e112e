"""minipelt: parameter-efficient language-model tuning, from scratch, one idea a file.

The lecture, in reading order:

    bert.py             the encoder, with the slots where methods plug in
    weights.py          a name or a folder -> encoder and tokenizer
    methods/            a method a file: adapter, prefix, lora, bitfit, then the rest of the field
    gate.py             how much of a submodule an input lets through
    unipelt.py          puts methods and gates into the encoder
    settings.py         Method, Recipe, Run, and the table of methods
    glue.py             tasks and their rows            splits.py       which rows train, and which test
    batches.py          rows -> padded tensors          metrics.py      the scores of GLUE
    loop.py             the training loop               checkpoint.py   what a run saves
    experiment.py       one run, from settings to record; identity.py: is it the same run, base and rows as before?

dropout.py, errors.py, files.py, progress.py, download.py, fingerprint.py, record.py (reads run.json, and checks it)
and economy.py (bfloat16 and other ways to save) serve these.
The machinery behind it, which the lecture never imports:

    paper/              the papers' grids: sweeps, tables, reports, timing, results
    tools/              training, prediction, description, plots, own data, export, several runs on one base
    commands/           the options of every command: python -m minipelt COMMAND --help
"""

__version__ = "0.2.0"
