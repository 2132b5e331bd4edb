"""Run a command as a process of its own and measure it from outside. POSIX; memory: Linux."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

INTERVAL = 0.002  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Run:
    """What one process took. Seconds; megabytes of 10⁶ bytes, 0 if not sampled.

    anonymous: highest sampled RssAnon + RssShmem, memory that no file backs.
    resident: the kernel's own high-water mark VmHWM, pages of mapped files included. (ru_maxrss
    would not do: it starts from the high-water mark of the process that forked.)
    """

    wall: float
    cpu: float
    anonymous: float = 0.0
    resident: float = 0.0


class FailedError(Exception):
    """The command exited with an error; the message is its last line."""


def run(command: list[str], *, sample: bool = False) -> Run:
    """Run ``command``; with ``sample`` also watch its memory, which costs it some time.

    Everything that waits to be written is flushed to disk first, so that no command pays for the
    output of the one before it.
    """
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    memory = _watch(process.pid) if sample else (0.0, 0.0)
    text = _last_line(process.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise FailedError(f"exit {process.returncode}: {text}")
    return Run(wall, usage.ru_utime + usage.ru_stime, *memory)


def _last_line(stream: IO[bytes] | None) -> str:
    """Read standard error to its end, which is when the process ends."""
    lines = stream.read().decode(errors="replace").strip().splitlines() if stream else []
    return lines[-1] if lines else ""


def _watch(pid: int) -> tuple[float, float]:
    """Return the peaks of a running process's anonymous and resident memory, in megabytes."""
    anonymous = resident = 0
    while True:
        now = _status(pid)
        if "VmHWM" not in now:  # it has ended
            return anonymous * 1024 / 1e6, resident * 1024 / 1e6
        anonymous = max(anonymous, now["RssAnon"] + now["RssShmem"])
        resident = now["VmHWM"]
        time.sleep(INTERVAL)


def _status(pid: int) -> dict[str, int]:
    """Return the figures in KiB of /proc/PID/status (proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {x.split(":")[0]: int(x.split()[1]) for x in lines if x.endswith(" kB")}
