from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from normsurgery.errors import ModelIOError
from normsurgery.source import ClosedFile, OpenFile, Source


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")


def test_memory() -> None:
    source = Source(memoryview(b"abc"))
    assert (source.size, bytes(source.view)) == (3, b"abc")
    with source.file() as file:
        assert file is None


def test_an_open_file_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    source = OpenFile(path.open("rb", buffering=0), path)
    path.unlink()
    assert bytes(source.view) == b"abc"
    with source.file() as file:
        assert file is not None
        assert os.pread(file.fileno(), 2, 1) == b"bc"


def test_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.touch()
    assert OpenFile(path.open("rb", buffering=0), path).size == 0
    closed = ClosedFile(lambda: path.open("rb", buffering=0), 0)
    assert bytes(closed.view) == b""


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    with pytest.raises(ModelIOError, match="cannot read"):
        OpenFile(path.open("ab", buffering=0), path)  # not open for reading
    with pytest.raises(ModelIOError, match="cannot read"):
        _ = ClosedFile(lambda: path.open("ab", buffering=0), 3).view


@needs_proc
def test_a_closed_file_is_open_while_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(8)))
    before = open_files()
    source = ClosedFile(lambda: path.open("rb", buffering=0), 8)
    assert open_files() == before
    array = np.frombuffer(source.view[2:6], np.uint8)
    assert array.tolist() == [2, 3, 4, 5]
    assert source.view.obj is source.view.obj, "mapped once"
    assert open_files() == before + 1
    with source.file() as file:
        assert file is not None
    del array
    assert open_files() == before
    assert source.view[7] == 7
