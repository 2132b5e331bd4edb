"""What a target takes and says, and the table of all of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from normsurgery.dtypes import Float64
    from normsurgery.norms.writing import Writer

Encoding = Literal["auto", "native", "instance", "layer"]


@dataclass(frozen=True)
class Norm:
    """``y = scale·(x − mean_g)/√(var_g + epsilon) + B`` over ``groups`` groups of channels.

    mean_g and var_g are of one sample, over the channels of a group and all positions. scale, B:
    float64, (C,). For the targets *affine* and *batch*, which have no groups, scale and B are the
    map's, or the BatchNormalization's with ``mean`` and ``var`` beside it.
    """

    groups: int
    scale: Float64
    B: Float64
    epsilon: float
    mean: Float64 | None = None
    var: Float64 | None = None

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.scale.size


WriteFunction = Callable[["Writer", str, Norm, Encoding], str]


@dataclass(frozen=True)
class Target:
    """One kind of norm.

    write: writes it over a value and returns the name of the result.
    encodings: those it has besides *auto*, and the least operator set that each needs.
    grouped: how many groups C channels have, where the target alone says so.
    """

    name: str
    write: WriteFunction
    encodings: Mapping[str, int]
    grouped: Callable[[int], int] | None = None


_TARGETS: dict[str, Target] = {}


def target(
    name: str, encodings: Mapping[str, int], grouped: Callable[[int], int] | None = None
) -> Callable[[WriteFunction], WriteFunction]:
    """Register a function that writes the norm ``name``."""

    def register(function: WriteFunction) -> WriteFunction:
        if name in _TARGETS:
            raise ValueError(f"two targets called {name}")
        _TARGETS[name] = Target(name, function, encodings, grouped)
        return function

    return register


@cache
def load() -> Mapping[str, Target]:
    """Import every module of this folder and return the targets by name."""
    package = importlib.import_module("normsurgery.norms")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return _TARGETS
