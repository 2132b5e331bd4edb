"""Input sets for a comparison, made one at a time, and what comes out, as flat arrays."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.errors import NormSurgeryError
from normsurgery.validation.inputs import KINDS, generate
from normsurgery.validation.shapes import fit, resolve, smaller
from normsurgery.validation.specs import InputSpec, is_index, specs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx

    Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class InputSet:
    """A set that is made when `make` is called: the same one at every call."""

    label: str
    make: Callable[[], Feeds]


def input_sets(
    model: onnx.ModelProto,
    attempt: Callable[[dict[str, np.ndarray]], object],
    count: int,
    seed: int,
    *,
    batch: int = 2,
    feeds: Sequence[Feeds] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[InputSet]:
    """`count` sets of different distributions, or the caller's own `feeds`.

    Every second set has a batch of `batch`, where the batch is dynamic and the model takes it: a
    wrong broadcast over axis 0 shows only then. The next round of all kinds swaps the two, so
    that each kind comes in both, and has other sizes where they are dynamic: a size that somebody
    took for fixed shows only then.

    Raises:
        NormSurgeryError: the model runs with none of the shapes that were tried.
        UsageError: no inputs can be made, or `shapes` does not fit.

    """
    if feeds is not None:
        for index, given in enumerate(feeds):
            yield InputSet(_label(f"given {index}", given), functools.partial(dict, given))
        return
    wanted = specs(model)
    single = _shapes(wanted, attempt, 1, shapes)
    double = single
    if count > 1 and any(spec.shape and isinstance(spec.shape[0], str) for spec in wanted):
        try:
            double = _shapes(wanted, attempt, batch, shapes)
        except NormSurgeryError:
            double = single
    pairs = [(single, double), (single, double)]
    if count > len(KINDS):
        small = _smaller(wanted, attempt, single, 1, shapes)
        same = double == single
        pairs[1] = small, small if same else _smaller(wanted, attempt, double, batch, shapes)
    measured = _measured(wanted, attempt, single)
    for index in range(count):
        swapped = (index + index // len(KINDS)) % 2
        chosen = pairs[index // len(KINDS) % 2][swapped]
        kind = KINDS[index % len(KINDS)]
        make = functools.partial(_generate, wanted, chosen, kind, seed + index, measured)
        described = ", ".join(f"{name} {shape}" for name, shape in chosen.items())
        yield InputSet(f"{kind}, seed {seed + index}, {described}", make)


def flatten(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Named arrays out of whatever a model gives: elements of sequences and maps get names."""
    return dict(_flat(outputs.items()))


def _flat(items: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in items:
        if isinstance(value, dict):
            yield from _flat((f"{name}[{key!r}]", inner) for key, inner in value.items())
        elif isinstance(value, list):
            if _is_table(value):  # a classifier's map per sample: one array per key
                columns = {key: np.asarray([row[key] for row in value]) for key in value[0]}
                yield from _flat((f"{name}[{key!r}]", column) for key, column in columns.items())
            else:
                yield from _flat((f"{name}[{index}]", one) for index, one in enumerate(value))
        else:
            yield name, np.asarray(value)


def _is_table(values: list[Any]) -> bool:
    """Whether these are maps of the same keys to single numbers."""
    return (
        bool(values)
        and all(isinstance(one, dict) and one.keys() == values[0].keys() for one in values)
        and all(np.ndim(cell) == 0 and cell is not None for one in values for cell in one.values())
    )


def _shapes(
    wanted: Sequence[InputSpec],
    attempt: Callable[[dict[str, np.ndarray]], object],
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None,
) -> dict[str, tuple[int, ...]]:
    if all(isinstance(dim, int) for spec in wanted for dim in spec.shape):
        return resolve(wanted, shapes=shapes)

    def attempt_in(chosen: Mapping[str, tuple[int, ...]]) -> object:
        return attempt(generate(wanted, chosen, "normal", np.random.default_rng(0)))

    return fit(wanted, attempt_in, batch=batch, shapes=shapes)


def _smaller(
    wanted: Sequence[InputSpec],
    attempt: Callable[[dict[str, np.ndarray]], object],
    found: dict[str, tuple[int, ...]],
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None,
) -> dict[str, tuple[int, ...]]:
    if all(isinstance(dim, int) for spec in wanted for dim in spec.shape[1:]):
        return found

    def attempt_in(chosen: Mapping[str, tuple[int, ...]]) -> object:
        return attempt(generate(wanted, chosen, "normal", np.random.default_rng(0)))

    return smaller(wanted, attempt_in, found, batch=batch, shapes=shapes)


def _measured(
    wanted: Sequence[InputSpec],
    attempt: Callable[[dict[str, np.ndarray]], object],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[str, int]]:
    """Which inputs tell the lengths of a batch's sequences: of which other input, along which axis.

    One integer per element of the batch, none of them an index. It is a length if the model runs
    with the size of an axis of another input of that batch; 1 would leave all but one step unseen.
    """
    found: dict[str, tuple[str, int]] = {}
    for spec in wanted:
        batch = spec.shape[0] if len(spec.shape) == 1 else 0
        if not isinstance(batch, str) or spec.rows is not None or not is_index(spec.elem_type):
            continue
        others = [one for one in wanted if len(one.shape) > 1 and one.shape[0] == batch]
        for name, axis in {(one.name, axis): None for one in others for axis in (1, -1)}:
            tried = found | {spec.name: (name, axis)}
            try:
                attempt(_generate(wanted, shapes, "normal", 0, tried))
            except NormSurgeryError:
                continue
            found = tried
            break
    return found


def _generate(
    wanted: Sequence[InputSpec],
    shapes: Mapping[str, tuple[int, ...]],
    kind: str,
    seed: int,
    measured: Mapping[str, tuple[str, int]],
) -> dict[str, np.ndarray]:
    lengths = {name: shapes[of][axis] for name, (of, axis) in measured.items()}
    return generate(wanted, shapes, kind, np.random.default_rng(seed), lengths)


def _label(title: str, feeds: Feeds) -> str:
    return ", ".join([title, *(f"{name} {np.shape(array)}" for name, array in feeds.items())])
