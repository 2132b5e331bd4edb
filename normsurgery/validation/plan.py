"""What two models are to be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery.validation.budget import DEFAULT_MULTIPLY_ADDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Feeds = Mapping[str, np.ndarray]

BOUND = 2.0
"""A correct fold sits at 1; the mildest of nine planted bugs at 4."""


@dataclass(frozen=True)
class Plan:
    """What to compare two models with.

    Attributes:
        sets: how many input sets to make, each of another distribution (`inputs.KINDS`).
        seed: of the first set; the i-th one uses ``seed + i``.
        batch: of every second set, where the batch is dynamic; 1 in the others.
        feeds: input sets to use in place of made ones.
        shapes: input shapes by input name, for dynamic dimensions.
        bound: the ratio of errors that still passes.
        float64: look for a float64 oracle at all.
        multiply_adds: what a float64 run may cost before the noise floor is used instead.
        threads: for onnxruntime; every core by default.
        allow_fallback: nodes, by name or operator, that may run on another provider.

    """

    sets: int = 3
    seed: int = 0
    batch: int = 2
    feeds: Sequence[Feeds] | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    bound: float = BOUND
    float64: bool = True
    multiply_adds: float = DEFAULT_MULTIPLY_ADDS
    threads: int | None = None
    allow_fallback: tuple[str, ...] = ()
