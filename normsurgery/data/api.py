"""``read``: a path becomes rows of feeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.data import arrays, images
from normsurgery.data.pixels import Pixels, fit
from normsurgery.errors import MissingDataError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from normsurgery.data.inputs import Input
    from normsurgery.data.rows import Rows

    Index = slice | NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """N samples, read when asked for.

    rows: what is stored, by input name. labels: (N, …) where there are some, else None.
    classes: the names of the classes of an image folder, in the order of their labels.
    """

    inputs: tuple[Input, ...]
    rows: Mapping[str, Rows]
    pixels: Pixels
    labels: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()
    limit: int | None = None

    def __len__(self) -> int:
        """Number of samples N."""
        count = min(len(rows) for rows in self.rows.values())
        return count if self.limit is None else min(count, self.limit)

    @property
    def batch(self) -> int | None:
        """The size of batch that the model asks for at one of its inputs, if it does."""
        return next((one.batch for one in self.inputs if one.batch is not None), None)

    def spread(self, most: int | None) -> NDArray[np.int64]:
        """Return the positions of at most so many samples, evenly spread: data are often sorted.

        most: None for all. Where the model asks for a size of batch, a part of all of them fills
        whole ones.
        """
        count = len(self) if most is None else min(most, len(self))
        if self.batch is not None and 0 < count < len(self):
            count = min(max(count // self.batch, 1) * self.batch, len(self))
        return np.arange(count) * len(self) // max(count, 1)

    def feeds(self, index: Index) -> dict[str, NDArray[Any]]:
        """Return the samples at ``index`` (a slice, or int64 positions), by input name."""
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        return {one.name: fit(self.rows[one.name][index], one, self.pixels) for one in self.inputs}

    def targets(self, index: Index) -> NDArray[Any]:
        """Return the labels at ``index``. Raises ``UsageError`` if the data have none."""
        if self.labels is None:
            raise UsageError("the data have no labels; store them beside, numbers, as `labels`")
        return np.asarray(self.labels[: len(self)][index])

    def batches(
        self, size: int, first: int = 0, last: int | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield samples ``first`` up to ``last`` in order, ``size`` at a time, the last one less.

        Raises ``UsageError`` where ``size`` is not above 0.
        """
        if size < 1:
            raise UsageError(f"a batch of {size} samples holds nothing; give a size of 1 or more")
        last = len(self) if last is None else min(last, len(self))
        for at in range(first, last, size):
            yield self.feeds(slice(at, min(at + size, last)))


def read(
    path: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    pixels: Pixels | None = None,
    size: tuple[int, int] | None = None,
    names: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Data:
    """Return the data at ``path`` for a model's ``inputs``.

    path: an ``.npz`` file; ``file.npz:train`` for its arrays that begin with ``train_``; a folder
    of ``.npy`` files, one an input with all samples, or one a sample; a folder of images, in
    folders by class if they have labels.
    pixels: mean and std; 8-bit images are divided by 255 first.
    size: height and width that images are resized to, where the input does not fix them.
    names: stored array by input name, where they differ; the key ``labels`` names the labels.
    limit: use the first so many samples.

    Arrays are matched by name; the only input of a model also takes what is called images, x, data
    or inputs, or the only array that is no label.

    Raises ``MissingDataError`` if there is nothing, ``UsageError`` where it does not fit the model,
    ``MissingPackageError`` for images without Pillow.
    """
    if not inputs:
        raise UsageError("the model has no inputs to feed data to")
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} samples leaves nothing; give 1 or more")
    known = {"labels", *(one.name for one in inputs)}
    stray = next((name for name in names or {} if name not in known), None)
    if stray is not None:
        raise UsageError(
            f"the model has no input {stray!r} to take an array for; "
            f"it has {', '.join(one.name for one in inputs)}"
        )
    pixels = _pixels(pixels)
    where, prefix = split_prefix(path)
    if where.is_dir() and not prefix and not any(where.glob("*.npy")):
        rows, labels, classes = images.read(where, inputs, size)
        found: dict[str, Rows] = {inputs[0].name: rows}
    else:
        classes = ()
        found, labels = arrays.read(where, prefix, inputs, names or {})
    _refuse_scalars(found)
    lengths = {name: len(rows) for name, rows in found.items()}
    if labels is not None:
        if not labels.ndim:
            raise UsageError(f"{path}: the labels are one value; store one for each sample")
        lengths["labels"] = len(labels)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise UsageError(f"{path}: the arrays differ in their number of samples: {listed}")
    if not min(lengths.values()):
        raise UsageError(f"{path} has no samples")
    data = Data(tuple(inputs), found, pixels, labels, classes, limit)
    data.feeds(slice(0, 1))  # a wrong shape is said now, not after the first hour
    return data


def take(
    given: str | os.PathLike[str] | Data | Mapping[str, Any],
    inputs: Sequence[Input],
    *,
    pixels: Pixels | None = None,
    limit: int | None = None,
) -> Data:
    """Return data in any form that a verb takes: a path, ``Data``, or arrays by input name.

    inputs, pixels, limit, errors: as for ``read``; ``Data`` keeps its own pixels.
    """
    if isinstance(given, Data):
        return given if limit is None else replace(given, limit=limit)
    if isinstance(given, (str, Path)) or hasattr(given, "__fspath__"):
        return read(given, inputs, pixels=pixels, limit=limit)
    if not hasattr(given, "keys"):
        raise UsageError(
            f"data are a path, Data or arrays by input name, not {type(given).__name__}"
        )
    absent = [one.name for one in inputs if one.name not in given]
    if absent:
        raise UsageError(f"the data have nothing for input {absent[0]!r}; they have {list(given)}")
    rows = {one.name: np.asarray(given[one.name]) for one in inputs}
    _refuse_scalars(rows)
    if len({len(one) for one in rows.values()}) != 1 or not min(map(len, rows.values())):
        raise UsageError("the inputs' arrays must have the same number of samples, 1 or more")
    data = Data(tuple(inputs), rows, _pixels(pixels), limit=limit)
    data.feeds(slice(0, 1))
    return data


def _pixels(given: Any) -> Pixels:
    """Return what was given for images, or what leaves them as they are."""
    if given is not None and not isinstance(given, Pixels):
        raise UsageError(
            f"pixels are `normsurgery.data.Pixels(mean, std)`, not {type(given).__name__}"
        )
    return given or Pixels()


def _refuse_scalars(rows: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for an array without samples, such as a flag."""
    for name, one in rows.items():
        if isinstance(one, np.ndarray) and not one.ndim:
            raise UsageError(
                f"the data for input {name!r} are one number, without samples; "
                f"`normsurgery fold --fix {name}=FILE` makes such an input a constant"
            )


def split_prefix(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the path and the prefix of ``path:prefix``.

    Raises ``MissingDataError`` if nothing is there.
    """
    whole = Path(path)
    if whole.exists():
        return whole, ""
    before, colon, prefix = str(path).rpartition(":")
    if colon and prefix and not {"/", "\\"} & set(prefix) and Path(before).exists():
        return Path(before), prefix
    raise MissingDataError(f"{path}: no such data; give an .npz file or a folder")
