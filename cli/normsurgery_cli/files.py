"""Standard input and output as model files, and the names of outputs."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM = "-"


def output_name(source: str, output: str | None, verb_past: str) -> str:
    """Return where the result goes: ``model.folded.onnx`` beside the input, - for a stream."""
    if output is not None:
        return output
    if source == STREAM:
        return STREAM
    path = Path(source)
    if not path.name:
        path /= "model.onnx"
    suffix = path.suffix or ".onnx"
    return str(path.with_name(f"{path.name.removesuffix(path.suffix)}.{verb_past}{suffix}"))


def checked_output(
    source: str, output: str | None, verb_past: str, *, force: bool, dry_run: bool, taken: bool
) -> str:
    """Return where the result goes, once it is sure that it can go there.

    taken: standard output is for something else, or one stream cannot hold what is asked for.
    Raises what ``normsurgery.io.check_output`` raises, unless nothing is written (``dry_run``).
    """
    from normsurgery import io

    target = output_name(source, output, verb_past)
    if target == STREAM and taken:
        raise click.UsageError("standard output holds the model: give --output FILE as well.")
    if not dry_run and target != STREAM:
        io.check_output(Path(target), force=force)
    return target


@contextlib.contextmanager
def source_file(source: str) -> Iterator[Path]:
    """Yield the path of the input; standard input goes to a temporary file first.

    Errors do not name that file: nobody would find it.
    """
    if source != STREAM:
        yield Path(source)
        return
    from normsurgery.errors import NormSurgeryError

    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder) / "stdin.onnx"
        with path.open("wb") as target:
            shutil.copyfileobj(sys.stdin.buffer, target, 1 << 20)
        try:
            yield path
        except NormSurgeryError as error:
            told = str(error).replace(str(path), "standard input").replace(f"{folder}/", "")
            error.args = (told, *error.args[1:])
            raise


@contextlib.contextmanager
def target_file(output: str) -> Iterator[Path]:
    """Yield the path to write; what is at it afterwards goes to standard output for ``-``."""
    if output != STREAM:
        yield Path(output)
        return
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder) / "stdout.onnx"
        yield path
        with path.open("rb") as finished:
            shutil.copyfileobj(finished, sys.stdout.buffer, 1 << 20)
        sys.stdout.flush()


def write_page(path: str, page: str, *, force: bool) -> None:
    """Write an HTML report, whole or not at all.

    Raises ``OutputExistsError`` without ``force``, ``ModelIOError`` where writing fails.
    """
    from normsurgery import atomic, io
    from normsurgery.errors import ModelIOError

    target = Path(path)
    io.check_output(target, force=force)
    try:
        with atomic.temporary(target) as (name, file):
            file.write(page.encode("utf-8", "replace"))
            atomic.commit(file, name, target)
    except OSError as error:
        raise ModelIOError(f"cannot write {path}: {error.strerror or error}") from error
