"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
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
    name = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(name, flags, 0o666), "w+b", buffering=1 << 20)
    try:
        yield name, file
    finally:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(FileNotFoundError):
            name.unlink()


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
