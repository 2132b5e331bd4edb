"""The plan of a conversion: one entry a norm, to be read, edited and read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from normsurgery import atomic, norms
from normsurgery.conversion.start import DEFAULT, EPSILON, GAUGES
from normsurgery.errors import ModelIOError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

Affine = Literal["auto", "fold", "keep", "none"]
AFFINES: tuple[Affine, ...] = get_args(Affine)
KEEP = "keep"
MOST_EPSILON = 1e6  # nothing is normalized with more, and float32, which it is stored in, ends


@dataclass(frozen=True)
class Layer:
    """What becomes of one norm.

    output: the value that it makes, by which it is found again; node, channels: for the reader.
    to: a target, or *keep*. groups: of the C channels. gauge, epsilon: see ``conversion.start``.
    affine: the map in front is folded into the layers behind it (*auto*, *fold*), stays as a frozen
    BatchNormalization (*keep*, and *auto* where no layer can take it), or is left out (*none*, and
    *fold* where no layer can take it): then scale and bias of the norm do what they can.
    note: why it is kept, or what had to give; not read back.
    """

    output: str
    node: str
    channels: int
    to: str
    groups: int = 1
    gauge: str = DEFAULT
    epsilon: float = EPSILON
    affine: str = "auto"
    encoding: str = "auto"
    note: str = ""

    def checked(self) -> Layer:
        """Return the entry. Raises ``UsageError`` where a value is none that it may have."""
        targets = norms.load()
        where = f"the plan's entry for `{self.output}`: " if self.output else ""
        allowed = {"to": (*targets, KEEP), "gauge": GAUGES, "affine": AFFINES}
        if self.to in targets:
            allowed["encoding"] = ("auto", *targets[self.to].encodings)
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                listed = ", ".join(values)
                raise UsageError(f"{where}{name} {getattr(self, name)!r} is none of {listed}")
        if self.groups < 1 or (self.to in targets and self.channels % self.groups):
            raise UsageError(f"{where}{self.channels} channels do not make {self.groups} groups")
        if not 0 <= self.epsilon <= MOST_EPSILON:
            raise UsageError(
                f"{where}epsilon {self.epsilon} is no number from 0 to {MOST_EPSILON:g}: "
                "it is of an input of unit variance"
            )
        return self


_TYPES = {"str": (str,), "int": (int,), "float": (int, float)}


def write(path: str | os.PathLike[str], layers: Sequence[Layer]) -> None:
    """Write the plan as JSON, whole or not at all. Raises ``ModelIOError``."""
    text = json.dumps({"convert": [asdict(layer) for layer in layers]}, indent=2)
    target = Path(path)
    try:
        with atomic.temporary(target) as (name, file):
            file.write(f"{text}\n".encode())
            atomic.commit(file, name, target)
    except OSError as error:
        raise ModelIOError(f"cannot write {path}: {error.strerror or error}") from error


def read(path: str | os.PathLike[str]) -> list[Layer]:
    """Return the entries of a plan file.

    Raises ``ModelIOError`` if it cannot be read, ``UsageError`` if it is no plan: unknown keys,
    values of a wrong type or outside what they may be, two entries for one norm.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ModelIOError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict) or set(found) != {"convert"}:
        raise UsageError(f"{path} is no plan: one key `convert` with a list of norms is due")
    entries = found["convert"]
    if not isinstance(entries, list):
        raise UsageError(f"{path} is no plan: `convert` holds no list")
    layers = [_entry(f"{path}, entry {i}", one).checked() for i, one in enumerate(entries, 1)]
    outputs = [layer.output for layer in layers]
    twice = next((name for name in outputs if outputs.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path} has two entries for `{twice}`; leave one")
    return layers


def _entry(where: str, entry: Any) -> Layer:
    known = {field.name: field for field in fields(Layer)}
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no object")
    for key, value in entry.items():
        if key not in known:
            raise UsageError(f"{where} has the unknown key {key!r}; it may have {', '.join(known)}")
        kinds = _TYPES[str(known[key].type)]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UsageError(f"{where}: {key} is {value!r}, not of type {known[key].type}")
    missing = {"output", "node", "channels", "to"} - entry.keys()
    if missing:
        raise UsageError(f"{where} lacks {', '.join(sorted(missing))}")
    return Layer(**entry)
