"""What the caller of ``validate`` gave, in the form in which it is worked with."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery import arguments, io, models
from normsurgery.data import Data, inputs_of, read
from normsurgery.errors import UsageError
from normsurgery.providers import full_name
from normsurgery.tensors import tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from normsurgery.data import Pixels

    Feeds = Mapping[str, np.ndarray]


def providers(wanted: Sequence[str]) -> tuple[str, ...]:
    """Their full names, each once. Raises ``UsageError`` for one that is unknown, and for none."""
    if isinstance(wanted, str):
        wanted = wanted.split(",")
    arguments.patterns({"providers": wanted}, "names")
    names = tuple(dict.fromkeys(full_name(name.strip()) for name in wanted))
    if not names:
        raise UsageError("no provider to run on; give cpu, cuda or both")
    return names


@contextlib.contextmanager
def file(model: Any, role: str) -> Iterator[tuple[io.Model, Path]]:
    """The model, loaded and checked, and a file of it that a runtime can open."""
    content, _ = models.take(model)
    if isinstance(model, (str, os.PathLike)) and (found := _readable(content, Path(model))):
        yield content, found
        return
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder, f"{role}.onnx")
        io.save(content, path)
        yield content, path


def _readable(content: io.Model, path: Path) -> Path | None:
    """The path under which onnxruntime and onnx find the external data too; None if there is none.

    A link is looked through by none of the two: data lie beside it, or beside what it points to.
    """
    if not content.external or not path.is_symlink():
        return path
    names = {
        entry.value
        for tensor in tensors_in(content.proto)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    real = path.resolve()
    return real if all((real.parent / name).is_file() for name in names) else None


def title(model: Any) -> str:
    """Its path, or what kind of object it is."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    return type(model).__name__


def feeds(
    model: io.Model,
    data: Any,
    pixels: Pixels | None,
    arrays: Mapping[str, str] | None,
    samples: int,
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None,
) -> tuple[Sequence[Feeds] | None, np.ndarray | None]:
    """The input sets that the caller gave, and the labels of their samples."""
    if data is None:
        return None, None
    if isinstance(data, (str, os.PathLike)):
        wanted = inputs_of(model.proto)
        shape = tuple((shapes or {}).get(wanted[0].name, ())) if wanted else ()
        size = None
        if len(shape) == 4:
            size = (shape[1], shape[2]) if shape[3] in {1, 3, 4} else (shape[2], shape[3])
        data = read(data, wanted, pixels=pixels, size=size, names=arrays, limit=samples)
    if not isinstance(data, Data):
        return _input_sets(data), None
    fixed = next((one.batch for one in data.inputs if one.batch is not None), None)
    last = there = min(samples, len(data))
    step = batch if fixed is None else fixed
    if fixed is not None or step < last:  # no smaller batch at the end
        last -= last % step
    found = list(data.batches(step, last=last))
    if not found:
        raise UsageError(f"{there} samples do not make one batch of {step}; give more --samples")
    return found, None if data.labels is None else data.targets(slice(0, last))


def _input_sets(data: Any) -> list[Feeds]:
    """The mappings of a sequence. Raises ``UsageError`` for anything else."""
    if isinstance(data, Mapping):
        raise UsageError("data are several input sets: put the mapping into a list")
    found = list(data) if isinstance(data, Iterable) else [data]
    if not all(isinstance(one, Mapping) for one in found):
        raise UsageError("data are a path, Data or a list of mappings, one of arrays for each set")
    return found
