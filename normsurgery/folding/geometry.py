"""Where the taps of a convolution fall.

A tap of a kernel reads the input at output·stride + offset, offset = dilation·tap − pad. Source:
ONNX operator Conv.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import AttributeProto, NodeProto

from normsurgery.nodes import attribute, int_attribute, remove_attribute


@dataclass(frozen=True)
class Geometry:
    """Where the taps of a convolution fall, per spatial axis.

    excess: ``pads − dilation·(kernel − 1)``, which decides the output's size.
    """

    first: tuple[int, ...]
    step: tuple[int, ...]
    taps: tuple[int, ...]
    stride: tuple[int, ...]
    excess: tuple[int, ...]
    group: int


def geometry_of(node: NodeProto, shape: tuple[int, ...]) -> Geometry | None:
    """Return that of a Conv with a kernel of this shape.

    None if the Conv pads automatically, or for a kernel of other axes.
    """
    auto_pad = attribute(node, "auto_pad")
    if auto_pad is not None and auto_pad.s not in {b"", b"NOTSET"}:
        return None
    n = len(shape) - 2

    def ints(name: str, default: int, count: int) -> tuple[int, ...]:
        found = attribute(node, name)
        return tuple(found.ints) if found is not None else (default,) * count

    step, stride, pads = ints("dilations", 1, n), ints("strides", 1, n), ints("pads", 0, 2 * n)
    taps = shape[2:]
    if len(pads) != 2 * n or len(step) != n or len(stride) != n:
        return None
    step = tuple(1 if k == 1 else s for k, s in zip(taps, step, strict=True))
    excess = tuple(
        pads[i] + pads[i + n] - s * (k - 1) for i, (k, s) in enumerate(zip(taps, step, strict=True))
    )
    first = tuple(-pad for pad in pads[:n])
    return Geometry(first, step, taps, stride, excess, int_attribute(node, "group", 1))


def united(a: Geometry, b: Geometry) -> Geometry | None:
    """Return the least geometry that has the taps of both.

    None where strides, groups or sizes of the output differ, or no one dilation reaches all taps.
    """
    if (a.stride, a.excess, a.group) != (b.stride, b.excess, b.group):
        return None
    first, step, taps = [], [], []
    for i in range(len(a.taps)):
        d = a.step[i] if a.taps[i] > 1 else b.step[i]
        if b.taps[i] > 1 and b.step[i] != d:
            return None
        start = min(a.first[i], b.first[i])
        ends = [g.first[i] + d * (g.taps[i] - 1) for g in (a, b)]
        if any((g.first[i] - start) % d for g in (a, b)):
            return None
        first.append(start)
        step.append(d)
        taps.append((max(ends) - start) // d + 1)
    return Geometry(tuple(first), tuple(step), tuple(taps), a.stride, a.excess, a.group)


def placed(geometry: Geometry, union: Geometry) -> tuple[slice, ...]:
    """Return where the taps of ``geometry`` are among those of ``union``."""
    places = []
    for at, start, d, k, s in zip(
        geometry.first, union.first, union.step, geometry.taps, geometry.step, strict=True
    ):
        begin, gap = (at - start) // d, s // d if k > 1 else 1
        places.append(slice(begin, begin + gap * (k - 1) + 1, gap))
    return tuple(places)


def write(node: NodeProto, union: Geometry) -> None:
    """Write kernel, dilations and pads of ``union`` into the Conv."""
    ends = [
        e + first + d * (k - 1)
        for e, first, d, k in zip(union.excess, union.first, union.step, union.taps, strict=True)
    ]
    values = {
        "kernel_shape": list(union.taps),
        "dilations": list(union.step),
        "pads": [-first for first in union.first] + ends,
    }
    for name, numbers in values.items():
        remove_attribute(node, name)
        node.attribute.add(name=name, type=AttributeProto.INTS, ints=numbers)
