"""The two yardsticks applied to one input set: the float64 oracle, and the noise floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from normsurgery.validation import noise
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import Comparison, against_noise, against_oracle, is_float, rms
from normsurgery.validation.sets import flatten

TrueOutputs = Callable[[str, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Yardsticks:
    """What the outputs of one reference are held against.

    Attributes:
        truth: the float64 outputs of an input set, by its label and feeds; raises
            ``NoOracleError``.
        changed: makes so many changed copies of the reference, if they are called for.
        bound: the ratio that still passes.
        unit: the unit roundoff of the coarsest float type inside the reference.
        measured: how far the changed copies get, by input set, yardstick and output: they are
            run once.

    """

    truth: TrueOutputs
    changed: Callable[[int], noise.Doubles]
    bound: float
    unit: float = 0.0
    measured: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """One input set, and what both models made of it.

    Attributes:
        label: of the set. feeds: its inputs.
        names: the outputs that both models have.
        reference, candidate: what they gave.
        lost: outputs that failed on an earlier set: no second opinion can save them.

    """

    label: str
    feeds: Mapping[str, np.ndarray]
    names: Sequence[str]
    reference: Mapping[str, np.ndarray]
    candidate: Mapping[str, np.ndarray]
    lost: frozenset[str] = frozenset()


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
        return 0.0 if name in pair.lost else _distances(by, pair, "float64", truth).get(name, 0.0)

    return against_oracle(
        pair.reference[name],
        pair.candidate[name],
        truth[name],
        bound=by.bound,
        second_opinion=moved,
        unit=by.unit,
    )


def by_noise(by: Yardsticks, pair: Pair, names: Sequence[str]) -> dict[str, Comparison]:
    """Compare the outputs `names` with the reference's rounding noise."""
    found = _distances(by, pair, "noise floor", pair.reference)
    return {
        name: against_noise(
            pair.reference[name], pair.candidate[name], noise=found.get(name, 0.0), bound=by.bound
        )
        for name in names
    }


def _distances(
    by: Yardsticks, pair: Pair, yardstick: str, origin: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """How far the changed copies of the reference get from `origin`, by output."""
    key = pair.label, yardstick
    if key not in by.measured:
        repeats = max((_repeats(pair.reference[name]) for name in pair.names), default=1)
        found = dict.fromkeys(pair.names, 0.0)
        for outputs in noise.runs(by.changed(repeats), pair.feeds, repeats=repeats):
            flat = flatten(outputs)
            for name in found:
                if name in flat and name in origin:
                    found[name] = max(found[name], _distance(flat[name], origin[name]))
        by.measured[key] = found
    return by.measured[key]


def _repeats(output: np.ndarray) -> int:
    """How often to measure noise: elements of one output err together, more so in small ones."""
    return 8 if output.size >= 30 else 10


def _distance(output: np.ndarray, origin: np.ndarray) -> float:
    """The rms of the difference where finite, or the number of flips; 0 for another shape."""
    if output.shape != origin.shape:
        return 0.0
    if not is_float(output):
        return float(np.sum(output != origin))
    with np.errstate(invalid="ignore"):
        distance = output.astype(np.float64) - origin.astype(np.float64)
    return rms(distance[np.isfinite(distance)])
