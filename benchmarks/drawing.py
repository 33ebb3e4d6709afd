"""Enough SVG for a benchmark's picture, with nothing to install."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

INK, GRID = "#333", "#ddd"
FONT = 'font-family="sans-serif" font-size="11"'


@dataclass
class Drawing:
    """Shapes on a white ground.

    Attributes:
        width: In pixels.
        height: In pixels.
        shapes: Elements in the order in which they are painted.
    """

    width: float
    height: float
    shapes: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str = GRID) -> None:
        """A thin line."""
        self.shapes.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'
        )

    def box(self, x: float, y: float, w: float, h: float, color: str, title: str = "") -> None:
        """A filled rectangle, its title shown under the pointer."""
        self.shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{color}">'
            f"<title>{escape(title)}</title></rect>"
        )

    def dot(self, x: float, y: float, color: str, title: str = "", r: float = 2.5) -> None:
        """A filled circle, its title shown under the pointer."""
        self.shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{color}">'
            f"<title>{escape(title)}</title></circle>"
        )

    def path(self, points: Sequence[tuple[float, float]], color: str) -> None:
        """A line through points."""
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.shapes.append(
            f'<polyline points="{text}" fill="none" stroke="{color}" stroke-width="1.5"/>'
        )

    def text(self, x: float, y: float, words: str, anchor: str = "start", turn: float = 0) -> None:
        """A line of text."""
        turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
        self.shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" {FONT}{turned}>'
            f"{escape(words)}</text>"
        )

    def svg(self) -> str:
        """The whole file."""
        size = f'width="{self.width:g}" height="{self.height:g}"'
        view = f'viewBox="0 0 {self.width:g} {self.height:g}"'
        ground = f'<rect {size} fill="white"/>'
        body = "\n".join([ground, *self.shapes])
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view}>\n{body}\n</svg>\n'


@dataclass(frozen=True)
class Axis:
    """From values to pixels.

    Attributes:
        low: The value at ``start``.
        high: The value at ``end``.
        start: Pixels.
        end: Pixels.
        log: Whether equal ratios get equal lengths.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies; beyond the ends, at the end."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def decades(self) -> list[float]:
        """Powers of ten on the axis."""
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def log_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis of whole decades around positive values."""
    low, high = min(values, default=0.1), max(values, default=10.0)
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return Axis(10.0**bottom, 10.0 ** max(top, bottom + 1), start, end, log=True)
