"""The two yardsticks applied to one input set: the float64 oracle, and the noise floor."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.validation import noise, oracle
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import Comparison, against_noise, against_oracle, is_float, rms
from normsurgery.validation.sets import flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


def by_oracle(
    truth: oracle.Oracle,
    changed: Callable[[int], noise.Doubles],
    bound: float,
    feeds: Mapping[str, np.ndarray],
    names: Sequence[str],
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
) -> dict[str, Comparison]:
    """Compare the outputs `names` with a float64 run.

    Args:
        truth: the oracle of the reference.
        changed: makes so many changed copies of the reference, if a ratio calls for them.
        bound: the ratio that still passes.
        feeds: the input set.
        names: the outputs that both models have.
        reference: the outputs of the model that is right.
        candidate: the outputs to be judged.

    Raises:
        NoOracleError: the oracle cannot run on these inputs, or is not to be trusted.
    """
    true = flatten(oracle.run(truth, feeds))
    lost = [name for name in names if name not in true]
    if lost:
        raise NoOracleError(f"it has no output {lost[0]!r}")

    def moved(name: str) -> float:
        repeats = _repeats(reference[name])
        return _largest(noise.runs(changed(repeats), feeds, repeats=repeats), name, true[name])

    judged = {}
    for name in names:
        try:
            judged[name] = against_oracle(
                reference[name],
                candidate[name],
                true[name],
                bound=bound,
                second_opinion=functools.partial(moved, name),
            )
        except NoOracleError as failure:
            raise NoOracleError(f"for output {name!r} {failure}") from failure
    return judged


def by_noise(
    changed: Callable[[int], noise.Doubles],
    bound: float,
    feeds: Mapping[str, np.ndarray],
    names: Sequence[str],
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
) -> dict[str, Comparison]:
    """Compare the outputs `names` with the reference's rounding noise; arguments as above."""
    repeats = max((_repeats(reference[name]) for name in names), default=1)
    runs = list(noise.runs(changed(repeats), feeds, repeats=repeats))
    return {
        name: against_noise(
            reference[name],
            candidate[name],
            noise=_largest(runs, name, reference[name]),
            bound=bound,
        )
        for name in names
    }


def _repeats(output: np.ndarray) -> int:
    """How often to measure noise: elements of one output err together, more so in small ones."""
    return 8 if output.size >= 30 else 10


def _largest(runs: Iterable[Mapping[str, Any]], name: str, origin: np.ndarray) -> float:
    """The largest rms distance of the runs' output `name` from `origin`, where finite."""
    largest = 0.0
    for outputs in runs:
        other = flatten(outputs).get(name)
        if other is None or other.shape != origin.shape or not is_float(other):
            continue
        with np.errstate(invalid="ignore"):
            distance = other.astype(np.float64) - origin.astype(np.float64)
        largest = max(largest, rms(distance[np.isfinite(distance)]))
    return largest
