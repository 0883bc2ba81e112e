"""Write the four figures of the tutorial, as SVG that reads well in light and dark mode. Needs nothing but Python.

    python minipelt/figures/make.py             draws layer.svg, prefix.svg, gates.svg and parameters.svg again
    python minipelt/figures/make.py runs/*      first collects the finished runs of these folders in runs.jsonl

gates.svg shows the runs of method apl, parameters.svg those on SST-2; a line of runs.jsonl is what a run's run.json holds.
"""

import json
import math
import re
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WIDTH = 760
TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "rte": "RTE", "qnli": "QNLI", "stsb": "STS-B", "mnli": "MNLI", "qqp": "QQP"}
COLOURS = {  # class: what it sets, in light mode, in dark mode
    "ink": ("fill: {}", ["#1f2328"], ["#e6edf3"]),
    "soft": ("fill: {}", ["#57606a"], ["#a9b4c0"]),
    "line": ("fill: none; stroke: {}; stroke-width: 1.5", ["#57606a"], ["#a9b4c0"]),
    "grid": ("fill: none; stroke: {}", ["#d0d7de"], ["#3d444d"]),
    "thin": ("fill: none; stroke: {}", ["#8c959f"], ["#768390"]),
    "dots": ("fill: none; stroke: {}; stroke-dasharray: 1 5", ["#8c959f"], ["#768390"]),
    "reads": ("fill: none; stroke: {}; stroke-width: 1.5; stroke-dasharray: 4 3", ["#8250df"], ["#c297ff"]),
    "plain": ("fill: {}; stroke: {}", ["#eaeef2", "#8c959f"], ["#2a313a", "#768390"]),
    "prefix": ("fill: {}; stroke: {}; stroke-width: 2", ["#d3e9ff", "#0969da"], ["#0c2d6b", "#58a6ff"]),
    "lora": ("fill: {}; stroke: {}; stroke-width: 2", ["#ffe3c7", "#bc4c00"], ["#5a2300", "#f0883e"]),
    "adapter": ("fill: {}; stroke: {}; stroke-width: 2", ["#d2f4d8", "#1a7f37"], ["#0f4a22", "#3fb950"]),
    "gate": ("fill: {}; stroke: {}; stroke-width: 2", ["#f0e0ff", "#8250df"], ["#3c1e70", "#c297ff"]),
    "heat": ("fill: {}", ["#f5a623"], ["#985000"]),
}


# ---- SVG, as strings


def text(x, y, string, anchor="middle", size=14, style="ink", weight="normal"):
    """Text at a point; `P_K` gets a subscript K."""
    parts = re.split(r"(?<=\b[A-Za-z])_(\w+)", string)  # plain, subscript, plain, subscript, ..., plain
    drop, back = '<tspan dy="3" font-size="12">', '</tspan><tspan dy="-3">&#8203;</tspan>'
    spans = [f"{escape(plain)}{drop}{sub}{back}" for plain, sub in zip(parts[::2], parts[1::2])]
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text {place} class="{style}">{"".join(spans)}{escape(parts[-1])}</text>'


def rect(x, y, width, height, style, more=""):
    """A rectangle from its top left corner."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{style}"{more}/>'


def box(cx, top, width, height, style, name, *notes):
    """A rounded box around its centre, with a name and smaller lines under it."""
    first = top + height / 2 + 5 - 9 * len(notes)
    lines = [text(cx, first, name, weight="bold" if notes else "normal")]
    lines += [text(cx, first + 18 * i, note, size=13) for i, note in enumerate(notes, start=1)]
    return rect(cx - width / 2, top, width, height, style, ' rx="6"') + "".join(lines)


def path(*points, style="line", head=True):
    """A line through (x, y) points, with an arrow head at its end."""
    d = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="{d}" class="{style}"{" marker-end=" + chr(34) + "url(#head)" + chr(34) if head else ""}/>'


def plus(cx, cy):
    """A circle with a plus: where two tensors are added."""
    cross = f"M{cx - 6} {cy} H{cx + 6} M{cx} {cy - 6} V{cy + 6}"
    return f'<circle cx="{cx}" cy="{cy}" r="10" class="line"/><path d="{cross}" class="line"/>'


def svg(title, description, height, parts):
    """The whole file: the parts with a title and description for screen readers, and the colours of both modes."""
    def rules(mode):
        return "\n".join(f"  .{name} {{ {colour[0].format(*colour[mode])} }}" for name, colour in COLOURS.items())

    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">
<title id="title">{escape(title)}</title>
<desc id="desc">{escape(description)}</desc>
<style>
  text {{ font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }}
{rules(1)}
  @media (prefers-color-scheme: dark) {{
{rules(2)}
  }}
</style>
<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">
<path d="M0 0 L8 4 L0 8 z" class="soft"/>
</marker>
{chr(10).join(parts)}
</svg>
"""


# ---- (a) one layer


def layer():
    """One Transformer layer of bert.py, from top to bottom, with its slots filled."""
    lora_q, query, key, prefix, value, lora_v = 88, 206, 324, 442, 560, 678  # centres of the six columns
    main, side, far = 240, 480, 663  # centres below: BERT's blocks, the adapter's input, the adapter
    parts = [text(383, 18, "h  (B, T, D): the layer's input"), path((383, 26), (383, 52), head=False), path((14, 52), (737, 52), head=False)]

    for cx, style, name, formula, state in (
        (lora_q, "lora", "LoRA", "B A h", "trained"), (query, "plain", "query", "W_Q h + b_Q", "frozen"),
        (key, "plain", "key", "W_K h + b_K", "frozen"), (prefix, "prefix", "prefix", "P_K and P_V", "trained"),
        (value, "plain", "value", "W_V h + b_V", "frozen"), (lora_v, "lora", "LoRA", "B A h", "trained"),
    ):
        if cx != prefix: parts.append(path((cx, 52), (cx, 78)))
        parts.append(box(cx, 78, 106, 68, style, name, formula, state))
    for cx, name, side_x in ((lora_q, "× g_Q", 28), (prefix, "× g_P", 383), (lora_v, "× g_V", 737)):
        parts += [path((cx, 146), (cx, 170)), box(cx, 170, 60, 28, "gate", name)]
        parts.append(path((side_x, 52), (side_x, 184), (cx + math.copysign(31, side_x - cx), 184), style="reads"))

    parts += [path((query, 146), (query, 220)), path((lora_q, 198), (lora_q, 231), (query - 11, 231)), plus(query, 231)]
    parts += [path((value, 146), (value, 220)), path((lora_v, 198), (lora_v, 231), (value + 11, 231)), plus(value, 231)]
    parts += [path((key, 146), (key, 262)), path((value, 241), (value, 262))]
    parts += [path((prefix, 198), (prefix, 278), (key + 54, 278)), path((prefix, 278), (value - 54, 278))]
    parts += [box(key, 262, 106, 32, "prefix", "[g_P P_K ; K]"), box(value, 262, 106, 32, "prefix", "[g_P P_V ; V]")]
    parts += [path((query, 241), (query, 332)), path((key, 294), (key, 332)), path((value, 294), (value, 332))]
    shapes = ((query, "(B, T, D)"), (key, "(B, P+T, D)"), (value, "(B, P+T, D)"))
    parts += [text(cx + 8, 318, shape, "start", 13, "soft") for cx, shape in shapes]
    parts.append(box(383, 332, 462, 36, "plain", "self-attention:  softmax(Q Kᵀ / √d) V,  no parameters"))

    parts += [path((main, 368), (main, 392)), text(main + 8, 385, "c", "start")]
    parts += [box(main, 392, 236, 50, "plain", "output projection", "o = W c + b, frozen")]
    parts += [path((main, 442), (main, 466)), box(main, 466, 236, 50, "plain", "residual and LayerNorm", "a = LayerNorm(o + h), frozen")]
    parts.append(path((14, 52), (14, 491), (main - 118, 491)))
    parts += [path((main, 516), (main, 556)), box(main, 556, 236, 68, "plain", "feed-forward", "f = W_2 gelu(W_1 a + b_1) + b_2", "frozen")]
    parts += [path((main, 624), (main, 729)), text(main + 8, 690, "f", "start"), text(main + 8, 533, "a", "start")]
    parts += [path((main, 536), (70, 536), (70, 797), (main - 118, 797))]

    parts += [path((main, 652), (side - 92, 652)), box(side, 627, 182, 50, "plain", "x = LayerNorm(f + a)", "the one below, frozen")]
    parts += [path((side + 91, 652), (far - 78, 652)), box(far, 618, 154, 68, "adapter", "adapter", "up(relu(down(x)))", "trained")]
    parts += [path((far, 686), (far, 700)), box(far, 700, 60, 28, "gate", "× g_A")]
    parts += [path((side, 677), (side, 714), (far - 31, 714), style="reads")]
    parts += [path((far, 728), (far, 740), (main + 11, 740)), plus(main, 740)]
    parts += [path((main, 750), (main, 772)), box(main, 772, 236, 50, "plain", "residual and LayerNorm", "LayerNorm(f + a), frozen")]
    parts += [path((main, 822), (main, 844)), text(main, 862, "(B, T, D): the next layer's h")]

    for row, (style, line) in enumerate((
        ("plain", "BERT: frozen"), ("prefix", "prefix: trained, 2 P D values a layer"), ("lora", "LoRA: trained, 4 R D weights a layer"),
        ("adapter", "adapter: trained, 2 M D + D + M a layer"), ("gate", "gates: trained, D + 1 weights each"),
    )):
        parts += [rect(430, 398 + 26 * row, 22, 16, style, ' rx="3"'), text(462, 411 + 26 * row, line, "start")]
    parts += [path((428, 536), (454, 536), style="reads"), text(462, 541, "what a gate reads", "start")]
    return svg(
        "One Transformer layer with the slots of UniPELT",
        "The layer's input h goes through the frozen query, key and value projections. LoRA, times its gate, is added to query and value. "
        "Prefix vectors, times their gate, stand before the keys and the values. Self-attention, output projection, residual and LayerNorm give a. "
        "The frozen feed-forward block gives f. The adapter reads LayerNorm(f + a) and its output, times its gate, is added to f, before the last "
        "residual and LayerNorm. Each gate reads what its module reads; BERT's own weights are frozen, prefix, LoRA, adapter and gates are trained.",
        876, parts)


# ---- (b) shapes through attention with a prefix


def matrix(x, y, columns, rows, name, shape):
    """A rectangle of strips. columns, rows: lists of (letter, strips, pixels a strip, style); the styled side colours the whole."""
    parts, right = [], x
    for letter, strips, size, style in columns:
        down, end = y, right + strips * size
        for side, count, height, row_style in rows:
            shade = "prefix" if "prefix" in (style, row_style) else "plain"
            low = down + count * height
            parts.append(rect(right, down, end - right, low - down, shade))
            parts += [path((line, down), (line, low), style="grid", head=False) for line in range(right + size, end, size)]
            parts += [path((right, line), (end, line), style="grid", head=False) for line in range(down + height, low, height)]
            down = low
        parts += [path((right + 2, y - 7), (end - 2, y - 7), head=False), text((right + end) / 2, y - 14, letter, size=13)]
        right = end
    down = y
    for letter, count, height, _ in rows:
        low = down + count * height
        parts += [path((x - 7, down + 2), (x - 7, low - 2), head=False), text(x - 13, (down + low) / 2 + 5, letter, "end", 13)]
        down = low
    middle = (x + right) / 2
    return parts + [text(middle, y - 36, name, weight="bold"), text(middle, down + 20, shape, size=13, style="soft")]


def prefix():
    """Q K^T, softmax, times V, with P = 3 prefix vectors and T = 6 tokens."""
    T, P, d = ("T", 6, 17, "plain"), ("P", 3, 17, "prefix"), ("d", 1, 80, "plain")
    parts = [text(20, 24, "One head of one sentence: T = 6 tokens, P = 3 prefix vectors, d = D / H numbers a head", "start")]
    parts += matrix(46, 100, [d], [T], "Q", "(B, H, T, d)")
    parts.append(text(148, 156, "×", size=20))
    parts += matrix(188, 100, [P, T], [d], "[g P_K ; K], transposed", "(B, H, P+T, d)")
    parts.append(text(364, 156, "=", size=20))
    parts += matrix(410, 100, [P, T], [T], "scores", "(B, H, T, P+T)")
    parts += [path((486, 234), (486, 276), (302, 276), (302, 296)), text(500, 259, "divide by √d, softmax over each row", "start", 13)]
    parts += matrix(226, 350, [P, T], [T], "weights: each row adds up to 1", "(B, H, T, P+T)")
    parts.append(text(401, 406, "×", size=20))
    parts += matrix(444, 350, [d], [P, T], "[g P_V ; V]", "(B, H, P+T, d)")
    parts.append(text(552, 406, "=", size=20))
    parts += matrix(598, 350, [d], [T], "result", "(B, H, T, d)")
    parts += [text(20, 350 + 22 * line, note, "start", 13) for line, note in enumerate((
        "Blue: the prefix's part.", "Q has none, so the", "result keeps T rows.", "",
        "At g = 0 its scores are", "0, not -∞: it still takes", "some of each row's", "weight, and adds zeros.",
    ))]
    return svg(
        "Tensor shapes through attention with a prefix",
        "Q of shape (B, H, T, d) times the transpose of the prefix keys and keys, (B, H, P+T, d), gives scores (B, H, T, P+T): P columns more than "
        "without a prefix. Softmax over each row gives the weights, and these times the prefix values and values, (B, H, P+T, d), give a result of "
        "shape (B, H, T, d), the same as without a prefix.", 560, parts)


# ---- the runs of (c) and (d)


def collect(folders):
    """Finished run folders -> the text of runs.jsonl, in the order of their names; where the data and the output were is left out."""
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


def settings(records):
    """What the runs have in common, for a caption: `all-MiniLM-L6-v2, 500 training rows, seed 1`."""
    def values(find):
        return ", ".join(map(str, sorted({find(record) for record in records})))

    models, rows = values(lambda r: Path(r["run"]["model"]).name), values(lambda r: r["rows"]["train"])
    return f"{models}, {rows} training rows, seed {values(lambda r: r['run']['recipe']['seed'])}" if records else "no runs yet"


# ---- (c) gates


def mean_gates(runs):
    """[{submodule: [gate of each layer]}] of several runs -> the same, averaged over the runs."""
    return {name: [sum(values) / len(runs) for values in zip(*(run[name] for run in runs))] for name in runs[0]}


def gates(records):
    """A heat map of gate means for each task, layer x submodule; with several runs on a task, their mean."""
    shown = [record for record in records if record["run"]["method"]["name"] == "apl" and record["results"]["gates"]]
    runs = {task: [record for record in shown if record["run"]["task"] == task] for task in TASKS}
    means = {task: mean_gates([r["results"]["gates"] for r in found]) for task, found in runs.items() if found}
    width, height, left, gap = 42, 26, 44, 12
    layers = max((len(values) for gate in means.values() for values in gate.values()), default=0)
    panel = 32 + layers * height + 50  # title, cells, names of the columns

    parts = [text(20, 24, "Mean gate over the dev set, method apl", "start", weight="bold")]
    parts += [text(20, 44, settings(shown), "start", 13, "soft")]
    parts += [rect(512 + 20 * i, 14, 20, 22, "heat", f' fill-opacity="{i / 10:g}"') for i in range(11)]
    parts += [text(506, 29, "0", "end", 13), rect(512, 14, 220, 22, "grid"), text(738, 29, "1", "start", 13)]
    for place, (task, gate) in enumerate(means.items()):
        x, y = left + place % 4 * (4 * width + gap), 60 + place // 4 * panel + 32
        metric = next(iter(runs[task][0]["results"]["test"]))
        score = 100 * sum(r["results"]["test"][metric] for r in runs[task]) / len(runs[task])
        parts += [text(x, y - 10, TASKS[task], "start", weight="bold")]
        parts += [text(x + 4 * width, y - 10, f"{metric} {score:.1f}", "end", 13, "soft")]
        for column, (name, values) in enumerate(gate.items()):
            middle = x + (column + 0.5) * width
            words = name.replace("lora", "LoRA").split("_")
            parts += [text(middle, y + layers * height + 16 + 14 * i, word, size=12) for i, word in enumerate(words)]
            for layer, g in enumerate(values):
                parts.append(rect(x + column * width, y + layer * height, width, height, "heat", f' fill-opacity="{g:.2f}"'))
                parts.append(text(middle, y + layer * height + 18, f"{g:.2f}", size=13))
        parts.append(rect(x, y, 4 * width, layers * height, "grid"))
        if place % 4 == 0:
            parts += [text(x - 8, y + i * height + 18, str(i), "end", 13, "soft") for i in range(layers)]
            parts += [text(x - 8, y - 10, "layer", "end", 12, "soft")]
    ranges = {
        task: ", ".join(f"{name.replace('_', ' ')} {min(values):.2f} to {max(values):.2f}" for name, values in gate.items())
        for task, gate in means.items()
    }
    return svg(
        "Gate means by layer and submodule, for each task",
        "Heat maps, one a task; rows are layers, columns are prefix, LoRA on the query, LoRA on the value, adapter. Over the layers: "
        + "; ".join(f"{TASKS[task]}: {line}" for task, line in ranges.items()),
        60 + math.ceil(len(means) / 4) * panel, parts)


# ---- (d) parameters against score


def method_label(record):
    """The name of a run's method, as the command line takes it."""
    method = record["run"]["method"]
    return method["name"] + ("" if method["gate"] else ", no gates")


def clashes(areas, others):
    """How many pairs of boxes (left, top, right, bottom), one of each list, overlap."""
    return sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a in areas for b in others)


def place_labels(points, frame):
    """{name: (x, y)} -> {name: (x, y, end of the line from the point to the label)}: x, y the middle of the label, in `frame`.

    Each label goes as near to its point as it, and its line, stay clear of the points and of the other labels and lines.
    """
    dots, drawn, places = [(x - 8, y - 8, x + 8, y + 8) for x, y in points.values()], [], {}
    for name, (x, y) in points.items():
        half = 4 * len(name)  # of the width, at 14 pixels
        least = math.inf
        for far, angle in ((far, angle) for far in range(0, 200, 5) for angle in range(0, 360, 15)):
            if far >= least: break
            cx = x + (half + 12 + far) * math.cos(math.radians(angle))
            cy = y - (20 + far) * math.sin(math.radians(angle))
            label = (cx - half, cy - 9, cx + half, cy + 9)
            if label[0] < frame[0] or label[1] < frame[1] or label[2] > frame[2] or label[3] > frame[3]: continue
            end = min(max(x, label[0]), label[2]), min(max(y, label[1]), label[3])  # of the label, nearest to the point
            length = math.dist((x, y), end)
            line = [(x + (end[0] - x) * at / length, y + (end[1] - y) * at / length) for at in range(9, int(length), 3)]
            line = [(px - 1, py - 1, px + 1, py + 1) for px, py in line]
            badness = far + 100000 * clashes([label], dots + drawn) + 200 * clashes(line, drawn) + 20 * clashes(line, dots)
            if badness < least: least, places[name], best = badness, (cx, cy, end), [label, *line]
        drawn += best
    return places


def parameters(records):
    """SST-2 test accuracy against trained parameters, a point a run, a label a method."""
    shown = [record for record in records if record["run"]["task"] == "sst2"]
    found = {}  # {method: [(parameters, accuracy) of each run]}
    for record in shown:
        count = sum(n for part, n in record["parameters"].items() if part not in ("base", "prefix network", "diff network"))
        found.setdefault(method_label(record), []).append((count, 100 * record["results"]["test"]["accuracy"]))
    counts, scores = zip(*(run for runs in found.values() for run in runs)) if found else ([1000, 1000000], [50, 100])
    low, high = math.floor(2 * math.log10(min(counts)) - 0.2) / 2, math.ceil(2 * math.log10(max(counts)) + 0.2) / 2
    step = next(step for step in (1, 2, 5, 10, 20) if (max(scores) - min(scores)) / step <= 8)
    bottom, top = step * math.floor(min(scores) / step - 0.5), step * math.ceil(max(scores) / step + 0.5)

    left, upper, right, lower = 60, 74, 716, 430
    def across(count): return left + (right - left) * (math.log10(count) - low) / (high - low)
    def up(score): return lower - (lower - upper) * (score - bottom) / (top - bottom)

    parts = [text(20, 24, "SST-2 test accuracy against trained parameters", "start", weight="bold")]
    if shown:
        p, rows = sum(scores) / len(scores) / 100, shown[0]["rows"]["test"]
        error = 100 * math.sqrt(p * (1 - p) / rows)
        parts.append(text(20, 46, f"{settings(shown)}; one standard error of {rows:,} test rows is {error:.1f} points", "start", 13, "soft"))
    for score in range(bottom, top + 1, step):
        parts += [path((left, up(score)), (right, up(score)), style="dots", head=False), text(left - 8, up(score) + 5, str(score), "end", 13)]
    for power in range(math.ceil(low), math.floor(high) + 1):
        tick = f"{10**power:,}" if power < 6 else f"{10**(power - 6):,} million"
        x = across(10**power)
        parts += [path((x, lower), (x, lower + 6), head=False), text(x, lower + 24, tick, size=13)]
    parts.append(path((left, upper), (left, lower), (right, lower), head=False))
    parts.append(text((left + right) / 2, lower + 48, "trained parameters, head included (log scale)", size=13))

    middles = {name: (sum(across(n) for n, _ in runs) / len(runs), sum(up(s) for _, s in runs) / len(runs)) for name, runs in found.items()}
    labels = place_labels(middles, (left, upper, right, lower))
    for name, runs in found.items():
        (x, y), (cx, cy, end) = middles[name], labels[name]
        if math.dist(end, (x, y)) > 14:  # below the points
            parts.insert(0, path((round(x, 1), round(y, 1)), (round(end[0], 1), round(end[1], 1)), style="thin", head=False))
        style = name if name in ("prefix", "lora", "adapter") else "plain" if name in ("ft", "head", "bitfit") else "gate"
        parts += [f'<circle cx="{across(n):.1f}" cy="{up(s):.1f}" r="5" class="{style}"/>' for n, s in runs]
        parts.append(text(round(cx, 1), round(cy + 5, 1), name))
    return svg(
        "SST-2 test accuracy against trained parameters",
        "; ".join(f"{name}: " + ", ".join(f"{n:,} parameters, {s:.1f}" for n, s in runs) for name, runs in found.items()) or "No runs yet",
        lower + 62, parts)


def draw(records):
    """Run records -> {file name: SVG}."""
    return {"layer.svg": layer(), "prefix.svg": prefix(), "gates.svg": gates(records), "parameters.svg": parameters(records)}


def main(folders):
    """The command: collect `folders`, if any, then write the figures."""
    runs = HERE / "runs.jsonl"
    if folders: runs.write_text(collect(folders), encoding="utf-8", newline="\n")
    for name, figure in draw([json.loads(line) for line in runs.read_text(encoding="utf-8").splitlines()]).items():
        (HERE / name).write_text(figure, encoding="utf-8", newline="\n")
        print(HERE / name)


if __name__ == "__main__":
    main(sys.argv[1:])
