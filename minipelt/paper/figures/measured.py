"""What runs gave: gates.svg, how far the gates are open, and parameters.svg, SST-2 accuracy against trained parameters.

A record is what a run's run.json holds.
"""

import math
from pathlib import Path

from minipelt.glue import TASKS
from minipelt.paper.figures.svg import line, page, point, rect, text
from minipelt.paper.numbers import COLUMNS

NOT_KEPT = ("base", "prefix network", "diff network")  # parts of a record's parameters that no run keeps


def settings(records):
    """What the runs have in common, for a caption: `all-MiniLM-L6-v2, 500 training rows, seed 1`."""
    if not records:
        return "no runs yet"
    models = {Path(record["run"]["model"]).name for record in records}
    rows = {record["rows"]["train"] for record in records}
    seeds = {record["run"]["recipe"]["seed"] for record in records}
    models, rows, seeds = (", ".join(map(str, sorted(values))) for values in (models, rows, seeds))
    return f"{models}, {rows} training rows, seed {seeds}"


# ---- gates

CELL_WIDTH, CELL_HEIGHT, LEFT = 42, 26, 44
MAP_WIDTH, GAP, MAPS = 4 * CELL_WIDTH, 12, 4  # maps: side by side


def gates(records):
    """gates.svg: a heat map of gate means for each task, layer x submodule; with several runs on a task, their mean."""
    shown = [record for record in records if record["run"]["method"]["name"] == "apl" and record["results"]["gates"]]
    runs = {}
    for task in COLUMNS[:-1]:
        found = [record for record in shown if record["run"]["task"] == task]
        if found:
            runs[task] = found
    means = {task: mean_gates([record["results"]["gates"] for record in found]) for task, found in runs.items()}
    layers = max((len(values) for gate in means.values() for values in gate.values()), default=0)
    panel = 32 + layers * CELL_HEIGHT + 50  # title, cells, names of the columns

    parts = [text(20, 24, "Mean gate over the dev set, method apl", "start", weight="bold")]
    parts.append(text(20, 44, settings(shown), "start", 13, "soft"))
    parts += colour_scale()
    for place, (task, gate) in enumerate(means.items()):
        x = LEFT + place % MAPS * (MAP_WIDTH + GAP)
        y = 60 + place // MAPS * panel + 32
        parts.append(text(x, y - 10, TASKS[task].folder, "start", weight="bold"))
        parts.append(text(x + MAP_WIDTH, y - 10, mean_score(runs[task]), "end", 13, "soft"))
        parts += heat_map(x, y, gate, layers)
        if place % MAPS == 0:
            parts += names_of_layers(x, y, layers)
    ranges = [f"{TASKS[task].folder}: {describe_ranges(gate)}" for task, gate in means.items()]
    return page(
        "Gate means by layer and submodule, for each task",
        "Heat maps, one a task; rows are layers, columns are prefix, LoRA on the query, LoRA on the value, adapter. "
        f"Over the layers: {'; '.join(ranges)}",
        60 + math.ceil(len(means) / MAPS) * panel, parts,
    )


def mean_gates(runs):
    """[{submodule: [gate of each layer]}] of several runs -> the same, averaged over the runs."""
    means = {}
    for name in runs[0]:
        by_layer = zip(*(run[name] for run in runs), strict=True)
        means[name] = [sum(values) / len(runs) for values in by_layer]
    return means


def mean_score(runs):
    """The mean test score of a task's runs, by the first metric on record: `accuracy 78.2`."""
    metric = next(iter(runs[0]["results"]["test"]))
    score = 100 * sum(record["results"]["test"][metric] for record in runs) / len(runs)
    return f"{metric} {score:.1f}"


def describe_ranges(gate):
    """{submodule: [gate of each layer]} -> `prefix 0.32 to 0.52, lora query 0.67 to 0.79 ...`, for screen readers."""
    ranges = []
    for name, values in gate.items():
        ranges.append(f"{name.replace('_', ' ')} {min(values):.2f} to {max(values):.2f}")
    return ", ".join(ranges)


def colour_scale():
    """The colours of gates from 0 to 1."""
    parts = []
    for i in range(11):
        parts.append(rect(512 + 20 * i, 14, 20, 22, "heat", f' fill-opacity="{i / 10:g}"'))
    return [*parts, text(506, 29, "0", "end", 13), rect(512, 14, 220, 22, "grid"), text(738, 29, "1", "start", 13)]


def heat_map(x, y, gate, layers):
    """The gates of a task, a column a submodule, a row a layer, from the top left corner."""
    parts = []
    for column, (name, values) in enumerate(gate.items()):
        left = x + column * CELL_WIDTH
        middle = x + (column + 0.5) * CELL_WIDTH
        for i, word in enumerate(name.replace("lora", "LoRA").split("_")):
            parts.append(text(middle, y + layers * CELL_HEIGHT + 16 + 14 * i, word, size=12))
        for layer, g in enumerate(values):
            top = y + layer * CELL_HEIGHT
            parts.append(rect(left, top, CELL_WIDTH, CELL_HEIGHT, "heat", f' fill-opacity="{g:.2f}"'))
            parts.append(text(middle, top + 18, f"{g:.2f}", size=13))
    parts.append(rect(x, y, MAP_WIDTH, layers * CELL_HEIGHT, "grid"))
    return parts


def names_of_layers(x, y, layers):
    """The numbers of the layers, left of a heat map."""
    parts = [text(x - 8, y + i * CELL_HEIGHT + 18, str(i), "end", 13, "soft") for i in range(layers)]
    return [*parts, text(x - 8, y - 10, "layer", "end", 12, "soft")]


# ---- parameters against score

FRAME = (60, 74, 716, 430)  # of the plot: left, top, right, bottom
STEPS = (1, 2, 5, 10, 20)  # points between two lines of the plot


def parameters(records):
    """parameters.svg: SST-2 test accuracy against trained parameters, a point a run, a label a method."""
    shown = [record for record in records if record["run"]["task"] == "sst2"]
    found = {}  # {method: [(parameters, accuracy) of each run]}
    for record in shown:
        count = sum(n for part, n in record["parameters"].items() if part not in NOT_KEPT)
        found.setdefault(method_name(record), []).append((count, 100 * record["results"]["test"]["accuracy"]))
    every_run = [run for runs in found.values() for run in runs]
    scale = Scale(every_run or [(1000, 50), (1000000, 100)])
    points = {name: [(scale.across(n), scale.up(s)) for n, s in runs] for name, runs in found.items()}

    title = "SST-2 test accuracy against trained parameters"
    parts = [text(20, 24, title, "start", weight="bold")]
    if shown:
        parts.append(text(20, 46, caption(shown, [score for _, score in every_run]), "start", 13, "soft"))
    parts += scale.draw()
    parts = draw_points(points, parts)
    descriptions = []
    for name, runs in found.items():
        descriptions.append(f"{name}: {', '.join(f'{n:,} parameters, {score:.1f}' for n, score in runs)}")
    return page(title, "; ".join(descriptions) or "No runs yet", FRAME[3] + 62, parts)


def method_name(record):
    """The name of a run's method, as the command line takes it."""
    method = record["run"]["method"]
    return method["name"] if method["gate"] else f"{method['name']}, no gates"


def caption(records, scores):
    """What was run, and how exact an accuracy on so many rows can be."""
    rows = records[0]["rows"]["test"]
    p = sum(scores) / len(scores) / 100
    error = 100 * math.sqrt(p * (1 - p) / rows)
    return f"{settings(records)}; one standard error of {rows:,} test rows is {error:.1f} points"


class Scale:
    """The axes of the plot: parameters across, as powers of ten; scores up. runs: [(parameters, score)]."""

    def __init__(self, runs):
        counts, scores = zip(*runs, strict=True)
        self.low = math.floor(2 * math.log10(min(counts)) - 0.2) / 2
        self.high = math.ceil(2 * math.log10(max(counts)) + 0.2) / 2
        self.step = next(step for step in STEPS if (max(scores) - min(scores)) / step <= 8)
        self.worst = self.step * math.floor(min(scores) / self.step - 0.5)
        self.best = self.step * math.ceil(max(scores) / self.step + 0.5)

    def across(self, count):
        """Parameters -> x."""
        left, _, right, _ = FRAME
        return left + (right - left) * (math.log10(count) - self.low) / (self.high - self.low)

    def up(self, score):
        """Score -> y."""
        _, top, _, bottom = FRAME
        return bottom - (bottom - top) * (score - self.worst) / (self.best - self.worst)

    def draw(self):
        """Lines, ticks and names."""
        left, top, right, bottom = FRAME
        parts = []
        for score in range(self.worst, self.best + 1, self.step):
            y = self.up(score)
            parts += [line((left, y), (right, y), style="dots"), text(left - 8, y + 5, str(score), "end", 13)]
        for power in range(math.ceil(self.low), math.floor(self.high) + 1):
            tick = f"{10**power:,}" if power < 6 else f"{10**(power - 6):,} million"
            x = self.across(10**power)
            parts += [line((x, bottom), (x, bottom + 6)), text(x, bottom + 24, tick, size=13)]
        parts.append(line((left, top), (left, bottom), (right, bottom)))
        name = "trained parameters, head included (log scale)"
        return [*parts, text((left + right) / 2, bottom + 48, name, size=13)]


def draw_points(points, parts):
    """{method: [(x, y) of each run]} -> the parts with points and labels; lines to labels that stand off come first."""
    middles = {}
    for name, places in points.items():
        middles[name] = sum(x for x, _ in places) / len(places), sum(y for _, y in places) / len(places)
    labels = place_labels(middles, FRAME)
    for name, places in points.items():
        (x, y), (cx, cy, end) = middles[name], labels[name]
        if math.dist(end, (x, y)) > 14:
            thin = line((round(x, 1), round(y, 1)), (round(end[0], 1), round(end[1], 1)), style="thin")
            parts = [thin, *parts]  # below the points
        parts += [point(*place, style_of(name)) for place in places]
        parts.append(text(round(cx, 1), round(cy + 5, 1), name))
    return parts


def style_of(method):
    """The colour of a method's points."""
    if method in ("prefix", "lora", "adapter"):
        return method
    if method in ("ft", "head", "bitfit"):
        return "plain"
    return "gate"


def place_labels(points, frame):
    """{name: (x, y)} -> {name: (x, y, end)}: the middle of its label in `frame`, and the end of the line to it.

    Each label goes as near to its point as it, and its line, stay clear of the points and the other labels and lines.
    """
    dots = [(x - 8, y - 8, x + 8, y + 8) for x, y in points.values()]
    drawn, places = [], {}
    for name, at in points.items():
        least = math.inf
        for far in range(0, 200, 5):
            if far >= least:
                break
            for angle in range(0, 360, 15):
                label, cx, cy = label_box(name, at, far, angle)
                if not is_inside(label, frame):
                    continue
                end = min(max(at[0], label[0]), label[2]), min(max(at[1], label[1]), label[3])  # nearest to the point
                to_label = boxes_along(at, end)
                crossings = 200 * clashes(to_label, drawn) + 20 * clashes(to_label, dots)
                badness = far + 100000 * clashes([label], dots + drawn) + crossings
                if badness < least:
                    least, places[name], taken = badness, (cx, cy, end), [label, *to_label]
        drawn += taken
    return places


def label_box(name, at, far, angle):
    """A label `far` from its point, at an angle: its box (left, top, right, bottom), the middle's x and y."""
    half = 4 * len(name)  # of the width, at 14 pixels
    cx = at[0] + (half + 12 + far) * math.cos(math.radians(angle))
    cy = at[1] - (20 + far) * math.sin(math.radians(angle))
    return (cx - half, cy - 9, cx + half, cy + 9), cx, cy


def is_inside(box, frame):
    """Whether a box lies in the frame."""
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def boxes_along(start, end):
    """Small boxes along a line, from where it leaves the point at its start."""
    length = math.dist(start, end)
    boxes = []
    for at in range(9, int(length), 3):
        x = start[0] + (end[0] - start[0]) * at / length
        y = start[1] + (end[1] - start[1]) * at / length
        boxes.append((x - 1, y - 1, x + 1, y + 1))
    return boxes


def clashes(boxes, others):
    """How many pairs of boxes (left, top, right, bottom), one of each list, overlap."""
    return sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a in boxes for b in others)
