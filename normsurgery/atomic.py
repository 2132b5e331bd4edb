"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield a new file in ``path``'s folder, that ``commit`` may turn into ``path``.

    Whatever ends the block without a commit, an interrupt included, removes it and leaves ``path``
    as it was. Permissions follow the umask. Raises ``OSError``.
    """
    # 50 characters are at most 200 bytes: the whole stays under the 255 that a name may have
    name = path.with_name(f".{path.name[:50]}.{os.urandom(6).hex()}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with contextlib.ExitStack() as last:
        last.callback(_remove, name)
        file = os.fdopen(
            os.open(name, flags, 0o666), "w+b", buffering=1 << 14
        )  # blocks are larger: no copy
        last.callback(_close, file)
        yield name, file


def commit(file: BinaryIO, name: Path, path: Path) -> None:
    """Make the finished temporary file ``name`` durable and rename it to ``path``."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    name.replace(path)
    with contextlib.suppress(OSError):  # not every system can open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def identity(path: Path) -> tuple[int, ...] | None:
    """Return what changes whenever ``commit`` puts another file at ``path``; None if none is."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns)


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # a full disk: what was buffered is lost, as it should be
        file.close()


def _remove(name: Path) -> None:
    with contextlib.suppress(OSError):
        name.unlink()
