"""Seeded inputs: what the sets of a comparison are filled with.

A single distribution leaves 20 to 40 % of ReLU channels silent, so each set draws from another
one. Everything is a function of the shapes, the kind and the generator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normsurgery.validation.specs import InputSpec

KINDS = ("normal", "uniform", "smooth", "large", "small", "constant")
"""The distributions, in the order in which sets use them:

standard normal; uniform on [0, 1); a sum of a few slow waves of amplitude about 1; 10 × and
0.1 × normal; one value everywhere.
"""

_PIXELS = {int(TensorProto.UINT8): (0, 256), int(TensorProto.INT8): (-128, 128)}


def generate(
    wanted: Sequence[InputSpec],
    shapes: Mapping[str, tuple[int, ...]],
    kind: str,
    rng: np.random.Generator,
    lengths: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """One input set of distribution `kind` (of `KINDS`).

    Integers are pixels over the whole range of 8-bit types, indices into the table or the value
    that they look up, or 0 and 1; those of rank 0 and 1 are 1, since they tend to be sizes.
    lengths: of the longest sequence, for inputs that tell how long each of a batch is; the first is
    so long, the others are at most.
    """
    longest = lengths or {}
    return {
        spec.name: _fill(spec, shapes[spec.name], kind, rng, longest.get(spec.name))
        for spec in wanted
    }


def _fill(
    spec: InputSpec,
    shape: tuple[int, ...],
    kind: str,
    rng: np.random.Generator,
    longest: int | None,
) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(spec.elem_type)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        if spec.elem_type in _PIXELS:
            return rng.integers(*_PIXELS[spec.elem_type], shape).astype(dtype)
        if longest is not None:
            return np.array([longest, *rng.integers(1, longest + 1, shape[0] - 1)], dtype)
        if len(shape) < 2 and spec.rows is None:
            return np.ones(shape, dtype)
        return rng.integers(0, spec.rows or 2, shape).astype(dtype)
    return np.asarray(_floats(kind, shape, rng)).astype(dtype)


def _floats(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if kind == "uniform":
        return rng.random(shape)
    if kind == "smooth":
        return _smooth(shape, rng)
    if kind == "constant":
        return np.full(shape, rng.uniform(0.2, 0.8))
    return rng.standard_normal(shape) * {"normal": 1.0, "large": 10.0, "small": 0.1}[kind]


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Four plane waves of at most two periods over the image, of other phases per channel."""
    axes = shape[2:] if len(shape) > 2 else shape[-1:]
    lead = shape[: len(shape) - len(axes)]
    field = np.zeros(shape)
    for _ in range(4):
        phase = rng.uniform(0, 2 * np.pi, (*lead, *[1] * len(axes)))
        for axis, size in enumerate(axes):
            ramp = np.arange(size) / max(size, 1) * 2 * np.pi * rng.uniform(0, 2)
            phase = phase + ramp.reshape(-1, *[1] * (len(axes) - axis - 1))
        field += np.sin(phase) / np.sqrt(2)
    return field
