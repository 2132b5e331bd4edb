"""Run a function in a child process that may crash, hang or explode without harm to this one.

onnxruntime is C++, and a model decides what it does: a broken one can end the process, never
end, or ask for all memory there is. So sessions run in a child with a cap on what it allocates
and a limit on how long one step takes; what it dies of is one ``CrashError`` here. Arrays go there
and back as raw bytes in a mapped file, not through a pipe. A child never outlives its parent.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from normsurgery.errors import CrashError, NormSurgeryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ALIGNMENT = 64
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[3]); "
    "from normsurgery.isolation import serve; serve()"
)


@dataclass(frozen=True)
class Step:
    """What the child is about to do.

    text: for people, such as ``running the candidate``. model: ``reference`` or ``candidate``,
    where one of them would be to blame for a crash. done, total: how far the whole is.
    """

    text: str
    model: str = ""
    done: int = 0
    total: int = 0


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
) -> Any:
    """Return ``function(**arguments, progress=…)``, computed in a child process.

    function: importable by its name; it gets a ``progress`` of its own, and should call it with
    a ``Step`` before everything that may take long or crash.
    progress: called here with each of those steps.

    Arrays in a result lie in a private mapping of a file. Raises what the function raises, and
    ``CrashError`` if the child dies, takes too long for a step or too much memory; its ``step``
    says at what.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="normsurgery-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        memory = free_memory() * 9 // 10 if limits.memory is None else limits.memory
        _dump((memory, function, dict(arguments)), folder, "request")
        with (folder / "stderr").open("wb") as said:
            command = [sys.executable, "-c", _BOOT, name, str(os.getpid()), json.dumps(sys.path)]
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
        with _ended(child):
            step = _follow(child, limits, progress)
        if child.returncode != 0:
            raise _crash(child.returncode, step, memory, folder / "stderr")
        value, error = _load(folder, "result")
    if isinstance(error, MemoryError):
        raise _out_of_memory(step, memory)
    if error is not None:
        raise error
    return value


def free_memory() -> int:
    """Bytes that can still be allocated on this machine, or in this container; 2⁶² if unknown."""
    found = [1 << 62]
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


def serve() -> None:
    """Be the child: run what ``call`` asked for. Never returns."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    _die_with(parent)
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # the channel is for steps; whatever a library prints goes to the log
    memory, function, arguments = _load(folder, "request")
    _cap(memory)

    def progress(step: Step) -> None:
        channel.write(json.dumps(asdict(step)) + "\n")

    outcome: tuple[Any, BaseException | None]
    try:
        outcome = function(**arguments, progress=progress), None
    except Exception as error:  # noqa: BLE001  # told to the parent, which raises it
        outcome = None, _portable(error)
    _dump(outcome, folder, "result")
    channel.flush()
    os._exit(0)


def _follow(
    child: subprocess.Popen[bytes], limits: Limits, progress: Callable[[Step], None] | None
) -> Step | None:
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
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """However the block is left, the child is gone afterwards."""
    try:
        yield
    finally:
        child.kill()
        child.wait()


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


def _dump(value: Any, folder: Path, name: str) -> None:
    """Write `value`: its arrays as raw bytes in one file, and what is left of it in another."""
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    places = []
    with (folder / f"{name}.arrays").open("wb") as file:
        for buffer in buffers:
            file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            with buffer.raw() as raw:
                places.append((file.tell(), raw.nbytes))
                file.write(raw)
    with (folder / name).open("wb") as file:
        pickle.dump((rest, places), file)


def _load(folder: Path, name: str) -> Any:
    """Read what ``_dump`` wrote in this folder; only ever used on a folder made by ``call``."""
    with (folder / name).open("rb") as file:
        rest, places = pickle.load(file)  # noqa: S301
    whole = memoryview(b"")
    path = folder / f"{name}.arrays"
    if path.stat().st_size:
        with path.open("rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    buffers = [whole[first : first + size] for first, size in places]
    return pickle.loads(rest, buffers=buffers)  # noqa: S301


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
