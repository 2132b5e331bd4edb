"""The child's side: run what was asked for, within its cap, and not beyond the parent's end."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import pickle
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from normsurgery.errors import NormSurgeryError
from normsurgery.isolation.transfer import dump, load

if TYPE_CHECKING:
    from normsurgery.isolation.steps import Step


def main() -> NoReturn:
    """Be the child that ``children.spawn`` started."""
    serve(Path(sys.argv[1]), int(sys.argv[2]))


def serve(folder: Path, parent: int) -> NoReturn:
    """Run what ``call`` asked for; steps go to standard output."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()  # the parent says in one line what this process died of
    _die_with(parent)
    tempfile.tempdir = str(folder)  # the parent removes it, whatever becomes of this process
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # the channel is for steps; whatever a library prints goes to the log
    memory, function, arguments = load(folder, "request")
    _cap(memory)

    def progress(step: Step) -> None:
        channel.write(json.dumps(asdict(step)) + "\n")

    outcome: tuple[Any, BaseException | None]
    try:
        outcome = function(**arguments, progress=progress), None
    except Exception as error:  # noqa: BLE001  # told to the parent, which raises it
        outcome = None, _portable(error)
    dump(outcome, folder, "result")
    channel.flush()
    os._exit(0)


def _portable(error: Exception) -> Exception:
    """The error itself, if it survives pickling, and where it came from as a note."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001  # an exception class decides what it needs
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, NormSurgeryError):
        import traceback

        error.add_note("in the child process:\n" + "".join(traceback.format_exc()))
    return error


def _cap(memory: int) -> None:
    """Cap what this process may allocate; writable private memory alone counts.

    An address space limit would count what is only reserved: arenas, and CUDA's whole device.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard != resource.RLIM_INFINITY:
            memory = min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, where the kernel can (Linux)."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.name == "posix" and os.getppid() != parent:
        os._exit(1)
