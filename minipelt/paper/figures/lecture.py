"""Three ideas of the lecture: lora.svg, two thin matrices; bottleneck.svg, an adapter; padding.svg, a gate's mean."""

from minipelt.paper.figures.svg import arrow, line, page, plus, rect, text, way

# ---- LoRA


def lora():
    """lora.svg: W, beside it s times B times A, and what they are together."""
    side, thin, top = 150, 26, 70
    parts = [rect(30, top, side, side, "plain"), text(30 + side / 2, top + side / 2 + 5, "W", size=18, weight="bold")]
    parts += labels(30 + side / 2, top + side, "(D, D), frozen")
    parts.append(text(213, top + side / 2 + 6, "+  s  ×", size=18))
    parts += [rect(252, top, thin, side, "lora"), text(252 + thin / 2, top + side / 2 + 5, "B", size=18, weight="bold")]
    parts += labels(252 + thin / 2, top + side, "(D, R), starts at 0")
    parts.append(text(300, top + side / 2 + 6, "×", size=18))
    low = top + side / 2 - thin / 2
    parts += [rect(322, low, side, thin, "lora"), text(322 + side / 2, top + side / 2 + 6, "A", size=18, weight="bold")]
    parts += labels(322 + side / 2, low + thin, "(R, D), starts random")
    parts.append(text(502, top + side / 2 + 6, "=", size=18))
    parts += [rect(532, top, side, side, "lora"), rect(542, top + 10, side - 20, side - 20, "plain")]
    parts.append(text(532 + side / 2, top + side / 2 + 5, "W + s B A", size=16, weight="bold"))
    parts += labels(532 + side / 2, top + side, "(D, D), when folded")
    parts.append(text(20, 24, "A thin product has the shape of W, and at most rank R", "start", weight="bold"))
    note = "trained: 2 R D numbers in place of D x D; with D = 384, R = 8 a 24th of them"
    parts.append(text(20, 46, note, "start", 13, "soft"))
    return page(
        "LoRA: a frozen matrix and two thin ones",
        "The square matrix W, D by D, is frozen. Added to it is s times the product of a tall thin matrix B, D by R, "
        "which starts at zero, and a flat thin matrix A, R by D, which starts at random. Their product is D by D, so "
        "the sum can be folded into one matrix.",
        264, parts,
    )


def labels(cx, bottom, shape):
    """A shape under a matrix."""
    return [text(cx, bottom + 22, shape, size=13, style="soft")]


# ---- the adapter


def bottleneck():
    """bottleneck.svg: D numbers a token, squeezed to M and expanded again, added to f."""
    middle = 150
    parts = [text(20, 24, "One token: D numbers, squeezed to M, expanded to D, and added to f", "start", weight="bold")]
    parts += cells(60, middle, 12, "plain", "x", "D")
    parts += funnel(96, middle, 108, 36, "W_down", "M D + M")
    parts += cells(226, middle, 4, "adapter", "", "M")
    parts += [arrow((244, middle), (276, middle)), text(300, middle + 5, "relu"), arrow((324, middle), (356, middle))]
    parts += cells(374, middle, 4, "adapter", "", "M")
    parts += funnel(396, middle, 36, 108, "W_up", "M D + D")
    parts += cells(526, middle, 12, "adapter", "", "D")
    parts += [arrow((544, middle), (622, middle)), text(583, middle - 10, "× gate", size=13, style="soft")]
    parts += [plus(633, middle), line((633, 62), (633, middle - 10)), text(633, 56, "f", weight="bold")]
    parts += [arrow((643, middle), (690, middle)), text(724, middle + 5, "new f")]
    note = "W_up starts at 0, so at first nothing is added; without a gate the factor is 1"
    parts.append(text(20, 276, note, "start", 13, "soft"))
    return page(
        "The bottleneck of an adapter",
        "A token's vector x of D numbers goes through W_down to M numbers, a ReLU, and W_up back to D numbers. The "
        "result, times the gate if there is one, is added to f, which goes around the adapter unchanged.",
        292, parts,
    )


def cells(cx, cy, count, style, name, letter):
    """A vector as a column of cells around its centre, with its name above and its size below."""
    height = 12
    top = cy - count * height / 2
    parts = [rect(cx - 12, top + i * height, 24, height, style) for i in range(count)]
    if name:
        parts.append(text(cx, top - 10, name, weight="bold"))
    parts.append(text(cx, top + count * height + 18, letter, size=13, style="soft"))
    return parts


def funnel(left, cy, first, last, name, count):
    """A Linear that narrows or widens, from its left side; its name inside, how many numbers it trains below."""
    right = left + 100
    corners = [(left, cy - first / 2), (right, cy - last / 2), (right, cy + last / 2), (left, cy + first / 2)]
    parts = [f'<path d="{way(corners)} Z" class="adapter"/>', text((left + right) / 2, cy + 5, name, weight="bold")]
    parts.append(text((left + right) / 2, cy + 88, count, size=13, style="soft"))
    return parts


# ---- the gate's mean

TOKENS = ("[CLS]", "a", "warm", ",", "clever", "film", ".", "[SEP]")
REAL = (0.61, 0.22, 0.39, 0.02, 0.48, 0.65, 0.94, 0.56)  # sigmoid(w . x + b): a gate of the lecture's example
PADDING = (0.99, 0.96, 0.91, 0.91, 0.93, 0.93, 0.93)  # the same gate, at padding
WIDTH, HEIGHT = 48, 66  # of a token's place and of its highest bar


def padding():
    """padding.svg: the same sentence alone and in a batch; a mean over all positions changes, one over tokens not."""
    alone = sum(REAL) / len(REAL)
    mixed = (sum(REAL) + sum(PADDING)) / (len(REAL) + len(PADDING))
    parts = [text(20, 24, "One gate's sigmoid at each position of one sentence", "start", weight="bold")]
    parts += sentence(40, f"Alone: mean over all positions {alone:.2f}, over real tokens {alone:.2f}", ())
    named = f"Beside a sentence of 15 tokens: mean over all positions {mixed:.2f}, over real tokens {alone:.2f}"
    parts += sentence(170, named, PADDING)
    return page(
        "Padding in a gate's mean",
        "Bars for a gate's value at each position of a sentence of eight tokens. Alone, the mean is "
        f"{alone:.2f}. Beside a longer sentence seven padding positions follow, with high bars; the mean over all "
        f"positions becomes {mixed:.2f}, the mean over real tokens stays {alone:.2f}.",
        296, parts,
    )


def sentence(top, name, padding):
    """A row of bars under its name, real tokens in the gate's colour, padding in grey, from its upper edge."""
    bottom = top + 28 + HEIGHT
    parts = [text(20, top + 12, name, "start", 13, "soft")]
    for i, value in enumerate((*REAL, *padding)):
        x = 20 + i * WIDTH
        style, word = ("gate", TOKENS[i]) if i < len(REAL) else ("plain", "[PAD]")
        parts.append(rect(x + 6, bottom - HEIGHT * value, WIDTH - 12, HEIGHT * value, style))
        parts.append(text(x + WIDTH / 2, bottom + 18, word, size=12, style="ink" if style == "gate" else "soft"))
    parts.append(line((20, bottom), (20 + WIDTH * (len(REAL) + len(padding)), bottom), style="thin"))
    return parts
