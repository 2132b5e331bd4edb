"""A line plot as an SVG file of its own, readable on light and dark pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 56, 214, 34, 44
COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222 } .axis { stroke: #999; fill: none }
.grid { stroke: #ddd } @media (prefers-color-scheme: dark) {
text { fill: #ddd } .axis { stroke: #777 } .grid { stroke: #444 } }
"""


@dataclass(frozen=True)
class Line:
    """One line: y for each x, and how far up and down its bar goes (0 for none)."""

    name: str
    values: Sequence[float]
    spread: Sequence[float] = ()


def line_plot(
    title: str, x: Sequence[float], lines: Sequence[Line], x_label: str, y_label: str
) -> str:
    """Return the SVG text of ``lines`` over ``x``, which are all above 0 (logarithmic, base 2)."""
    flat = [v for line in lines for v in line.values]
    step = next(s for s in (0.5, 1, 2, 5, 10, 20) if (max(flat) - min(flat)) / s <= 8)
    low, high = math.floor(min(flat) / step) * step, math.ceil(max(flat) / step) * step
    first, last = math.log2(min(x)), math.log2(max(x))

    def across(value: float) -> float:
        return LEFT + (math.log2(value) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    said = "; ".join(
        f"{line.name}: "
        + ", ".join(f"{v:.1f} at {a:g}" for a, v in zip(x, line.values, strict=True))
        for line in lines
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}. {escape(said)}">',
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="18">{escape(title)}</text>',
    ]
    for i in range(round((high - low) / step) + 1):
        y = low + i * step
        parts.append(f'<path class="grid" d="M{LEFT} {up(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for a in x:
        at = f'x="{across(a):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {at} text-anchor="middle">{a:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    turned = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_label)}</text>')
    for i, line in enumerate(lines):
        style = f'stroke="{COLOURS[i % 4]}" stroke-width="2" stroke-dasharray="{DASHES[i % 4]}"'
        points = [(across(a), up(v)) for a, v in zip(x, line.values, strict=True)]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        parts.append(f'<path fill="none" {style} d="M{path}"/>')
        for j, (a, b) in enumerate(points):
            spread = line.spread[j] if line.spread else 0.0
            top, bottom = up(line.values[j] + spread), up(line.values[j] - spread)
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{COLOURS[i % 4]}"/>')
            parts.append(f'<path stroke="{COLOURS[i % 4]}" d="M{a:.1f} {top:.1f}V{bottom:.1f}"/>')
        y = TOP + 14 + 20 * i
        parts.append(f'<path {style} d="M{WIDTH - RIGHT + 10} {y - 4}h26"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 42}" y="{y}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
