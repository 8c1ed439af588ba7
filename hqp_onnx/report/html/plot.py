"""What every figure is made of: scales, ticks, marks and axes, drawn with svg.py in a box ``WIDTH`` units wide.

Colours and type come from the page's style sheet by class, so a figure follows light, dark and print. The box is
narrow, so text stays legible where a phone shrinks it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import svg

from hqp_onnx.markup import Html, escape

WIDTH = 360.0
LEFT, RIGHT, TOP = 44.0, 8.0, 20.0
CHARACTER = 6.5  # width of a letter, nearly
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` as positions from ``start`` to ``end``; others are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Position of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 2)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round values (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def text(x: float, y: float, words: str, anchor: Anchor = "start", kind: str = "tick") -> svg.Text:
    """Words at a baseline."""
    return svg.Text(x=x, y=y, text=escape(words), text_anchor=anchor, class_=[kind])


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> svg.Line:
    """A line; its look is that of its class."""
    return svg.Line(x1=round(x1, 2), y1=round(y1, 2), x2=round(x2, 2), y2=round(y2, 2), class_=[kind])


def bar(x1: float, y1: float, x2: float, y2: float, kind: str, says: str) -> svg.Rect:
    """A rectangle between two corners, with a tooltip."""
    left, top = min(x1, x2), min(y1, y2)
    return svg.Rect(
        x=round(left, 2),
        y=round(top, 2),
        width=round(abs(x2 - x1), 2),
        height=round(abs(y2 - y1), 2),
        class_=[kind],
        elements=tooltip(says),
    )


def tooltip(says: str) -> list[svg.Element]:
    """What a mark says when pointed at, or to a screen reader."""
    return [svg.Title(text=escape(says))]


def y_axis(scale: Scale, title: str) -> list[svg.Element]:
    """Grid lines with their values, and the title above them."""
    drawn: list[svg.Element] = [text(0, 10, title)]
    for value in ticks(scale.low, scale.high):
        drawn += [line(LEFT, scale(value), WIDTH - RIGHT, scale(value), "grid")]
        drawn += [text(LEFT - 5, scale(value) + 4, f"{value:g}", "end")]
    return drawn


def x_axis(scale: Scale, y: float, values: Sequence[float], title: str) -> list[svg.Element]:
    """The base line at ``y`` with values and the title beneath."""
    drawn: list[svg.Element] = [line(scale.start, y, scale.end, y, "axis")]
    drawn += [text(scale(value), y + 14, f"{value:g}", "middle") for value in values]
    return [*drawn, text(WIDTH - RIGHT, y + 30, title, "end")]


def legend(entries: Sequence[tuple[str, str]]) -> list[svg.Element]:
    """Classes of marks and their meaning, at the upper right."""
    drawn: list[svg.Element] = []
    x = WIDTH - RIGHT
    for kind, words in reversed(entries):
        x -= math.ceil(len(words) * CHARACTER) + 20
        mark = line(x + 7, 1, x + 7, 13, kind) if kind == "spread" else bar(x, 2, x + 10, 12, kind, words)
        drawn += [mark, text(x + 14, 11, words)]
    return drawn


def picture(identifier: str, title: str, description: str, height: float, drawn: Sequence[svg.Element]) -> Html:
    """A figure's drawing; screen readers get ``title`` and ``description``."""
    names = (f"{identifier}-title", f"{identifier}-text")
    head: list[svg.Element] = [
        svg.Title(id=names[0], text=escape(title)),
        svg.Desc(id=names[1], text=escape(description)),
    ]
    image = svg.SVG(
        xmlns=None,
        viewBox=svg.ViewBoxSpec(0, 0, WIDTH, height),
        elements=[*head, *drawn],
        extra={"role": "img", "aria-labelledby": " ".join(names)},
    )
    return Html(image.as_str())
