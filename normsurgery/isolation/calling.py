"""The parent's side: start a child, follow its steps, and say in one line what it died of.

onnxruntime is C++, and a model decides what it does: a broken one can end the process, never
end, or ask for all memory there is. So sessions run in a child with a cap on what it allocates
and a limit on how long one step takes; what it dies of is one ``CrashError`` here. A child never
outlives its parent.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from normsurgery.errors import CrashError
from normsurgery.isolation import children
from normsurgery.isolation.steps import Step
from normsurgery.isolation.transfer import dump, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from normsurgery.isolation.children import Child


NO_CAP = 1 << 62
"""Bytes of a cap that caps nothing."""


@dataclass(frozen=True)
class Limits:
    """What the child may take.

    seconds: for one step, None for ever. memory: bytes that it may allocate beyond its program;
    None for nine tenths of what the machine, or the container, has free.
    """

    seconds: float | None = 300.0
    memory: int | None = None


def call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    limits: Limits | None = None,
    progress: Callable[[Step], None] | None = None,
    fork: bool = False,
) -> Any:
    """Return ``function(**arguments, progress=…)``, computed in a child process.

    function: importable by its name; it gets a ``progress`` of its own, and should call it with
    a ``Step`` before everything that may take long or crash.
    progress: called here with each of those steps.
    fork: fork this process, which saves the child its imports, 0.25 s. The caller vouches that no
    other thread is at work here. Where onnxruntime or torch was imported, which have threads of
    their own that a fork does not copy, and anywhere but on Linux, it is not done.

    Arrays in a result lie in a private mapping of a file. Raises what the function raises, and
    ``CrashError`` if the child dies, takes too long for a step or too much memory; its ``step``
    says at what.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="normsurgery-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        memory = free_memory() * 9 // 10 if limits.memory is None else limits.memory
        dump((memory, function, dict(arguments)), folder, "request")
        child = children.fork(folder) if fork and _may_fork() else children.spawn(folder)
        with _ended(child):
            step = _follow(child, limits, progress)
            status = child.wait()
        if status != 0:
            raise _crash(status, step, memory, folder / "stderr")
        value, error = load(folder, "result")
    if isinstance(error, MemoryError):
        raise _out_of_memory(step, memory)
    if error is not None:
        raise error
    return value


def _may_fork() -> bool:
    return sys.platform == "linux" and not {"onnxruntime", "torch"} & sys.modules.keys()


def free_memory() -> int:
    """Bytes that can still be allocated on this machine, or in this container; 2⁶² if unknown."""
    found = [NO_CAP]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            values = [int(Path(path).read_text(encoding="ascii")) for path in (limit, used)]
            found.append(max(values[0] - values[1], 0))
    return min(found)


def _follow(child: Child, limits: Limits, progress: Callable[[Step], None] | None) -> Step | None:
    """Wait for the child's end; return its last step."""
    assert child.stdout is not None  # noqa: S101  # it is a pipe
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    step = None
    while True:
        try:
            line = lines.get(timeout=limits.seconds)
        except queue.Empty:
            text = f"{limits.seconds:g} s were not enough for {_doing(step)}; allow more time"
            raise CrashError(text, step) from None
        if line is None:
            child.wait()
            return step
        step = Step(**json.loads(line))
        if progress is not None:
            progress(step)


def _read(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put(None)


@contextlib.contextmanager
def _ended(child: Child) -> Iterator[None]:
    """However the block is left, the child is gone afterwards."""
    try:
        yield
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _crash(status: int, step: Step | None, memory: int, log: Path) -> CrashError:
    """The error for a child that ended with `status`: minus the signal, if it was one."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f": {lines[-1][:200]}" if lines else ""
    if "bad_alloc" in last or "MemoryError" in last:
        return _out_of_memory(step, memory)
    if status < 0:
        with contextlib.suppress(ValueError):
            return CrashError(
                f"the process ended with {signal.Signals(-status).name} in {_doing(step)}{last}",
                step,
            )
    return CrashError(f"the process ended with status {status} in {_doing(step)}{last}", step)


def _out_of_memory(step: Step | None, memory: int) -> CrashError:
    return CrashError(
        f"{memory / 1e9:.3g} GB of memory were not enough for {_doing(step)}; allow more memory",
        step,
    )


def _doing(step: Step | None) -> str:
    return step.text if step is not None else "starting"
