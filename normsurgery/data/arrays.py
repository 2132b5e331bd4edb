"""Arrays of an ``.npz`` file, or of a folder of ``.npy`` files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.data.rows import Files
from normsurgery.errors import ModelIOError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from normsurgery.data.inputs import Input
    from normsurgery.data.rows import Rows

USUAL = ("images", "x", "X", "data", "inputs", "input")
LABELS = ("labels", "label", "y", "targets", "target")


def read(
    path: Path, prefix: str, inputs: Sequence[Input], names: Mapping[str, str]
) -> tuple[dict[str, Rows], NDArray[Any] | None]:
    """Return rows by input name, and the labels if there are some.

    Raises ``UsageError`` where no array, or more than one, may be meant for an input.
    """
    if path.is_dir():
        stored = _folder(path, inputs, names)
    elif path.suffix == ".npy":
        stored = {inputs[0].name: _load(path)}
    else:
        stored = _npz(path)
    if prefix:
        cut = {k.removeprefix(f"{prefix}_"): v for k, v in stored.items() if k != prefix}
        stored = {k: v for k, v in cut.items() if f"{prefix}_{k}" in stored}
    if not stored:
        raise UsageError(
            f"{path} has no arrays" + (f" that begin with {prefix}_" if prefix else "")
        )
    fed = {one.name for one in inputs}
    label = names.get("labels") or next((k for k in LABELS if k in stored and k not in fed), None)
    if label is not None and label not in stored:
        raise UsageError(f"{path} has no array {label!r} for the labels; it has {_list(stored)}")
    rows = {one.name: _choose(path, one, len(inputs) == 1, stored, names, label) for one in inputs}
    labels = None if label is None else np.asarray(stored[label])
    if labels is not None and labels.dtype.kind not in "biuf":  # names of classes
        if "labels" in names:
            raise UsageError(f"{path}: the labels {label!r} are {labels.dtype}; store numbers")
        labels = None
    return rows, labels


def _choose(
    path: Path,
    wanted: Input,
    single: bool,
    stored: Mapping[str, Any],
    names: Mapping[str, str],
    label: str | None,
) -> Any:
    asked = names.get(wanted.name)
    if asked is not None and asked not in stored:
        raise UsageError(
            f"{path} has no array {asked!r} for input {wanted.name!r}; it has {_list(stored)}"
        )
    candidates = [asked] if asked is not None else [wanted.name]
    if single and asked is None:
        rest = [key for key in stored if key != label]
        candidates += [*USUAL, *(rest if len(rest) == 1 else [])]
    found = next((key for key in candidates if key in stored), None)
    if found is None:
        raise UsageError(
            f"{path} has no array for input {wanted.name!r}; it has {_list(stored)}: "
            f"rename one, or say which with --array {wanted.name}=NAME"
        )
    return stored[found]


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if isinstance(archive, np.lib.npyio.NpzFile):
                stored = {key: archive[key] for key in archive.files}
                return {key: one for key, one in stored.items() if isinstance(one, np.ndarray)}
    except Exception as error:  # noqa: BLE001  zipfile, zlib and NumPy raise what they like
        raise ModelIOError(f"cannot read {path} as .npz: {error}") from None
    raise ModelIOError(f"{path} is no .npz file; give one, or a folder")


def _folder(path: Path, inputs: Sequence[Input], names: Mapping[str, str]) -> dict[str, Any]:
    files = {one.stem: one for one in sorted(path.glob("*.npy"))}
    asked = {names.get(one.name, one.name) for one in inputs}
    if asked <= files.keys():
        return {key: _load(one) for key, one in files.items()}
    if len(inputs) > 1:
        raise UsageError(
            f"{path} needs one .npy file an input; it lacks {_list(asked - files.keys())}"
        )
    usual = next((key for key in USUAL if key in files), None)
    if usual is not None and inputs[0].name not in names:
        whole = _load(files[usual])
        if whole.ndim == len(inputs[0].shape):  # all samples, not one
            return {key: _load(one) for key, one in files.items()}
    labels = {key: _load(files.pop(key)) for key in LABELS if key in files}
    return {inputs[0].name: Files(tuple(files.values()), _load), **labels}


def _load(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001  NumPy's parser of headers raises what it likes
        raise ModelIOError(f"cannot read {path} as .npy: {error}") from None
    return found


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
