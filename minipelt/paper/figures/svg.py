"""SVG as strings: text, boxes, arrows, and a page with the colours of light and dark mode."""

from html import escape

WIDTH = 760  # of a figure, in pixels

GREY_BOX = "fill: {}; stroke: {}"
COLOUR_BOX = "fill: {}; stroke: {}; stroke-width: 2"
COLOURS = {  # class: what it sets, in light mode, in dark mode
    "ink": ("fill: {}", ["#1f2328"], ["#e6edf3"]),
    "soft": ("fill: {}", ["#57606a"], ["#a9b4c0"]),
    "line": ("fill: none; stroke: {}; stroke-width: 1.5", ["#57606a"], ["#a9b4c0"]),
    "grid": ("fill: none; stroke: {}", ["#d0d7de"], ["#3d444d"]),
    "thin": ("fill: none; stroke: {}", ["#8c959f"], ["#768390"]),
    "dots": ("fill: none; stroke: {}; stroke-dasharray: 1 5", ["#8c959f"], ["#768390"]),
    "reads": ("fill: none; stroke: {}; stroke-width: 1.5; stroke-dasharray: 4 3", ["#8250df"], ["#c297ff"]),
    "plain": (GREY_BOX, ["#eaeef2", "#8c959f"], ["#2a313a", "#768390"]),
    "prefix": (COLOUR_BOX, ["#d3e9ff", "#0969da"], ["#0c2d6b", "#58a6ff"]),
    "lora": (COLOUR_BOX, ["#ffe3c7", "#bc4c00"], ["#5a2300", "#f0883e"]),
    "adapter": (COLOUR_BOX, ["#d2f4d8", "#1a7f37"], ["#0f4a22", "#3fb950"]),
    "gate": (COLOUR_BOX, ["#f0e0ff", "#8250df"], ["#3c1e70", "#c297ff"]),
    "heat": ("fill: {}", ["#f5a623"], ["#985000"]),
}


def text(x, y, string, anchor="middle", size=14, style="ink", weight="normal"):
    """Text at a point. Subscripts are written as in the lecture (P_K): some renderers print them over others."""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text {place} class="{style}">{escape(string)}</text>'


def rect(x, y, width, height, style, more=""):
    """A rectangle from its top left corner. more: further attributes."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{style}"{more}/>'


def box(cx, top, width, height, style, name, *notes):
    """A rounded box around its centre, with a name and smaller lines under it."""
    first = top + height / 2 + 5 - 9 * len(notes)
    parts = [rect(cx - width / 2, top, width, height, style, ' rx="6"')]
    parts.append(text(cx, first, name, weight="bold" if notes else "normal"))
    for i, note in enumerate(notes, start=1):
        parts.append(text(cx, first + 18 * i, note, size=13))
    return "".join(parts)


def line(*points, style="line"):
    """A line through (x, y) points."""
    return f'<path d="{way(points)}" class="{style}"/>'


def arrow(*points, style="line"):
    """A line through (x, y) points, with an arrow head at its end."""
    return f'<path d="{way(points)}" class="{style}" marker-end="url(#head)"/>'


def way(points):
    """(x, y) points -> what the attribute d of a path says."""
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in points)


def plus(cx, cy):
    """A circle with a plus: where two tensors are added."""
    cross = f"M{cx - 6} {cy} H{cx + 6} M{cx} {cy - 6} V{cy + 6}"
    return f'<circle cx="{cx}" cy="{cy}" r="10" class="line"/><path d="{cross}" class="line"/>'


def point(x, y, style):
    """A point of a plot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{style}"/>'


def page(title, description, height, parts):
    """The whole file: the parts, a title and a description for screen readers, and the colours of both modes."""
    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    marker = 'id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
    drawn = "\n".join(parts)
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
<marker {marker} markerUnits="userSpaceOnUse" orient="auto">
<path d="M0 0 L8 4 L0 8 z" class="soft"/>
</marker>
{drawn}
</svg>
"""


def rules(mode):
    """The style sheet of a mode, 1 light, 2 dark."""
    lines = []
    for name, colour in COLOURS.items():
        declarations = colour[0].format(*colour[mode])
        lines.append(f"  .{name} {{ {declarations} }}")
    return "\n".join(lines)
