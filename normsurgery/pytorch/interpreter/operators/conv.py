"""Conv and ConvTranspose, 1-D to 3-D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.table import operator
from normsurgery.validation.operators.conv_transpose import transposed_windows
from normsurgery.validation.windows import windows

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from normsurgery.pytorch.interpreter.call import Call

_CONV: tuple[Callable[..., torch.Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED: tuple[Callable[..., torch.Tensor], ...] = (
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip
AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def spatial_rank(call: Call) -> int:
    """Return how many spatial axes a layer has, by its weights, attributes or input."""
    dims = call.dims(1) or call.dims(0)
    kernel = call.ints("kernel_shape")
    rank = len(dims) - 2 if dims is not None else len(kernel or ())
    if rank not in {1, 2, 3}:
        raise call.refuse("a convolution over 1 to 3 axes is known, its number of axes is not")
    return rank


@operator("Conv")
def conv(call: Call) -> Callable[..., Any]:
    """Cross-correlation; paddings that differ between the sides are made first."""
    rank, group = spatial_rank(call), call.integer("group", 1)
    function = _CONV[rank - 1]
    strides = tuple(call.ints("strides") or [1] * rank)
    dilations = tuple(call.ints("dilations") or [1] * rank)
    pads = call.ints("pads") or [0] * (2 * rank)
    auto_pad = call.choice("auto_pad", "NOTSET", *AUTO_PADS)
    if auto_pad.startswith("SAME"):

        def same(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            where = windows(
                x.shape[2:], w.shape[2:], strides=strides, dilations=dilations, auto_pad=auto_pad
            )
            if where.before == where.after:
                return function(x, w, b, strides, where.before, dilations, group)
            padded = F.pad(x, sides(where.before, where.after))
            return function(padded, w, b, strides, 0, dilations, group)

        return same
    if auto_pad == "VALID":
        pads = [0] * (2 * rank)
    before, after = tuple(pads[:rank]), tuple(pads[rank:])
    if before == after and min(before) >= 0:
        return lambda x, w, b=None: function(x, w, b, strides, before, dilations, group)
    amounts = sides(before, after)
    return lambda x, w, b=None: function(F.pad(x, amounts), w, b, strides, 0, dilations, group)


def sides(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """Return paddings as ``F.pad`` takes them: last axis first, both sides of each."""
    return [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]


@operator("ConvTranspose")
def conv_transpose(call: Call) -> Callable[..., Any]:
    """Run the adjoint of a convolution: in full, with what the pads cut off taken away.

    torch takes one padding for both sides; where they differ, or the output is larger than the
    full one, the result is cropped or grown by hand.
    """
    rank, group = spatial_rank(call), call.integer("group", 1)
    function = _TRANSPOSED[rank - 1]
    strides = tuple(call.ints("strides") or [1] * rank)
    dilations = tuple(call.ints("dilations") or [1] * rank)
    pads, extra = call.ints("pads"), call.ints("output_padding")
    shape = call.ints("output_shape")
    auto_pad = call.choice("auto_pad", "NOTSET", *AUTO_PADS)
    plain = not shape and auto_pad in {"NOTSET", "VALID"}
    if plain:
        given = [0] * (2 * rank) if auto_pad == "VALID" or not pads else pads
        before, after, more = given[:rank], given[rank:], extra or [0] * rank
        small = all(m < max(s, d) for m, s, d in zip(more, strides, dilations, strict=True))
        if before == after and min(before) >= 0 and small:
            padding, grown = tuple(before), tuple(more)
            return lambda x, w, b=None: function(x, w, b, strides, padding, grown, group, dilations)

    def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        where = transposed_windows(
            x.shape[2:], w.shape[2:], strides=strides, dilations=dilations, pads=pads,
            auto_pad=auto_pad, output_padding=extra, output_shape=shape,
        )  # fmt: skip
        full = function(x, w, None, strides, 0, 0, group, dilations)
        ends = [
            lead + size - length
            for lead, size, length in zip(where.before, where.sizes, full.shape[2:], strict=True)
        ]
        crop = sides(tuple(-n for n in where.before), tuple(ends))
        y = F.pad(full, crop)
        return y if b is None else y + b.reshape(-1, *[1] * rank)

    return run
