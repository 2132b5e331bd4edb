"""Modules put into the form that exports cleanest: a normalization each, and plain weights.

Everything happens on a copy (``copying.eval_copy``), and what is replaced computes the same:

- weight_norm, spectral_norm and every other parametrization become the weight that they make,
  computed in float64 and rounded once;
- InstanceNorm with running statistics is BatchNorm in evaluation mode (γ·(x − m)/√(v + ε) + β
  with the stored m and v) and becomes one;
- a frozen BatchNorm written by hand becomes one, where it computes the same (``frozen``);
- a norm without scale or bias gets ones and zeros, so that they carry the module's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from normsurgery.errors import ModuleError
from normsurgery.pytorch.frozen import frozen_epsilon
from normsurgery.pytorch.norms import FrozenBatchNorm


@dataclass
class Prepared:
    """What was replaced, by the names of modules and tensors.

    baked: weights that parametrizations made. frozen: hand-written frozen BatchNorms.
    """

    baked: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)


def prepare(module: nn.Module) -> tuple[nn.Module, Prepared]:
    """Replace what does not export cleanly in ``module``, a copy in evaluation mode.

    Returns the module, which is another one if it was itself replaced, and what was replaced.
    Raises ``ModuleError`` for a BatchNorm without running statistics: it normalizes with those
    of the batch at hand, so that an image's output depends on its neighbours.
    """
    done = Prepared()
    for name, inner in module.named_modules():
        _refuse(name, inner)
        done.baked += _bake(name, inner)
    for name, inner in list(module.named_modules()):
        made = _replacement(inner)
        if made is None:
            _give_affine(inner)
            continue
        if not isinstance(inner, InstanceNorm):
            done.frozen.append(name)
        module = replace_module(module, inner, made)
    return module, done


def _refuse(name: str, inner: nn.Module) -> None:
    if isinstance(inner, BatchNorm) and inner.running_mean is None and inner.running_var is None:
        raise ModuleError(
            f"{type(inner).__name__} `{name}` has no running statistics "
            "(track_running_stats=False): an output would depend on the rest of its batch; "
            "gather statistics, or put InstanceNorm or GroupNorm in its place"
        )


def _bake(name: str, inner: nn.Module) -> list[str]:
    """Make every parametrized tensor of one module plain; return their full names.

    In float64: what spectral_norm and weight_norm make is then rounded once.
    """
    hooks: list[WeightNorm | SpectralNorm] = [
        hook
        for hook in inner._forward_pre_hooks.values()  # noqa: SLF001
        if isinstance(hook, (WeightNorm, SpectralNorm))
    ]
    parametrized: list[str] = []
    if parametrize.is_parametrized(inner):
        parametrized = list(inner.parametrizations)  # type: ignore[arg-type]
    if not hooks and not parametrized:
        return []
    dtype = next((v.dtype for v in inner.parameters() if v.is_floating_point()), torch.float32)
    inner.double()
    with torch.no_grad():
        for hook in hooks:
            weight_norm = isinstance(hook, WeightNorm)
            remove = nn.utils.remove_weight_norm if weight_norm else nn.utils.remove_spectral_norm
            remove(inner, hook.name)
        _remove_parametrizations(inner, parametrized)
    inner.to(dtype)
    return [f"{name}.{tensor}".strip(".") for tensor in (*(h.name for h in hooks), *parametrized)]


def _remove_parametrizations(inner: nn.Module, names: list[str]) -> None:
    """Do what ``remove_parametrizations`` does, but to this module alone.

    That one deletes properties of the class, which a copy shares with the caller's module.
    """
    values = {name: getattr(inner, name) for name in names}
    if names:
        delattr(inner, "parametrizations")
        inner.__class__ = type(inner).__bases__[0]  # Parametrized… is a subclass made for it
    for name, value in values.items():
        inner.register_parameter(name, nn.Parameter(value.detach(), requires_grad=False))


def _replacement(inner: nn.Module) -> FrozenBatchNorm | None:
    if isinstance(inner, InstanceNorm):
        plain = type(inner).forward is InstanceNorm.forward
        if not plain or not inner.track_running_stats or inner.running_mean is None:
            return None
        _give_affine(inner)
        ranks = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}
        return FrozenBatchNorm.of(inner, inner.eps, ranks.get(type(inner), 0))
    if isinstance(inner, BatchNorm):
        return None
    eps = frozen_epsilon(inner)
    return None if eps is None else FrozenBatchNorm.of(inner, eps)


def _give_affine(inner: nn.Module) -> None:
    """Give a norm of torch's own without scale or bias ones and zeros: ·1 and +0 are exact."""
    if isinstance(inner, (BatchNorm, InstanceNorm)):
        shape: tuple[int, ...] = (inner.num_features,)
        own: Any = BatchNorm if isinstance(inner, BatchNorm) else InstanceNorm
    elif isinstance(inner, nn.LayerNorm):
        shape, own = inner.normalized_shape, nn.LayerNorm
    else:
        return
    if type(inner).forward not in (own.forward, nn.SyncBatchNorm.forward):
        return
    like = inner.running_mean if isinstance(inner, BatchNorm) else None
    dtype = torch.get_default_dtype() if like is None else like.dtype
    if inner.weight is None:
        inner.weight = nn.Parameter(torch.ones(shape, dtype=dtype), requires_grad=False)
    if inner.bias is None:
        inner.bias = nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)


def replace_module(module: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put ``new`` wherever ``old`` is held, which may be in several places; return the whole."""
    if module is old:
        return new
    for parent in module.modules():
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
    return module
