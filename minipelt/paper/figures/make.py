"""Draw the tutorial's figures. Needs nothing but Python.

    python -m minipelt.paper.figures.make             draws all of them again
    python -m minipelt.paper.figures.make runs/*      first collects the finished runs of these folders in runs.jsonl

gates.svg shows the runs of method apl, parameters.svg those on SST-2; a line of runs.jsonl is what a run's run.json
holds.
"""

import json
import sys
from pathlib import Path

from minipelt.paper.figures.diagrams import layer, prefix
from minipelt.paper.figures.lecture import bottleneck, lora, padding
from minipelt.paper.figures.measured import gates, parameters

HERE = Path(__file__).parent


def draw(records):
    """Run records -> {file name: SVG}."""
    return {
        "layer.svg": layer(),
        "prefix.svg": prefix(),
        "bottleneck.svg": bottleneck(),
        "lora.svg": lora(),
        "padding.svg": padding(),
        "gates.svg": gates(records),
        "parameters.svg": parameters(records),
    }


def collect(folders):
    """Finished run folders -> the text of runs.jsonl, in the order of their names.

    Where the data and the output were is left out.
    """
    lines = []
    for folder in sorted(map(Path, folders), key=lambda folder: folder.name):
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if "results" not in record:
            print(f"{folder}: not finished, left out")
            continue
        record["run"]["glue"] = "glue"
        record["run"].pop("out", None)
        lines.append(json.dumps(record) + "\n")
    return "".join(lines)


def main(folders):
    """The command: collect `folders`, if any, then write the figures."""
    runs = HERE / "runs.jsonl"
    if folders:
        runs.write_text(collect(folders), encoding="utf-8", newline="\n")
    records = [json.loads(line) for line in runs.read_text(encoding="utf-8").splitlines()]
    for name, figure in draw(records).items():
        (HERE / name).write_text(figure, encoding="utf-8", newline="\n")
        print(HERE / name)


if __name__ == "__main__":
    main(sys.argv[1:])
