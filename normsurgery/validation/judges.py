"""The two yardsticks applied to one input set: the float64 oracle, and the noise floor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.errors import NormSurgeryError
from normsurgery.validation import noise
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import against_noise, against_oracle
from normsurgery.validation.distances import distance, is_float, masks_differ, rms
from normsurgery.validation.opinions import AGAIN
from normsurgery.validation.sets import flatten
from normsurgery.validation.ulps import one_ulp

if TYPE_CHECKING:
    from normsurgery.validation.comparison import Comparison
    from normsurgery.validation.opinions import Kind, Opinion

TrueOutputs = Callable[[str, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Spread:
    """How far changed copies of the reference get on one input set.

    Attributes:
        more: the outputs of copies that were not asked yet.
        by_kind: the largest so far, by kind and output.

    """

    more: Iterator[Mapping[str, Any]]
    by_kind: dict[Kind, dict[str, float]] = field(default_factory=lambda: {"error": {}, "mask": {}})


@dataclass(frozen=True)
class Yardsticks:
    """What the outputs of one reference are held against.

    Attributes:
        truth: the float64 outputs of an input set, by its label and feeds; raises
            ``NoOracleError``.
        changed: makes so many changed copies of the reference, if they are called for.
        further: the outputs of more of them on an input set, made one by one.
        bound: the ratio that still passes.
        unit: the unit roundoff of the coarsest float type inside the reference.
        measured: how far the changed copies get, by input set and yardstick: each is run once.

    """

    truth: TrueOutputs
    changed: Callable[[int], noise.Doubles]
    further: Callable[[Mapping[str, np.ndarray]], Iterator[Mapping[str, Any]]]
    bound: float
    unit: float = 0.0
    measured: dict[tuple[str, str], Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """One input set, and what both models made of it.

    Attributes:
        label: of the set. feeds: its inputs.
        names: the outputs that both models have.
        reference, candidate: what they gave.
        run_reference, run_candidate: what they make of other inputs.
        lost: outputs that failed on an earlier set: no second opinion can save them.

    """

    label: str
    feeds: Mapping[str, np.ndarray]
    names: Sequence[str]
    reference: Mapping[str, np.ndarray]
    candidate: Mapping[str, np.ndarray]
    run_reference: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
    run_candidate: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
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
    hopeless = name in pair.lost
    return against_oracle(
        pair.reference[name],
        pair.candidate[name],
        truth[name],
        bound=by.bound,
        opinions=() if hopeless else _opinions(by, pair, name, "float64", truth),
        again=None if hopeless else functools.partial(_again, by, pair, name, exact=True),
        unit=by.unit,
    )


def by_noise(by: Yardsticks, pair: Pair, names: Sequence[str]) -> dict[str, Comparison]:
    """Compare the outputs `names` with the reference's rounding noise."""
    found = {}
    for name in names:
        first, more = _opinions(by, pair, name, "noise floor", pair.reference)
        hopeless = name in pair.lost
        found[name] = against_noise(
            pair.reference[name],
            pair.candidate[name],
            bound=by.bound,
            opinions=(first,) if hopeless else (first, more),
            again=None if hopeless else functools.partial(_again, by, pair, name, exact=False),
        )
    return found


def _again(by: Yardsticks, pair: Pair, name: str, *, exact: bool) -> float:
    """The candidate's error on inputs an ulp away: from the truth of each, or the reference's."""
    errors = []
    rng = np.random.default_rng(0)
    for number in range(AGAIN):
        feeds = {key: one_ulp(np.asarray(array), rng) for key, array in pair.feeds.items()}
        try:
            if exact:
                origin = by.truth(f"{pair.label}, moved {number}", feeds)
            else:
                origin = flatten(pair.run_reference(feeds))
            candidate = flatten(pair.run_candidate(feeds))
        except (NormSurgeryError, NoOracleError):
            return inf
        errors.append(distance(candidate[name], origin[name]))
    return rms(np.array(errors))


def _opinions(
    by: Yardsticks, pair: Pair, name: str, yardstick: str, origin: Mapping[str, np.ndarray]
) -> tuple[Opinion, Opinion]:
    """The first round of changed copies, the same for all sets, and more of them one by one."""

    def spread() -> Spread:
        key = pair.label, yardstick
        if key not in by.measured:
            by.measured[key] = _first(by, pair, origin)
        return by.measured[key]

    def first(kind: Kind, _enough: float) -> float:
        return spread().by_kind[kind].get(name, 0.0)

    def more(kind: Kind, enough: float) -> float:
        found = spread().by_kind[kind]
        while found.get(name, 0.0) < enough:
            outputs = next(spread().more, None)
            if outputs is None:
                break
            _widen(spread(), pair, origin, outputs)
        return found.get(name, 0.0)

    return first, more


def _first(by: Yardsticks, pair: Pair, origin: Mapping[str, np.ndarray]) -> Spread:
    spread = Spread(iter(by.further(pair.feeds)))
    repeats = max((_repeats(pair.reference[name]) for name in pair.names), default=1)
    for outputs in noise.runs(by.changed(repeats), pair.feeds, repeats=repeats):
        _widen(spread, pair, origin, outputs)
    return spread


def _widen(
    spread: Spread,
    pair: Pair,
    origin: Mapping[str, np.ndarray],
    outputs: Mapping[str, Any],
) -> None:
    """Add what one changed copy gave."""
    flat = flatten(outputs)
    errors, masks = spread.by_kind["error"], spread.by_kind["mask"]
    for name in pair.names:
        if name not in flat:
            continue
        output, reference = flat[name], pair.reference[name]
        if name in origin:
            errors[name] = max(errors.get(name, 0.0), distance(output, origin[name]))
        if is_float(reference):
            masks[name] = max(masks.get(name, 0.0), float(masks_differ(output, reference)))


def _repeats(output: np.ndarray) -> int:
    """How often to measure noise: elements of one output err together, more so in small ones."""
    return 8 if output.size >= 30 else 10
