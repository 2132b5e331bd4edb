"""Statistics of a share of the data in a file, to be merged by whoever has all of them.

Any scheduler will do: each job measures a shard of the same data, or data of its own, and one
merges. A shard is made of whole parts (``normsurgery.blocks``), so the merged statistics have the
bits of one process that measures everything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery import atomic, io
from normsurgery.errors import MissingDataError, ModelIOError, UsageError
from normsurgery.moments import Moments, merge_all

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from normsurgery.recalibration.sums import Parts

FORMAT = "normsurgery partial statistics 1"


@dataclass(frozen=True)
class Origin:
    """What statistics must have in common to be merged.

    model: SHA-256 of the model file. outputs: of the norms, in order. samples, batch_size, parts:
    of the whole data that the shard is of.
    """

    model: str
    mode: str
    outputs: tuple[str, ...]
    samples: int
    batch_size: int
    parts: int


@dataclass(frozen=True)
class Partial:
    """Moments of the inputs of a model's norms over some parts of some data.

    parts: by number, moments by the norm's output. name: what messages call it.
    """

    origin: Origin
    parts: Parts = field(repr=False)
    name: str = "statistics"

    @property
    def is_whole(self) -> bool:
        """Whether it is of all parts of its data."""
        return len(self.parts) == self.origin.parts

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write an ``.npz`` file, whole or not at all. Raises what ``normsurgery.io.save`` does."""
        path = Path(path)
        io.check_output(path, force=force)
        header = {"format": FORMAT, **asdict(self.origin), "numbers": sorted(self.parts)}
        arrays: dict[str, Any] = {"header": np.array(json.dumps(header))}
        for i, output in enumerate(self.origin.outputs):
            rows = [self.parts[number][output] for number in sorted(self.parts)]
            arrays[f"{i}_count"] = np.array([one.count for one in rows], np.int64)
            arrays[f"{i}_mean"] = np.array([one.mean for one in rows])
            arrays[f"{i}_M2"] = np.array([one.M2 for one in rows])
        try:
            with atomic.temporary(path) as (name, file):
                np.savez(file, **arrays)
                atomic.commit(file, name, path)
        except OSError as error:
            raise ModelIOError(f"cannot write {path}: {error.strerror or error}") from error


def load(path: str | os.PathLike[str]) -> Partial:
    """Return what ``Partial.save`` wrote.

    Raises ``MissingDataError`` if nothing is there, ``UsageError`` if it is something else.
    """
    if not Path(path).is_file():
        raise MissingDataError(f"{path}: no such file of partial statistics")
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            if header.pop("format") != FORMAT:
                raise UsageError(f"{path} is of another version of normsurgery; measure it again")
            numbers = [int(one) for one in header.pop("numbers")]
            origin = Origin(**{**header, "outputs": tuple(header["outputs"])})
            columns = [
                [archive[f"{i}_{key}"] for key in ("count", "mean", "M2")]
                for i in range(len(origin.outputs))
            ]
        parts: Parts = {}
        for row, number in enumerate(numbers):
            parts[number] = {
                output: Moments.from_arrays({"count": c[row], "mean": mean[row], "M2": M2[row]})
                for output, (c, mean, M2) in zip(origin.outputs, columns, strict=True)
            }
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  zipfile, NumPy and JSON raise what they like
        raise UsageError(f"{path} holds no partial statistics: {error}") from None
    return Partial(origin, parts, str(path))


def merged(partials: Sequence[Partial]) -> tuple[dict[str, Moments], int]:
    """Return the moments of everything by output, and the number of samples.

    Either the shards of one set of data, every part once; or whole sets of data. Raises
    ``UsageError`` for statistics that do not belong together, and for a part that is missing or
    there twice.
    """
    if not partials:
        raise UsageError("there are no partial statistics to merge")
    first = partials[0]
    for one in partials[1:]:
        for key in ("model", "mode", "outputs", "batch_size"):
            if getattr(one.origin, key) != getattr(first.origin, key):
                what = {"model": "models", "outputs": "norms"}.get(key, key.replace("_", " ") + "s")
                raise UsageError(f"{first.name} and {one.name} are of different {what}")
    if all(one.is_whole for one in partials):
        _refuse_copies(partials)
        chain = [one.parts[number] for one in partials for number in sorted(one.parts)]
        samples = sum(one.origin.samples for one in partials)
    else:
        chain, samples = _in_order(partials), first.origin.samples
    outputs = first.origin.outputs
    return {name: merge_all(part[name] for part in chain) for name in outputs}, samples


def _refuse_copies(partials: Sequence[Partial]) -> None:
    seen: dict[bytes, str] = {}
    for one in partials:
        rows = [one.parts[n][name] for n in sorted(one.parts) for name in one.origin.outputs]
        content = b"".join(row.mean.tobytes() + row.M2.tobytes() for row in rows)
        if content in seen:
            raise UsageError(f"{seen[content]} and {one.name} are statistics of the same data")
        seen[content] = one.name


def _in_order(partials: Sequence[Partial]) -> list[dict[str, Moments]]:
    """Return all parts of one set of data, in their order."""
    origin = partials[0].origin
    found: dict[int, tuple[Partial, dict[str, Moments]]] = {}
    for one in partials:
        if (one.origin.samples, one.origin.parts) != (origin.samples, origin.parts):
            raise UsageError(
                f"{partials[0].name} is a shard of {origin.samples} samples, {one.name} of "
                f"{one.origin.samples}; merge shards of the same data, or whole sets"
            )
        for number, moments in one.parts.items():
            if number in found:
                other = found[number][0].name
                raise UsageError(f"part {number} is in {other} and in {one.name}: leave one out")
            found[number] = (one, moments)
    missing = sorted(set(range(origin.parts)) - found.keys())
    if missing:
        raise UsageError(
            f"part {missing[0]} of {origin.parts} is in none of the files ({len(missing)} are "
            "missing): a shard was not merged"
        )
    return [found[number][1] for number in range(origin.parts)]
