"""Rows: samples that are read when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


class Rows(Protocol):
    """N samples of one input, as they are stored."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Return the samples at ``index``, stacked along axis 0."""


@dataclass(frozen=True)
class Files:
    """One file a sample; ``load`` gives its array."""

    paths: tuple[Path, ...]
    load: Callable[[Path], NDArray[Any]]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Return the samples at ``index``; raises ``UsageError`` if their shapes differ."""
        loaded = [self.load(self.paths[i]) for i in index]
        odd = next((i for i, one in enumerate(loaded) if one.shape != loaded[0].shape), None)
        if odd is not None:
            raise UsageError(
                f"{self.paths[int(index[odd])]} has shape {loaded[odd].shape}, "
                f"{self.paths[int(index[0])]} has {loaded[0].shape}; samples must be alike"
            )
        return np.stack(loaded) if loaded else np.empty((0,))
