"""gates.svg: how far gates spread over layers, sentences, seeds and tasks, a bar each. Needs nothing but Python."""

import math

from minipelt.paper.figures.svg import WIDTH, line, page, rect, text
from minipelt.paper.gatetables import SPREADS, Study, spreads

LEFT, RIGHT = 220, WIDTH - 70  # of the bars
BAR, GAP, HEADING = 18, 14, 44  # heights: of a bar, between submodules, above a method's first bar
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)  # between two lines of the scale


def draw(studies: list[Study]) -> str:
    """The figure, a panel a K and method."""
    found = [Panel(study) for study in studies]
    largest = max(panel.largest for panel in found) or 1.0
    title = "How far gates spread"
    parts = [text(20, 24, title, "start", weight="bold")]
    note = "standard deviation of a gate, from 0 to 1, where one thing alone differs; upright mark: before training"
    parts.append(text(20, 44, note, "start", 13, "soft"))
    y = 64
    descriptions = []
    for panel in found:
        parts.append(text(20, y + 16, panel.heading, "start", weight="bold"))
        top = y + HEADING
        y, bars = draw_bars(panel, top, largest)
        parts += [*scale(top - 8, y, largest), *bars]
        descriptions.append(f"{panel.heading}: {panel.describe()}")
        y += 34
    return page(title, "; ".join(descriptions), y, parts)


class Panel:
    """What is drawn of one K and method: {submodule: {spread: value}}, as trained and before."""

    def __init__(self, study: Study):
        self.heading = study.title.replace("`", "")
        self.trained = {name: known(spreads(study, name)) for name in study.submodules}
        self.start = {name: known(spreads(study, name, "start")) for name in study.submodules}

    @property
    def largest(self) -> float:
        """The widest spread of all."""
        every = [*self.trained.values(), *self.start.values()]
        return max(value for values in every for value in values.values())

    def describe(self) -> str:
        """The numbers, for screen readers."""
        words = []
        for name, values in self.trained.items():
            each = [f"{kind} {value:.3f} ({self.start[name][kind]:.3f} before)" for kind, value in values.items()]
            words.append(f"{name.replace('_', ' ')} {', '.join(each)}")
        return "; ".join(words)


def known(values: dict[str, float]) -> dict[str, float]:
    """The spreads among some values, but for those that one run, or one task, cannot tell."""
    return {kind: values[kind] for kind in SPREADS if not math.isnan(values[kind])}


def across(value: float, largest: float) -> float:
    """A spread -> x."""
    return LEFT + (RIGHT - LEFT) * value / largest


def draw_bars(panel: Panel, top: float, largest: float) -> tuple[float, list[str]]:
    """(where the last bar ends, the bars): those of a submodule together, each with a mark where it began."""
    parts = []
    y = top
    for name, values in panel.trained.items():
        parts.append(text(20, y + 14, name.replace("lora", "LoRA").replace("_", " "), "start"))
        for kind, value in values.items():
            end, start = across(value, largest), across(panel.start[name][kind], largest)
            parts.append(text(LEFT - 8, y + 14, kind, "end", 13, "soft"))
            parts.append(rect(LEFT, y + 2, end - LEFT, BAR - 4, style_of(name)))
            parts.append(line((start, y), (start, y + BAR), style="line"))
            parts.append(text(max(start, end) + 6, y + 14, f"{value:.3f}", "start", 13))
            y += BAR
        y += GAP
    return y - GAP, parts


def style_of(submodule: str) -> str:
    """The colours of a submodule, those of the lecture's diagrams."""
    for name in ("prefix", "lora", "adapter"):
        if name in submodule:
            return name
    return "plain"


def scale(top: float, bottom: float, largest: float) -> list[str]:
    """Upright lines with their numbers below."""
    step = next((step for step in STEPS if largest / step <= 6), STEPS[-1])
    parts = []
    for i in range(math.floor(largest / step) + 1):
        x = across(i * step, largest)
        parts += [line((x, top), (x, bottom + 6), style="dots"), text(x, bottom + 22, f"{i * step:g}", size=12)]
    return parts
