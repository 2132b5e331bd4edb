"""The normalizations in float64, at every opset.

``onnx.reference`` expands GroupNormalization into a function that casts to float32
(``stash_type``), cannot expand MeanVarianceNormalization in float64, sums LRN over batch indices
where it should be channels, and knows neither ``spatial`` nor ``is_test`` of old
BatchNormalizations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx.reference.op_run import OpRun

from normsurgery.validation.budget import NoOracleError

if TYPE_CHECKING:
    from collections.abc import Sequence


def standardize(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    """(x − mean) / √(var + epsilon) over `axes`, with the biased variance."""
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + epsilon))


def per_channel(values: np.ndarray, rank: int) -> np.ndarray:
    """(C,) as (C, 1, …, 1), so that it broadcasts along axis 1 of a tensor of `rank`."""
    return values.reshape(-1, *[1] * (rank - 2))


class BatchNormalization(OpRun):
    """https://onnx.ai/onnx/operators/onnx__BatchNormalization.html, opset 1 and later."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        var: np.ndarray,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        training_mode: int | None = None,
        is_test: int | None = None,
        spatial: int | None = None,
        consumed_inputs: Sequence[int] | None = None,
    ) -> tuple[np.ndarray, ...]:
        version = self.run_params["opsets"].get("", 1)
        training = bool(training_mode) or (version < 7 and not is_test)
        if training and version < 14:
            raise NoOracleError("BatchNormalization in training mode before opset 14")
        running = (mean, var)
        if training:
            axes = (0, *range(2, x.ndim))
            mean, var = x.mean(axes), x.var(axes)
        if spatial != 0 or version >= 9:
            scale, bias, a, b = (per_channel(v, x.ndim) for v in (scale, bias, mean, var))
        else:
            a, b = mean, var
        y = (x - a) * (scale / np.sqrt(b + epsilon)) + bias
        if not training:
            return (y,)
        mixed = (
            old * momentum + now * (1 - momentum)
            for old, now in zip(running, (mean, var), strict=True)
        )
        return (y, *mixed)[: len(self.output)]


class InstanceNormalization(OpRun):
    """https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        epsilon: float = 1e-5,
        consumed_inputs: Sequence[int] | None = None,
    ) -> tuple[np.ndarray]:
        y = standardize(x, tuple(range(2, x.ndim)), epsilon)
        return (y * per_channel(scale, x.ndim) + per_channel(bias, x.ndim),)


class GroupNormalization(OpRun):
    """https://onnx.ai/onnx/operators/onnx__GroupNormalization.html: opset 18 scales per group."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        epsilon: float = 1e-5,
        num_groups: int = 1,
        stash_type: int | None = None,
    ) -> tuple[np.ndarray]:
        grouped = x.reshape(x.shape[0], num_groups, -1)
        y = standardize(grouped, (2,), epsilon).reshape(x.shape)
        if self.run_params["opsets"].get("", 21) < 21:
            width = x.shape[1] // num_groups
            scale, bias = np.repeat(scale, width), np.repeat(bias, width)
        return (y * per_channel(scale, x.ndim) + per_channel(bias, x.ndim),)


class MeanVarianceNormalization(OpRun):
    """https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html."""

    op_domain = ""

    def _run(self, x: np.ndarray, axes: Sequence[int] = (0, 2, 3)) -> tuple[np.ndarray]:
        over = tuple(axes)
        centred = x - x.mean(over, keepdims=True)
        # The function body of the spec: √(E[x²] − E[x]²) + 1e-9, the sum in float32's value.
        epsilon = float(np.float32(1e-9))
        deviation = np.sqrt(np.square(centred).mean(over, keepdims=True))
        return (centred / (deviation + epsilon),)


class LRN(OpRun):
    """https://onnx.ai/onnx/operators/onnx__LRN.html."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        alpha: float = 1e-4,
        beta: float = 0.75,
        bias: float = 1.0,
        size: int = 1,
    ) -> tuple[np.ndarray]:
        behind, ahead = (size - 1) // 2, -(-(size - 1) // 2)
        squares = np.zeros_like(x)
        for shift in range(-behind, ahead + 1):
            first, last = max(0, -shift), min(x.shape[1], x.shape[1] - shift)
            if first < last:
                squares[:, first:last] += np.square(x[:, first + shift : last + shift])
        return (x / (bias + alpha / size * squares) ** beta,)
