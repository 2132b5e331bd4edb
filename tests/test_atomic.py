from __future__ import annotations

import os
from pathlib import Path

import pytest

from normsurgery import atomic


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def write(path: Path) -> None:
    with atomic.temporary(path) as (name, file):
        file.write(b"new")
        atomic.commit(file, name, path)


def test_committed_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with atomic.temporary(path) as (name, file):
        assert name.parent == tmp_path
        file.write(b"new")
        assert path.read_bytes() == b"old"
        atomic.commit(file, name, path)
        assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"out"}


def test_no_commit_no_change(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with atomic.temporary(path) as (_, file):
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_errors_leave_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with atomic.temporary(tmp_path / "out") as (_, file):
            file.write(b"new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_failed_commit_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "out"
    before = os.umask(mask)
    try:
        with atomic.temporary(path) as (name, file):
            atomic.commit(file, name, path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("name", ["重" * 84, "x" * 255, "a b\n.onnx"])
def test_long_and_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with atomic.temporary(path) as (temporary, file):
        atomic.commit(file, temporary, path)
    assert names(tmp_path) == {name}


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.temporary(tmp_path / "nothing" / "out"):
        pass


def test_identity(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert atomic.identity(path) is None
    seen = set()
    for _ in range(3):
        with atomic.temporary(path) as (name, file):
            file.write(b"same")
            atomic.commit(file, name, path)
        seen.add(atomic.identity(path))
        assert atomic.identity(path) in seen
    assert len(seen) == 3
