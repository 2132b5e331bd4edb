"""Running the command line inside this process, as the console script does."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from normsurgery_cli import main


@dataclass(frozen=True)
class Outcome:
    status: int
    out: bytes
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Return a function that runs ``normsurgery`` with arguments and standard input."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["normsurgery", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        status = main.run()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Outcome(status, out, err.decode())

    return run
