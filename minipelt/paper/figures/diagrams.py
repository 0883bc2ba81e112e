"""How the methods work: layer.svg, one layer with its slots, and prefix.svg, shapes through attention with a prefix."""

import math

from minipelt.paper.figures.svg import arrow, box, line, page, plus, rect, text

# ---- one layer: the places of its columns, by their centres

LORA_Q, QUERY, KEY, PREFIX, VALUE, LORA_V = 88, 206, 324, 442, 560, 678  # from the layer's input to attention
MAIN, READER, FAR = 240, 480, 663  # below: BERT's own blocks, the adapter's input, the adapter
TOP_ROW = (
    (LORA_Q, "lora", "LoRA", "B A h", "trained"),
    (QUERY, "plain", "query", "W_q h + b_q", "frozen"),
    (KEY, "plain", "key", "W_k h + b_k", "frozen"),
    (PREFIX, "prefix", "prefix", "P_K and P_V", "trained"),
    (VALUE, "plain", "value", "W_v h + b_v", "frozen"),
    (LORA_V, "lora", "LoRA", "B A h", "trained"),
)
GATES = ((LORA_Q, "× g_q", 28), (PREFIX, "× g_p", 383), (LORA_V, "× g_v", 737))  # centre, name, x of what it reads
LEGEND = (
    ("plain", "BERT: frozen"),
    ("prefix", "prefix: trained, 2 P D values a layer"),
    ("lora", "LoRA: trained, 4 R D weights a layer"),
    ("adapter", "adapter: trained, 2 M D + D + M a layer"),
    ("gate", "gates: trained, D + 1 weights each"),
)


def layer():
    """layer.svg: one Transformer layer of bert.py, from top to bottom, with its slots filled."""
    parts = [*projections(), *attention(), *blocks(), *adapter(), *legend()]
    return page(
        "One Transformer layer with the slots of UniPELT",
        "The layer's input h goes through the frozen query, key and value projections. LoRA, times its gate, is added "
        "to query and value. Prefix vectors, times their gate, stand before the keys and the values. Self-attention, "
        "output projection, residual and LayerNorm give a. "
        "The frozen feed-forward block gives f. The adapter reads LayerNorm(f + a) and its output, times its gate, is "
        "added to f, before the last residual and LayerNorm. Each gate reads what its module reads; BERT's own weights "
        "are frozen, prefix, LoRA, adapter and gates are trained.",
        876, parts,
    )


def projections():
    """The layer's input, and all that reads it."""
    parts = [text(383, 18, "h  (B, T, D): the layer's input")]
    parts += [line((383, 26), (383, 52)), line((14, 52), (737, 52))]
    for cx, style, name, formula, state in TOP_ROW:
        if cx != PREFIX:
            parts.append(arrow((cx, 52), (cx, 78)))
        parts.append(box(cx, 78, 106, 68, style, name, formula, state))
    for cx, name, x in GATES:
        parts += [arrow((cx, 146), (cx, 170)), box(cx, 170, 60, 28, "gate", name)]
        parts.append(arrow((x, 52), (x, 184), (cx + math.copysign(31, x - cx), 184), style="reads"))
    return parts


def attention():
    """Queries, keys and values come together, with LoRA and the prefix."""
    parts = [arrow((QUERY, 146), (QUERY, 220)), arrow((LORA_Q, 198), (LORA_Q, 231), (QUERY - 11, 231))]
    parts.append(plus(QUERY, 231))
    parts += [arrow((VALUE, 146), (VALUE, 220)), arrow((LORA_V, 198), (LORA_V, 231), (VALUE + 11, 231))]
    parts.append(plus(VALUE, 231))
    parts += [arrow((KEY, 146), (KEY, 262)), arrow((VALUE, 241), (VALUE, 262))]
    parts += [arrow((PREFIX, 198), (PREFIX, 278), (KEY + 54, 278)), arrow((PREFIX, 278), (VALUE - 54, 278))]
    parts += [box(KEY, 262, 106, 32, "prefix", "[g_p P_K ; K]"), box(VALUE, 262, 106, 32, "prefix", "[g_p P_V ; V]")]
    for cx, low in ((QUERY, 241), (KEY, 294), (VALUE, 294)):
        parts.append(arrow((cx, low), (cx, 332)))
    for cx, shape in ((QUERY, "(B, T, D)"), (KEY, "(B, P+T, D)"), (VALUE, "(B, P+T, D)")):
        parts.append(text(cx + 8, 318, shape, "start", 13, "soft"))
    parts.append(box(383, 332, 462, 36, "plain", "self-attention:  softmax(Q K^T / √d) V,  no parameters"))
    return parts


def blocks():
    """BERT's own blocks below attention, with their residual lines."""
    parts = [arrow((MAIN, 368), (MAIN, 392)), text(MAIN + 8, 385, "c", "start")]
    parts.append(box(MAIN, 392, 236, 50, "plain", "output projection", "o = W c + b, frozen"))
    parts.append(arrow((MAIN, 442), (MAIN, 466)))
    parts.append(box(MAIN, 466, 236, 50, "plain", "residual and LayerNorm", "a = LayerNorm(o + h), frozen"))
    parts.append(arrow((14, 52), (14, 491), (MAIN - 118, 491)))
    parts.append(arrow((MAIN, 516), (MAIN, 556)))
    parts.append(box(MAIN, 556, 236, 68, "plain", "feed-forward", "f = W_2 gelu(W_1 a + b_1) + b_2", "frozen"))
    parts.append(arrow((MAIN, 624), (MAIN, 729)))
    parts += [text(MAIN + 8, 690, "f", "start"), text(MAIN + 8, 533, "a", "start")]
    parts.append(arrow((MAIN, 536), (70, 536), (70, 797), (MAIN - 118, 797)))
    return parts


def adapter():
    """The adapter beside the feed-forward output, and the end of the layer."""
    parts = [arrow((MAIN, 652), (READER - 92, 652))]
    parts.append(box(READER, 627, 182, 50, "plain", "x = LayerNorm(f + a)", "the one below, frozen"))
    parts.append(arrow((READER + 91, 652), (FAR - 78, 652)))
    parts.append(box(FAR, 618, 154, 68, "adapter", "adapter", "up(relu(down(x)))", "trained"))
    parts += [arrow((FAR, 686), (FAR, 700)), box(FAR, 700, 60, 28, "gate", "× g_a")]
    parts.append(arrow((READER, 677), (READER, 714), (FAR - 31, 714), style="reads"))
    parts += [arrow((FAR, 728), (FAR, 740), (MAIN + 11, 740)), plus(MAIN, 740)]
    parts.append(arrow((MAIN, 750), (MAIN, 772)))
    parts.append(box(MAIN, 772, 236, 50, "plain", "residual and LayerNorm", "LayerNorm(f + a), frozen"))
    parts += [arrow((MAIN, 822), (MAIN, 844)), text(MAIN, 862, "(B, T, D): the next layer's h")]
    return parts


def legend():
    """What the colours mean."""
    parts = []
    for row, (style, meaning) in enumerate(LEGEND):
        y = 398 + 26 * row
        parts += [rect(430, y, 22, 16, style, ' rx="3"'), text(462, y + 13, meaning, "start")]
    parts += [arrow((428, 536), (454, 536), style="reads"), text(462, 541, "what a gate reads", "start")]
    return parts


# ---- shapes through attention with a prefix

NOTES = (
    "Blue: the prefix's part.", "Q has none, so the", "result keeps T rows.", "",
    "At g = 0 its scores are", "0, not -∞: it still takes", "some of each row's", "weight, and adds zeros.",
)


def prefix():
    """prefix.svg: Q K^T, softmax, times V, with P = 3 prefix vectors and T = 6 tokens."""
    T, P, d = ("T", 6, 17, "plain"), ("P", 3, 17, "prefix"), ("d", 1, 80, "plain")
    title = "One head of one sentence: T = 6 tokens, P = 3 prefix vectors, d = D / H numbers a head"
    parts = [text(20, 24, title, "start")]
    parts += matrix(46, 100, [d], [T], "Q", "(B, H, T, d)")
    parts.append(text(148, 156, "×", size=20))
    parts += matrix(188, 100, [P, T], [d], "[g P_K ; K], transposed", "(B, H, P+T, d)")
    parts.append(text(364, 156, "=", size=20))
    parts += matrix(410, 100, [P, T], [T], "scores", "(B, H, T, P+T)")
    parts.append(arrow((486, 234), (486, 276), (302, 276), (302, 296)))
    parts.append(text(500, 259, "divide by √d, softmax over each row", "start", 13))
    parts += matrix(226, 350, [P, T], [T], "weights: each row adds up to 1", "(B, H, T, P+T)")
    parts.append(text(401, 406, "×", size=20))
    parts += matrix(444, 350, [d], [P, T], "[g P_V ; V]", "(B, H, P+T, d)")
    parts.append(text(552, 406, "=", size=20))
    parts += matrix(598, 350, [d], [T], "result", "(B, H, T, d)")
    for row, note in enumerate(NOTES):
        parts.append(text(20, 350 + 22 * row, note, "start", 13))
    return page(
        "Tensor shapes through attention with a prefix",
        "Q of shape (B, H, T, d) times the transpose of the prefix keys and keys, (B, H, P+T, d), gives scores "
        "(B, H, T, P+T): P columns more than without a prefix. Softmax over each row gives the weights, and these "
        "times the prefix values and values, (B, H, P+T, d), give a result of shape (B, H, T, d), the same as without "
        "a prefix.",
        560, parts,
    )


def matrix(x, y, columns, rows, name, shape):
    """A rectangle of strips, from its top left corner.

    columns, rows: lists of (letter, strips, pixels a strip, style); a cell is blue where its column or its row is.
    """
    parts = []
    left = x
    for letter, strips, size, style in columns:
        right = left + strips * size
        top = y
        for _, count, height, row_style in rows:
            low = top + count * height
            shade = "prefix" if "prefix" in (style, row_style) else "plain"
            parts.append(rect(left, top, right - left, low - top, shade))
            parts += [line((at, top), (at, low), style="grid") for at in range(left + size, right, size)]
            parts += [line((left, at), (right, at), style="grid") for at in range(top + height, low, height)]
            top = low
        parts += [line((left + 2, y - 7), (right - 2, y - 7)), text((left + right) / 2, y - 14, letter, size=13)]
        left = right
    top = y
    for letter, count, height, _ in rows:
        low = top + count * height
        parts += [line((x - 7, top + 2), (x - 7, low - 2)), text(x - 13, (top + low) / 2 + 5, letter, "end", 13)]
        top = low
    middle = (x + right) / 2
    parts.append(text(middle, y - 36, name, weight="bold"))
    parts.append(text(middle, low + 20, shape, size=13, style="soft"))
    return parts
