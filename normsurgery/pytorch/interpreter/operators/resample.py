"""Resize and Upsample, GridSample: reading an image between its pixels.

The general way is one axis after the other: where each pixel of the result lies on the axis of the
input, and the weights of the pixels around. torch's own interpolation does it where it means the
same. Which pixel is nearest is decided in float32, as onnxruntime does; weights are float64.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normsurgery.pytorch.interpreter.call import Call

_TRANSFORMS = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_half_pixel_for_nn", "tf_crop_and_resize",
)  # fmt: skip
_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


class Resampling:
    """The attributes of a Resize."""

    def __init__(self, call: Call) -> None:
        """Read them; before opset 11 there are few, and they mean ``asymmetric``."""
        old = call.node.op_type == "Upsample" or call.opset < 11
        self.mode = call.choice("mode", "nearest", "nearest", "linear", "bilinear", "cubic")
        self.mode = "linear" if self.mode == "bilinear" else self.mode
        self.transform = call.choice(
            "coordinate_transformation_mode", "asymmetric" if old else "half_pixel", *_TRANSFORMS
        )
        self.rounding = call.choice(
            "nearest_mode", "floor" if old else "round_prefer_floor", *_ROUNDINGS
        )
        self.a = call.real("cubic_coeff_a", -0.75)
        self.exclude = bool(call.integer("exclude_outside", 0))
        self.fill = call.real("extrapolation_value", 0.0)
        self.antialias = bool(call.integer("antialias", 0)) and self.mode != "nearest"
        self.policy = call.choice(
            "keep_aspect_ratio_policy", "stretch", "stretch", "not_larger", "not_smaller"
        )
        self.axes = call.ints("axes")

    def places(self, size: int, wanted: int, scale: float, box: tuple[float, float]) -> Any:
        """Return where each of ``wanted`` pixels lies on an axis of ``size``, in float64."""
        kind: Any = np.float32 if self.mode == "nearest" else np.float64
        at, scale = np.arange(wanted, dtype=kind), kind(scale)
        half = kind(0.5)
        if self.transform == "align_corners":
            return at * kind(size - 1) / kind(wanted - 1) if wanted > 1 else at * 0
        if self.transform == "asymmetric":
            return at / scale
        if self.transform == "tf_half_pixel_for_nn":
            return (at + half) / scale
        if self.transform == "tf_crop_and_resize":
            start, end = box
            if wanted == 1:
                return np.full(1, 0.5 * (start + end) * (size - 1), kind)
            return start * (size - 1) + at * (end - start) * (size - 1) / (wanted - 1)
        if self.transform == "pytorch_half_pixel" and wanted == 1:
            return at * 0
        shift = kind(0)
        if self.transform == "half_pixel_symmetric":
            adjusted = wanted / (float(scale) * size)
            shift = kind(size / 2 * (1 - adjusted))
        return shift + (at + half) / scale - half

    def weights(self, size: int, wanted: int, scale: float, box: tuple[float, float]) -> Any:
        """Return the pixels that make each pixel of the result, and their weights."""
        where = self.places(size, wanted, scale, box)
        if self.mode == "nearest":
            taken = np.clip(_ROUNDINGS[self.rounding](where), 0, size - 1).astype(np.int64)
            return taken[:, None], np.ones((wanted, 1))
        shrink = min(float(scale), 1.0) if self.antialias else 1.0
        reach = (1 if self.mode == "linear" else 2) / shrink
        first = np.floor(where - reach).astype(np.int64) + 1
        taps = first[:, None] + np.arange(math.ceil(2 * reach) + 1)
        distance = np.abs(where[:, None] - taps) * shrink
        shares = np.maximum(0, 1 - distance) if self.mode == "linear" else _cubic(distance, self.a)
        inside = (taps >= 0) & (taps < size)
        if self.exclude:  # else what lies outside is the edge's
            shares = shares * inside
        if self.exclude or self.antialias:
            shares = shares / shares.sum(1, keepdims=True)
        return np.clip(taps, 0, size - 1), shares


def _cubic(d: Any, a: float) -> Any:
    """Keys, "Cubic convolution interpolation", 1981."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def along(x: torch.Tensor, axis: int, taps: Any, shares: Any) -> torch.Tensor:
    """Sum the pixels ``taps`` (wanted, n) of an axis with weights ``shares``."""
    used = np.abs(shares).max(0) > 0
    total: Any = None
    for tap, share in zip(taps.T[used], shares.T[used], strict=True):
        part = x.index_select(axis, torch.from_numpy(np.ascontiguousarray(tap)).to(x.device))
        if not np.all(share == 1):
            weight = torch.from_numpy(np.ascontiguousarray(share)).to(x.device, x.dtype)
            part = part * weight.reshape(-1, *[1] * (x.dim() - 1 - axis % x.dim()))
        total = part if total is None else total + part
    return x if total is None else total


@operator("Resize", "Upsample")
def resize(call: Call) -> Kernel:
    """Resample axes to sizes or by scales."""
    of = Resampling(call)
    old = call.floats("scales")  # Upsample of opset 7
    if old is not None:
        return Kernel(lambda x: _resize(of, x, None, old, None), (0,))
    for name in ("height_scale", "width_scale"):  # and of opset 1
        if call.attribute(name) is not None:
            raise call.refuse("Upsample of opset 1 is not known; convert the model to opset 9")
    if len(call.operands) == 2:  # Resize of opset 10, Upsample of opset 9
        return call.bound(lambda x, scales: _resize(of, x, None, scales, None), (0,), (1,))
    return call.bound(partial(_resize, of), (0,), (1, 2, 3))


def _resize(
    of: Resampling, x: torch.Tensor, roi: Any, scales: Any, sizes: list[int] | None
) -> torch.Tensor:
    rank = x.dim()
    axes = [a % rank for a in of.axes] if of.axes is not None else list(range(rank))
    if sizes:
        wanted, factors = _by_sizes(of, [x.shape[a] for a in axes], sizes)
    else:
        factors = [float(np.float32(s)) for s in scales]
        wanted = [
            math.floor(np.float32(x.shape[a]) * np.float32(f))
            for a, f in zip(axes, factors, strict=True)
        ]
    changed = [i for i, a in enumerate(axes) if wanted[i] != x.shape[a] or factors[i] != 1]
    box = [(0.0, 1.0)] * len(axes)
    if of.transform == "tf_crop_and_resize" and roi:
        box = list(zip(roi[: len(axes)], roi[len(axes) :], strict=True))
        changed = list(range(len(axes)))
    fast = _by_torch(of, x, [(axes[i], wanted[i], factors[i]) for i in changed])
    if fast is not None:
        return fast
    y = x if x.is_floating_point() or of.mode == "nearest" else x.double()
    outside = None
    for i in changed:
        size = x.shape[axes[i]]
        y = along(y, axes[i], *of.weights(size, wanted[i], factors[i], box[i]))
        if of.transform == "tf_crop_and_resize":
            where = of.places(size, wanted[i], factors[i], box[i])
            out = torch.from_numpy((where < 0) | (where > size - 1)).to(x.device)
            out = out.reshape(-1, *[1] * (rank - 1 - axes[i]))
            outside = out if outside is None else outside | out
    if outside is not None:
        y = torch.where(outside, torch.full((), of.fill, dtype=y.dtype, device=y.device), y)
    return y if y.dtype == x.dtype else y.round().to(x.dtype)


def _by_sizes(of: Resampling, have: list[int], sizes: list[int]) -> tuple[list[int], list[float]]:
    """Return sizes and scales; to keep the aspect ratio, one scale for all axes."""
    ratios = [n / h for n, h in zip(sizes, have, strict=True)]
    if of.policy == "stretch":
        return sizes, ratios
    one = min(ratios) if of.policy == "not_larger" else max(ratios)
    return [math.floor(h * one + 0.5) for h in have], [one] * len(have)


def _by_torch(
    of: Resampling, x: torch.Tensor, what: Sequence[tuple[int, int, float]]
) -> torch.Tensor | None:
    """Resize by torch's interpolation, if that is the same function."""
    if not what:
        return None if of.transform == "tf_crop_and_resize" else x
    rank = x.dim()
    if rank not in {3, 4, 5} or min(axis for axis, *_ in what) < 2 or not x.is_floating_point():
        return None
    sizes = list(x.shape[2:])
    for axis, wanted, _ in what:
        sizes[axis - 2] = wanted
    exact = all(wanted == x.shape[axis] * factor for axis, wanted, factor in what)
    if of.mode == "nearest":
        whole = all(factor == int(factor) for _, _, factor in what)
        ways = {"asymmetric": ("floor",), "half_pixel": ("round_prefer_floor", "round_prefer_ceil")}
        if whole and exact and of.rounding in ways.get(of.transform, ()):
            return F.interpolate(x, sizes, mode="nearest")
        return None
    if of.mode != "linear" or of.antialias or of.exclude:
        return None
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[rank]
    if of.transform == "align_corners":
        return F.interpolate(x, sizes, mode=mode, align_corners=True)
    if of.transform in {"half_pixel", "pytorch_half_pixel"} and exact and min(sizes) > 1:
        return F.interpolate(x, sizes, mode=mode, align_corners=False)
    return None


@operator("GridSample")
def grid_sample(call: Call) -> Callable[..., Any]:
    """Sample an image where a grid says."""
    names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = call.choice("mode", "linear", "linear", "bilinear", "nearest", "cubic", "bicubic")
    mode = names.get(mode, mode)
    padding = call.choice("padding_mode", "zeros", "zeros", "border", "reflection")
    corners = bool(call.integer("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, corners)
