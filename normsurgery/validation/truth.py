"""The float64 outputs of a reference, per input set: each computed once, for every provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery.isolation import Step
from normsurgery.validation import oracle
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.sets import flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


MOST_BYTES = 1 << 29
"""Of outputs that are kept; those of dense predictors are computed again where they are needed."""


class Truth:
    """Outputs by the label of the input set. What failed once is not waited for again.

    An operator that has no float64 form fails on every set; one that is over the budget fails on
    every set of as many numbers or more.
    """

    def __init__(
        self,
        path: Path,
        multiply_adds: float,
        progress: Callable[[Step], None] | None = None,
        known: Mapping[str, dict[str, np.ndarray]] | None = None,
    ) -> None:
        """path: the reference. multiply_adds: what one set may cost. known: from earlier."""
        self._path = path
        self._multiply_adds = multiply_adds
        self._progress = progress or (lambda _: None)
        self._oracle: oracle.Oracle | None = None
        self.known = dict(known or {})
        self._failed: tuple[int, NoOracleError] | None = None

    def __call__(self, label: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output of the set, float ones as float64. Raises ``NoOracleError``."""
        if label in self.known:
            return self.known[label]
        size = sum(int(np.size(array)) for array in feeds.values())
        if self._failed is not None and size >= self._failed[0]:
            raise self._failed[1]
        try:
            if self._oracle is None:
                self._progress(Step("preparing the float64 oracle", "reference"))
                self._oracle = oracle.load(self._path, multiply_adds=self._multiply_adds)
            self._progress(Step("running the float64 oracle", "reference"))
            found = flatten(oracle.run(self._oracle, feeds))
        except NoOracleError as failure:
            self._failed = (size if failure.costly else 0, failure)
            raise
        size = sum(
            array.nbytes for outputs in (found, *self.known.values()) for array in outputs.values()
        )
        if size <= MOST_BYTES:
            self.known[label] = found
        return found
