"""Values from one process to another: arrays as raw bytes in a file that the other one maps."""

from __future__ import annotations

import mmap
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_ALIGNMENT = 64


def dump(value: Any, folder: Path, name: str) -> None:
    """Write `value`: its arrays as raw bytes in one file, and what is left of it in another."""
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    places = []
    with (folder / f"{name}.arrays").open("wb") as file:
        for buffer in buffers:
            file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            with buffer.raw() as raw:
                places.append((file.tell(), raw.nbytes))
                file.write(raw)
    with (folder / name).open("wb") as file:
        pickle.dump((rest, places), file)


def load(folder: Path, name: str) -> Any:
    """Read what ``dump`` wrote in this folder; only ever used on a folder made by ``call``."""
    with (folder / name).open("rb") as file:
        rest, places = pickle.load(file)  # noqa: S301
    whole = memoryview(b"")
    path = folder / f"{name}.arrays"
    if path.stat().st_size:
        with path.open("rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    buffers = [whole[first : first + size] for first, size in places]
    return pickle.loads(rest, buffers=buffers)  # noqa: S301
