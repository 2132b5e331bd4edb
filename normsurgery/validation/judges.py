"""The two yardsticks applied to one input set: the float64 oracle, and the noise floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.validation import noise
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import Comparison, against_noise, against_oracle, is_float, rms
from normsurgery.validation.sets import flatten

if TYPE_CHECKING:
    from collections.abc import Iterable


TrueOutputs = Callable[[str, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Yardsticks:
    """What the outputs of one reference are held against.

    Attributes:
        truth: the float64 outputs of an input set, by its label and feeds; raises
            ``NoOracleError``.
        changed: makes so many changed copies of the reference, if they are called for.
        bound: the ratio that still passes.

    """

    truth: TrueOutputs
    changed: Callable[[int], noise.Doubles]
    bound: float


@dataclass(frozen=True)
class Pair:
    """One input set, and what both models made of it: the outputs `names` that both have."""

    label: str
    feeds: Mapping[str, np.ndarray]
    names: Sequence[str]
    reference: Mapping[str, np.ndarray]
    candidate: Mapping[str, np.ndarray]


def judge(by: Yardsticks, pair: Pair) -> tuple[dict[str, Comparison], str]:
    """Compare each output with the float64 truth, and with the noise floor where there is none.

    Returns the comparisons by output, and why some are without a float64 oracle, else "".
    """
    judged: dict[str, Comparison] = {}
    why = ""
    try:
        truth = by.truth(pair.label, pair.feeds)
    except NoOracleError as failure:
        return by_noise(by, pair, pair.names), str(failure)
    for name in pair.names:
        try:
            judged[name] = _by_oracle(by, pair, name, truth)
        except NoOracleError as failure:
            why = why or f"for output {name!r} {failure}"
    rest = [name for name in pair.names if name not in judged]
    return judged | (by_noise(by, pair, rest) if rest else {}), why


def _by_oracle(
    by: Yardsticks, pair: Pair, name: str, truth: Mapping[str, np.ndarray]
) -> Comparison:
    if name not in truth:
        raise NoOracleError("there is none in float64")

    def moved() -> float:
        repeats = _repeats(pair.reference[name])
        runs = noise.runs(by.changed(repeats), pair.feeds, repeats=repeats)
        return _largest(runs, name, truth[name])

    return against_oracle(
        pair.reference[name],
        pair.candidate[name],
        truth[name],
        bound=by.bound,
        second_opinion=moved,
    )


def by_noise(by: Yardsticks, pair: Pair, names: Sequence[str]) -> dict[str, Comparison]:
    """Compare the outputs `names` with the reference's rounding noise."""
    repeats = max((_repeats(pair.reference[name]) for name in names), default=1)
    runs = list(noise.runs(by.changed(repeats), pair.feeds, repeats=repeats))
    return {
        name: against_noise(
            pair.reference[name],
            pair.candidate[name],
            noise=_largest(runs, name, pair.reference[name]),
            bound=by.bound,
        )
        for name in names
    }


def _repeats(output: np.ndarray) -> int:
    """How often to measure noise: elements of one output err together, more so in small ones."""
    return 8 if output.size >= 30 else 10


def _largest(runs: Iterable[Mapping[str, Any]], name: str, origin: np.ndarray) -> float:
    """How far the runs' output `name` gets from `origin`: an rms where finite, or flips."""
    largest = 0.0
    for outputs in runs:
        other = flatten(outputs).get(name)
        if other is None or other.shape != origin.shape:
            continue
        if not is_float(other):
            largest = max(largest, float(np.sum(other != origin)))
            continue
        with np.errstate(invalid="ignore"):
            distance = other.astype(np.float64) - origin.astype(np.float64)
        largest = max(largest, rms(distance[np.isfinite(distance)]))
    return largest
