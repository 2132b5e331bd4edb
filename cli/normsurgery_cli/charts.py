"""Plots as inline SVG, for the pages of ``html``.

A plot is a figure with a caption, an SVG that says in words what it shows, a legend whose series
differ by dash and not by colour alone, and the numbers in a table that folds away. Sizes are
those of a phone; a wider screen scales them up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery_cli.html import Markup, number, table, tag, text
from normsurgery_cli.scales import HUGE, Scale, linear, logarithmic, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH, HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 10, 42
_DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 4", "12 4")
_MARKED = 120  # points of a series beyond which only its line is drawn
_LISTED = 600  # rows of numbers beyond which the table is cut


@dataclass(frozen=True)
class Series:
    """One line of a plot: a value per point; None and NaN leave a gap."""

    name: str
    values: Sequence[float | None]


def line_plot(
    title: str,
    series: Sequence[Series],
    *,
    labels: Sequence[str] = (),
    x: Sequence[float] | None = None,
    x_label: str = "",
    y_label: str = "",
    log: bool = False,
    rules: Iterable[tuple[str, float]] = (),
) -> Markup:
    """Return a plot of one or more series over common points.

    labels: a name per point, such as its tensor, shown on hover and in the table of numbers.
    x: where the points are; 0, 1, 2 … by default.
    log: a logarithmic y axis. Values of 0 and less sit on the bottom edge, as "≤ 0".
    rules: horizontal lines to compare with, each with its name.

    An infinite value sits on the edge of the plot.
    """
    rules = list(rules)
    points = max((len(one.values) for one in series), default=0)
    places = [float(i) for i in range(points)] if x is None else list(x)
    across = linear(places, _LEFT, WIDTH - _RIGHT, whole=x is None)
    known = [v for one in series for v in one.values if v is not None and not math.isnan(v)]
    known += [value for _, value in rules]
    make = logarithmic if log else linear
    up = make(known, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(across, up, x_label, y_label)]
    parts += [_rule(name, value, up) for name, value in rules]
    for index, one in enumerate(series):
        parts += _drawn(index, one, places, labels, across, up)
    names = [one.name for one in series]
    said = f"{title}. Lines: {', '.join(names)}. {points} points, {_range(known)}."
    at = [number(place) for place in places]
    rows: list[list[str | float | None]] = [
        [labels[i] if i < len(labels) else at[i], *(_at(one.values, i) for one in series)]
        for i in range(points)
    ]
    numbers = _numbers([x_label or "point", *names], rows)
    return _figure(title, said, parts, _legend(names) if len(names) > 1 else Markup(), numbers)


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    x_label: str = "",
    y_label: str = "count",
) -> Markup:
    """Return bars of ``counts`` between neighbouring ``edges``, which are one more."""
    across = linear(list(edges), _LEFT, WIDTH - _RIGHT)
    whole = all(float(count).is_integer() for count in counts)
    up = linear([0.0, *counts], HEIGHT - _BOTTOM, _TOP, whole=whole)
    parts = [_axes(across, up, x_label, y_label)]
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        x0, x1, y = across.place(left), across.place(right), up.place(count)
        hover = tag("title", f"{number(left)} … {number(right)}: {number(count)}")
        box = {"x": _f(x0), "y": _f(y), "width": _f(max(x1 - x0 - 1, 0.5))}
        height = _f(max(HEIGHT - _BOTTOM - y, 0))
        parts.append(tag("rect", hover, **box, height=height, style="fill:var(--s0)"))
    said = f"{title}. {len(counts)} bins, {number(sum(counts))} in all."
    bins = zip(edges[:-1], edges[1:], counts, strict=True)
    rows: list[list[str | float | None]] = [
        [f"{number(left)} … {number(right)}", count] for left, right, count in bins
    ]
    return _figure(title, said, parts, Markup(), _numbers([x_label or "bin", y_label], rows))


def binned(values: Iterable[float], bins: int = 20) -> tuple[list[float], list[float]]:
    """Return edges and counts of the finite values in bins of equal width."""
    finite = [min(max(float(v), -HUGE), HUGE) for v in values if math.isfinite(v)]
    low, high = span(finite)
    counts = [0.0] * bins
    for value in finite:
        counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    return [low + (high - low) * i / bins for i in range(bins + 1)], counts


def bars(rows: Iterable[tuple[str, float]], *, most: float = 1.0, percent: bool = True) -> Markup:
    """Return one bar per name, from 0 to ``most``; as a share of it if ``percent``."""
    made = []
    for name, value in rows:
        share = min(max(value / most, 0.0), 1.0) if most and math.isfinite(value) else 0.0
        filled = tag("b", style=f"width:{100 * share:.1f}%")
        shown = f"{100 * share:.1f} %" if percent else number(value)
        cells = tag("span", name) + tag("i", filled, aria_hidden="true") + tag("span", shown)
        made.append(tag("div", Markup(cells), class_="bar", role="listitem"))
    return tag("div", *made, role="list")


def grid(*figures: str) -> Markup:
    """Return figures side by side where the screen is wide enough."""
    return tag("div", *figures, class_="charts")


def _figure(title: str, said: str, parts: list[Markup], legend: Markup, numbers: Markup) -> Markup:
    view = f"0 0 {WIDTH} {HEIGHT}"
    drawing = tag("svg", *parts, viewBox=view, role="img", aria_label=said)
    return tag("figure", tag("figcaption", title), drawing, legend, numbers)


def _drawn(
    index: int,
    one: Series,
    places: Sequence[float],
    labels: Sequence[str],
    across: Scale,
    up: Scale,
) -> list[Markup]:
    """Return the line of a series, broken at gaps, and its points."""
    colour = f"var(--s{index % len(_DASHES)})"
    path, dots, pen = [], [], "M"
    for i, value in enumerate(one.values):
        if value is None or math.isnan(value):
            pen = "M"
            continue
        at = f"{_f(across.place(places[i]))} {_f(up.place(value))}"
        path.append(f"{pen}{at}")
        pen = "L"
        if len(one.values) <= _MARKED:
            cx, cy = at.split()
            where = labels[i] if i < len(labels) else number(places[i])
            hover = tag("title", f"{one.name}, {where}: {number(value)}")
            dots.append(tag("circle", hover, cx=cx, cy=cy, r="2.2", style=f"fill:{colour}"))
    dash = _DASHES[index % len(_DASHES)]
    style = f"stroke:{colour}" + (f";stroke-dasharray:{dash}" if dash else "")
    return [tag("path", d=" ".join(path), class_="stroke", style=style), *dots]


def _axes(across: Scale, up: Scale, x_label: str, y_label: str) -> Markup:
    low = HEIGHT - _BOTTOM
    parts = []
    for value, name in up.ticks:
        y = _f(up.place(value))
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", name, x=_LEFT - 5, y=_f(float(y) + 4), text_anchor="end"))
    for value, name in across.ticks:
        x = _f(across.place(value))
        parts.append(tag("line", x1=x, x2=x, y1=low, y2=low + 4, class_="grid"))
        parts.append(tag("text", name, x=x, y=low + 17, text_anchor="middle"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(tag("text", x_label, x=_f(middle), y=HEIGHT - 4, text_anchor="middle"))
    turn = f"translate(11 {_f((_TOP + low) / 2)}) rotate(-90)"
    parts.append(tag("text", y_label, transform=turn, text_anchor="middle"))
    return Markup("".join(parts))


def _rule(name: str, value: float, up: Scale) -> Markup:
    y = _f(up.place(value))
    line = tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="rule")
    at = {"x": WIDTH - _RIGHT - 2, "y": _f(float(y) - 4)}
    return Markup(line + tag("text", name, **at, text_anchor="end"))


def _legend(names: Sequence[str]) -> Markup:
    entries = []
    for index, name in enumerate(names):
        dash = _DASHES[index % len(_DASHES)]
        style = f"stroke:var(--s{index % len(_DASHES)})"
        style += f";stroke-dasharray:{dash}" if dash else ""
        line = tag("line", x1=0, x2=32, y1=6, y2=6, class_="stroke", style=style)
        key = tag("svg", line, viewBox="0 0 32 12", aria_hidden="true")
        entries.append(tag("li", key, name))
    return tag("ul", *entries, class_="legend")


def _numbers(columns: Sequence[str], rows: list[list[str | float | None]]) -> Markup:
    cut = f" (the first {_LISTED} of {len(rows)})" if len(rows) > _LISTED else ""
    return tag("details", tag("summary", f"Numbers{cut}"), table(columns, rows[:_LISTED]))


def _range(values: Sequence[float]) -> str:
    if not values:
        return "no values"
    return f"values from {number(min(values))} to {number(max(values))}"


def _at(values: Sequence[float | None], index: int) -> float | str | None:
    value = values[index] if index < len(values) else None
    return value if value is None or math.isfinite(value) else text(str(value))


def _f(value: float) -> str:
    return f"{value:.1f}"
