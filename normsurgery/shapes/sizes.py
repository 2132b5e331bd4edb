"""Sizes of dimensions that are known by name: a number times names, such as ``4·N``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Size:
    """``number · name · name …``; names are sorted. Equal sizes are equal in every run.

    A name stands for one dimension that is not fixed: what the model calls it (``dim_param``), or
    ``value[axis]`` where it has no name.
    """

    number: int
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, factors: Iterable[Size]) -> Size:
        """Return the product; 1 for none."""
        factors = list(factors)
        names = sorted(name for f in factors for name in f.names)
        return cls(prod(f.number for f in factors), tuple(names))

    def over(self, other: Size) -> Size | None:
        """Return ``self / other`` if that is a size, whatever the names stand for."""
        missing = Counter(other.names) - Counter(self.names)
        if missing or not other.number or self.number % other.number:
            return None
        left = Counter(self.names) - Counter(other.names)
        return Size(self.number // other.number, tuple(sorted(left.elements())))

    @property
    def fixed(self) -> int | None:
        """The number, if it is one in every run."""
        return None if self.names else self.number

    def __str__(self) -> str:
        """Return the name that a shape may carry it under: of one name, that one."""
        if self.number == 1 and len(self.names) == 1:
            return self.names[0]
        return "·".join([str(self.number), *self.names])
