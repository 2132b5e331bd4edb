"""Starting a child process: a fresh interpreter, or a fork of this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from typing import IO, TYPE_CHECKING, Protocol

from normsurgery.isolation.serving import serve

if TYPE_CHECKING:
    from pathlib import Path

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[3]); "
    "from normsurgery.isolation.serving import main; main()"
)


class Child(Protocol):
    """What is asked of a child process, as ``subprocess.Popen`` has it."""

    stdout: IO[bytes] | None
    returncode: int | None

    def kill(self) -> None:
        """End it, unless it has ended."""

    def wait(self) -> int:
        """Wait for its end; return its status."""


def spawn(folder: Path) -> Child:
    """Start a fresh interpreter."""
    # -P: a json.py in the folder that somebody stands in is not to run
    command = [
        *(sys.executable, "-P", "-c", _BOOT),
        *(str(folder), str(os.getpid()), json.dumps(sys.path)),
    ]
    with (folder / "stderr").open("wb") as said:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        )


class _Forked:
    """A forked child, as far as ``Child`` asks."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout
        self.returncode: int | None = None

    def kill(self) -> None:
        """Kill it, unless it is known to be gone."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for it and return its status: minus the signal, if it was one."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def fork(folder: Path) -> Child:
    """Copy this process."""
    parent = os.getpid()
    reads, writes = os.pipe()
    said = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT, 0o600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # BLAS has threads, and handles forks
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reads)
            os.dup2(writes, 1)
            os.dup2(said, 2)
            sys.stdout = os.fdopen(os.dup(2), "w")  # what is buffered in the old ones is not ours
            sys.stderr = os.fdopen(os.dup(2), "w")
            serve(folder, parent)
        finally:
            os._exit(1)
    os.close(writes)
    os.close(said)
    return _Forked(pid, os.fdopen(reads, "rb"))
