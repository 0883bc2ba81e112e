"""The README's commands parse, its Python runs, and CI runs the two commands at its top."""

import importlib
import re
import shlex
from pathlib import Path

import torch

import train as command
from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.describe import describe
from minipelt.experiment import prepare, run_experiment
from minipelt.glue import TASKS
from minipelt.run import default_learning_rate
from minipelt.unipelt import PARTS, Method, attach, count_parameters, kept_parameters
from test_train import tiny_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def shell_lines():
    """The commands of all bash blocks, without their comments."""
    return [line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line.strip()]


def test_ci_runs_the_two_commands_at_the_top():
    first, second = shell_lines()[:2]
    script = (ROOT / ".ci" / "run").read_text()
    assert first in script and second in script
    assert first == "pip install -e . && python train.py --task sst2 --method apl" and second == 'pip install -e ".[test]" && pytest'


def test_every_command_parses():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL).replace("\n", " ")
    inline = re.findall(r"`(python [^`]+)`", prose)
    commands = [part.strip() for line in shell_lines() + inline for part in line.split("&&")]
    commands = [re.sub(r"^torchrun .*?(?=train\.py|-m )", "python ", line) for line in commands if line.startswith(("python", "torchrun"))]
    assert len(commands) >= 20 and sum("minipelt.sweep" in line for line in commands) >= 4
    values = {"TASK": "sst2", "METHOD": "apl", "RATE": "1e-3"}
    for line in commands:
        words = [values.get(word, word) for word in shlex.split(line.replace("...", ""))]
        if words[1] == "train.py":
            if "--help" in words: continue
            args = command.make_parser().parse_args(words[2:])
            Method(args.method)
            assert args.task in TASKS or args.eval or (args.train and args.dev)
        elif words[1:3] == ["-m", "minipelt.glue"]: assert set(words[3:]) <= TASKS.keys()
        elif words[1] == "-m": importlib.import_module(words[2]).make_parser().parse_args(words[3:])
        else: assert (ROOT / words[1]).is_file(), line


def test_the_described_method_is_what_the_command_prints():
    block = BLOCKS[next(i for i, (kind, text) in enumerate(BLOCKS) if text.startswith("python -m minipelt.describe")) + 1][1]
    assert block.strip() == describe(Method("lora"))


def test_the_table_of_methods_states_the_counts():
    minilm = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    rows = re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\|[^|]*\| ([\d,]+) \| ([\d,]+) \| (\S+) \| [\d.]+ ± [\d.]+ \|$", README, flags=re.MULTILINE)
    assert {row[0] for row in rows} == {"ft", "head", "ap", "apl", *PARTS}
    for name, base, small, rate in rows:
        for config, stated in ((BertConfig(), base), (minilm, small)):
            with torch.device("meta"): counts = count_parameters(attach(BertClassifier(BertModel(config), 2), Method(name)))
            assert f"{kept_parameters(counts):,}" == stated, name
        assert default_learning_rate(Method(name)) == float(rate), name


def test_the_python_runs(capsys, tiny_folder, tmp_path, monkeypatch):
    """The first block on the default weights; the second on tiny runs of the names that it asks for."""
    first, second = [block for kind, block in BLOCKS if kind == "python"]
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    assert "'adapter': 223776" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    for task, method, folder in (("sst2", "apl", "sst2-apl-seed1"), ("cola", "lora", "train-lora-seed1")):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        run_experiment(prepare(tiny_run(tiny_folder, task, method, epochs=1, k=20, valid_rows=20)), tmp_path / "runs" / folder)
    exec(compile(second, "README.md", "exec"), names)
    assert re.fullmatch(r"(positive|negative)  \(.*\)\n(un)?acceptable  \(.*\)\n", capsys.readouterr().out)
