"""Normalizations. BatchNormalization is the one that training mode changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call
    from normsurgery.pytorch.interpreter.program import Context


@operator("BatchNormalization")
def batch_normalization(call: Call) -> Kernel:
    """Normalize by running statistics, or in training mode by those of the batch.

    Training mode is the module's, and is what torch's own layer does: biased variance to
    normalize with, unbiased to record, running = (1 − m)·running + m·batch with m = 1 − momentum,
    since ONNX's momentum is the share that is kept. Statistics are recorded where they are stored
    tensors. A node with ``training_mode`` (``is_test`` = 0 before opset 7) always normalizes by the
    batch, and gives ONNX's statistics: momentum as it is, biased variance.
    """
    epsilon, keep = call.real("epsilon", 1e-5), call.real("momentum", 0.9)
    name = call.node.name or call.node.output[0]
    stored = all((o := call.operand(slot)) is not None and o.stored is not None for slot in (3, 4))
    per_activation = call.opset < 9 and call.integer("spatial", 1) == 0
    always = bool(call.integer("training_mode", 0)) or (
        call.opset < 7 and not call.integer("is_test", 0)
    )
    call.integer("is_test", 0), call.integer("spatial", 1)
    outputs = call.outputs()
    if outputs > 1 and not always:
        raise call.refuse("its statistics are outputs, and it is not in training mode")

    def run(
        context: Context, x: torch.Tensor, scale: torch.Tensor, B: torch.Tensor,
        mean: torch.Tensor, var: torch.Tensor,
    ) -> Any:  # fmt: skip
        shape = x.shape
        if per_activation:
            x = x.flatten(1)
            scale, B, mean, var = scale.flatten(), B.flatten(), mean.flatten(), var.flatten()
        if context.training and name not in context.frozen:
            a, b = (mean, var) if stored else (None, None)
            y = F.batch_norm(x, a, b, scale, B, training=True, momentum=1 - keep, eps=epsilon)
        elif always:
            y = torch.batch_norm(
                x,
                scale,
                B,
                None,
                None,
                True,
                0.0,
                epsilon,
                torch.backends.cudnn.enabled,
            )
        else:
            y = torch.batch_norm(
                x,
                scale,
                B,
                mean,
                var,
                False,
                0.0,
                epsilon,
                torch.backends.cudnn.enabled,
            )
        y = y.reshape(shape) if per_activation else y
        if outputs == 1:
            return (y,)
        axes = (0, *range(2, x.dim()))
        now = (x.mean(axes), x.var(axes, correction=0))
        mixed = (keep * old + (1 - keep) * new for old, new in zip((mean, var), now, strict=True))
        return (y, *mixed, *now)

    return Kernel(run, context=True, several=True)


@operator("InstanceNormalization")
def instance_normalization(call: Call) -> Callable[..., Any]:
    """Normalize each channel of each sample by its own statistics."""
    epsilon = call.real("epsilon", 1e-5)
    cudnn = torch.backends.cudnn.enabled
    return lambda x, scale, B: torch.instance_norm(
        x,
        scale,
        B,
        None,
        None,
        True,
        0.0,
        epsilon,
        cudnn,
    )


@operator("GroupNormalization")
def group_normalization(call: Call) -> Callable[..., Any]:
    """Normalize groups of channels; opset 18 has scale and bias per group, 21 per channel."""
    epsilon, groups = call.real("epsilon", 1e-5), call.integer("num_groups", 1)
    call.integer("stash_type", 1)
    if call.opset >= 21:
        return lambda x, scale, B: F.group_norm(x, groups, scale, B, epsilon)

    def run(x: torch.Tensor, scale: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        width = x.shape[1] // groups
        scale, B = scale.repeat_interleave(width), B.repeat_interleave(width)
        return F.group_norm(x, groups, scale, B, epsilon)

    return run


@operator("LayerNormalization")
def layer_normalization(call: Call) -> Kernel:
    """Normalize over all axes from ``axis`` on; mean and 1/deviation are outputs if wanted."""
    axis, epsilon = call.integer("axis", -1), call.real("epsilon", 1e-5)
    call.integer("stash_type", 1)
    more = call.outputs() > 1

    def run(x: torch.Tensor, scale: torch.Tensor, B: torch.Tensor | None = None) -> Any:
        sizes = x.shape[axis % x.dim() :]
        if scale.shape == sizes and (B is None or B.shape == sizes):
            y = F.layer_norm(x, sizes, scale, B, epsilon)
        else:
            y = F.layer_norm(x, sizes, None, None, epsilon) * scale
            y = y if B is None else y + B
        if not more:
            return (y,)
        over = tuple(range(axis % x.dim(), x.dim()))
        var, mean = torch.var_mean(x, over, correction=0, keepdim=True)
        return (y, mean, torch.rsqrt(var + epsilon))

    return Kernel(run, several=True)


@operator("RMSNormalization")
def rms_normalization(call: Call) -> Callable[..., Any]:
    """Divide by the root of the mean square over all axes from ``axis`` on."""
    axis, epsilon = call.integer("axis", -1), call.real("epsilon", 1e-5)
    call.integer("stash_type", 1)

    def run(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        over = tuple(range(axis % x.dim(), x.dim()))
        return x * torch.rsqrt(x.square().mean(over, keepdim=True) + epsilon) * scale

    return run


@operator("LpNormalization")
def lp_normalization(call: Call) -> Callable[..., Any]:
    """Divide by the 1- or 2-norm along one axis; zeros stay zeros."""
    axis, p = call.integer("axis", -1), call.integer("p", 2)

    def run(x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x), x / norm)

    return run


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Callable[..., Any]:
    """(x − mean) / (deviation + 1e-9), as the function body of the spec has it."""
    axes = tuple(call.ints("axes") or (0, 2, 3))

    def run(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True).sqrt() + _SMALL)

    return run


_SMALL = 9.999999717180685e-10  # the float32 nearest to 1e-9


@operator("LRN")
def lrn(call: Call) -> Callable[..., Any]:
    """Divide by a power of the sum of squares over the channels around."""
    alpha, beta = call.real("alpha", 1e-4), call.real("beta", 0.75)
    bias, size = call.real("bias", 1.0), call.integer("size", 1)
    behind, ahead = (size - 1) // 2, size // 2

    def run(x: torch.Tensor) -> torch.Tensor:
        squares = x.square().flatten(2)  # (N, C, everything else)
        wide = F.pad(squares, (0, 0, behind, ahead)).unfold(1, size, 1).sum(-1)
        return x / (bias + alpha / size * wide.reshape(x.shape)) ** beta

    return run
