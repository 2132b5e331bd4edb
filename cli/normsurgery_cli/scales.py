"""The scales of a plot: from values to coordinates, and round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery_cli.html import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HUGE = 1e290  # plots reach no further, either way


@dataclass(frozen=True)
class Scale:
    """From a value to a coordinate: ``ticks`` with their labels, ``place`` clamps."""

    ticks: list[tuple[float, str]]
    place: Callable[[float], float]


def linear(values: Sequence[float], start: float, end: float, *, whole: bool = False) -> Scale:
    """Return a scale of round steps that covers the values."""
    low, high = span(values)
    step = _round_step((high - low) / 5, whole=whole)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    # A horizontal axis ends where its points end, a vertical one at a tick.
    edges = (low, high) if start < end else (first * step, last * step)
    ticks = [(i * step, number(float(f"{i * step:.9g}"))) for i in range(first, last + 1)]
    within = [(v, name) for v, name in ticks if edges[0] <= v <= edges[1]]
    return Scale(within, _placing(edges, start, end, lambda v: v))


def span(values: Iterable[float]) -> tuple[float, float]:
    """Return the lowest and highest finite value, apart from each other in any case."""
    known = [min(max(v, -HUGE), HUGE) for v in values if math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    size = max(abs(low), abs(high))
    if size < 1 / HUGE:
        return 0.0, 1.0
    if high - low <= 1e-9 * size:
        return low - 0.1 * size, high + 0.1 * size
    return low, high


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale of powers of ten; one more tick at the bottom for values of 0 and less."""
    positive = [min(max(v, 1 / HUGE), HUGE) for v in values if 0 < v < math.inf]
    low = math.floor(math.log10(min(positive, default=1.0)))
    high = max(math.ceil(math.log10(max(positive, default=1.0))), low + 1)
    zero = any(v <= 0 for v in values)
    low -= zero
    every = max(1, math.ceil((high - low) / 6))
    ticks = [(10.0**e, _power(e)) for e in range(high, low - (not zero), -every)]
    ticks = [(v, name) for v, name in ticks if v > 10.0**low or not zero]
    if zero:
        ticks.append((10.0**low, "≤ 0"))
    floor = 10.0**low
    return Scale(ticks, _placing((low, high), start, end, lambda v: math.log10(max(v, floor))))


def _placing(
    edges: tuple[float, float], start: float, end: float, of: Callable[[float], float]
) -> Callable[[float], float]:
    low, high = edges

    def place(value: float) -> float:
        share = (min(max(of(value), low), high) - low) / (high - low)
        return start + share * (end - start)

    return place


def _round_step(least: float, *, whole: bool) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is no less than ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
    return max(step, 1.0) if whole else step


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(exponent: int) -> str:
    small = {0: "1", 1: "10", 2: "100", -1: "0.1"}
    return small.get(exponent, "10" + str(exponent).translate(_SUPERSCRIPT))
