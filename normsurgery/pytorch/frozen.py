"""Frozen BatchNorms that people write by hand, as torchvision, detectron2 and DETR do.

Such a module holds ``weight``, ``bias``, ``running_mean`` and ``running_var`` of one length and
multiplies and adds. Its epsilon may be an attribute, a number in its code, or none. Nobody can
tell from outside, so it is asked: on random numbers in float64 it must agree with BatchNorm.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOLDS = ("weight", "bias", "running_mean", "running_var")
_TOLERANCE = 1e-11  # of float64 arithmetic in another order; another epsilon is off by 1e-7
_SHAPES = ((2,), (3, 3), (3,), (2, 2, 2), ())  # spatial sizes to try


def frozen_epsilon(module: nn.Module, after: Sequence[str] = ()) -> float | None:
    """Return the ε with which ``module`` is an inference-mode BatchNorm; None if it is none.

    after: modules that it holds and applies to the result, by name; it may hold no others.

    Its tensors, of shape (C,): weight γ, bias β, running_mean m, running_var v, and it must
    compute γ·(x − m)/√(v + ε) + β on axis 1 within 1e-11, in float64.
    """
    held = {name: value for name, value in _tensors(module).items() if value.is_floating_point()}
    if set(held) != set(_HOLDS) or {name for name, _ in module.named_children()} - set(after):
        return None
    if any(value.dim() != 1 or value.shape != held["weight"].shape for value in held.values()):
        return None
    stated = getattr(module, "eps", getattr(module, "epsilon", None))
    candidates = [stated] if isinstance(stated, float) else []
    double = copy.deepcopy(module).double().eval()
    # Statistics of their own: with var = 1 a difference in ε could hide, and with γ = 0 anything.
    generator = torch.Generator().manual_seed(0)
    parts = _tensors(double)
    with torch.no_grad():
        for name in _HOLDS:
            drawn = torch.rand(held[name].shape, generator=generator, dtype=torch.float64)
            parts[name].copy_(drawn + 0.1)
        for shape in _SHAPES:
            x = torch.randn(
                (2, len(held["weight"]), *shape), generator=generator, dtype=torch.float64
            )
            computed = None
            with contextlib.suppress(Exception):  # another rank may suit it
                computed = double(x)
            if not isinstance(computed, torch.Tensor) or computed.shape != x.shape:
                continue
            m, v, g, b = (parts[k] for k in ("running_mean", "running_var", "weight", "bias"))
            for eps in (*candidates, 1e-5, 1e-3, 0.0):
                wanted = nn.functional.batch_norm(x, m, v, g, b, eps=eps)
                for name in after:
                    wanted = double.get_submodule(name)(wanted)
                if (computed - wanted).abs().max() <= _TOLERANCE * wanted.abs().max():
                    return eps
    return None


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    own = (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return {name: value for pairs in own for name, value in pairs}
