"""Operators of detectors: NonMaxSuppression, RoiAlign, Col2Im."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from normsurgery.pytorch.interpreter.call import Call


@operator("NonMaxSuppression")
def non_max_suppression(call: Call) -> Kernel:
    """Take boxes by falling score, without those that overlap one taken; no gradient passes."""
    centres = bool(call.integer("center_point_box", 0))

    def run(
        boxes: torch.Tensor, scores: torch.Tensor, most: Any, overlap: Any, least: Any
    ) -> torch.Tensor:
        most, overlap, least = (b[0] if isinstance(b, list) else b for b in (most, overlap, least))
        found = []
        for image, (frames, rows) in enumerate(
            zip(boxes.detach().cpu(), scores.detach().cpu(), strict=True)
        ):
            corners = _corners(frames, centres)
            for kind, row in enumerate(rows):
                order = torch.sort(row, descending=True, stable=True).indices
                if least is not None:
                    order = order[row[order] > least]
                taken: list[int] = []
                for i in order.tolist():
                    if len(taken) >= int(most or 0):
                        break
                    if all(_overlap(corners[i], corners[j]) <= (overlap or 0.0) for j in taken):
                        taken.append(i)
                found += [[image, kind, i] for i in taken]
        made = torch.tensor(found, dtype=torch.int64, device=boxes.device)
        return made.reshape(-1, 3)

    return call.bound(run, (0, 1), (2, 3, 4))


def _corners(frames: torch.Tensor, centres: bool) -> torch.Tensor:
    if centres:
        x, y, w, h = frames.unbind(-1)
        return torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    a, b = frames[:, :2], frames[:, 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Intersection over union of two boxes (y, x, y, x)."""
    inner = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner
    return float(inner / union) if union > 0 else 0.0


@operator("RoiAlign")
def roi_align(call: Call) -> Kernel:
    """Average bilinear samples within the cells of boxes (He et al., "Mask R-CNN", 2017)."""
    mode = call.choice("mode", "avg", "avg", "max")
    rows, columns = call.integer("output_height", 1), call.integer("output_width", 1)
    ratio, scale = call.integer("sampling_ratio", 0), call.real("spatial_scale", 1.0)
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    how = call.choice("coordinate_transformation_mode", default, "half_pixel", "output_half_pixel")
    if mode == "max":
        raise call.refuse("mode 'max' is not known")
    shift = 0.5 if how == "half_pixel" else 0.0

    def axis(low: float, high: float, cells: int, size: int) -> Any:
        length = high - low if how == "half_pixel" else max(high - low, 1.0)
        step = length / cells
        count = ratio if ratio > 0 else int(-(-length // cells))
        count = max(count, 1) if ratio > 0 else count
        at = [low + c * step + (s + 0.5) * step / count for c in range(cells) for s in range(count)]
        return torch.tensor(at, dtype=torch.float64).reshape(cells, count), count

    def sample(image: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        total = image
        for dim, at in ((1, y), (2, x)):
            size = image.shape[dim]
            inside = ((at >= -1) & (at <= size)).to(image.device)
            near = at.clamp(0, size - 1)
            low = near.floor().long().clamp(max=size - 1)
            share = (near - low).to(image.device, image.dtype) * inside
            shape = (-1, 1) if dim == 1 else (-1,)
            first = total.index_select(dim, low.to(image.device))
            second = total.index_select(dim, (low + 1).clamp(max=size - 1).to(image.device))
            keep = inside.to(image.dtype).reshape(shape)
            total = first * (keep - share.reshape(shape)) + second * share.reshape(shape)
        return total

    def run(x: torch.Tensor, rois: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        made = []
        for roi, image in zip(rois.detach().tolist(), batch.tolist(), strict=True):
            left, top, right, bottom = (v * scale - shift for v in roi)
            ys, down = axis(top, bottom, rows, x.shape[2])
            xs, across = axis(left, right, columns, x.shape[3])
            grid = sample(x[image], ys.reshape(-1), xs.reshape(-1))
            cells = grid.reshape(x.shape[1], rows, down, columns, across)
            made.append(cells.mean((2, 4)) if down and across else cells.sum((2, 4)))
        return torch.stack(made) if made else x.new_zeros(0, x.shape[1], rows, columns)

    return Kernel(run)


@operator("Col2Im")
def col2im(call: Call) -> Kernel:
    """Add up columns of windows where they came from; 2-D, the same pads on both sides."""
    rank = 2
    pads = call.ints("pads") or [0] * 2 * rank
    strides = call.ints("strides") or [1] * rank
    dilations = call.ints("dilations") or [1] * rank
    if len(strides) != rank or pads[:rank] != pads[rank:]:
        raise call.refuse("only windows over two axes with even pads are known")

    def run(x: torch.Tensor, image: list[int], block: list[int]) -> torch.Tensor:
        return torch.nn.functional.fold(
            x, tuple(image), tuple(block), tuple(dilations), tuple(pads[:rank]), tuple(strides)
        )

    return call.bound(run, (0,), (1, 2))
