"""What a model costs to run: time and memory under onnxruntime on the CPU."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from normsurgery import io, runtime
from normsurgery.isolation import Step, call
from normsurgery.validation.sets import input_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from normsurgery.data import Data

ROUNDS = 15
SECONDS = 2.0  # for all rounds of one model, about


@dataclass(frozen=True)
class Cost:
    """milliseconds: of one run, the median. megabytes: what loading and running adds at its peak.

    megabytes is None where the system does not tell.
    """

    milliseconds: float
    megabytes: float | None


def cost(model: Path, feeds: Mapping[str, NDArray[Any]], threads: int | None = None) -> Cost:
    """Return the cost of one run of ``feeds``, optimizations on, in a process of its own.

    Raises ``CrashError`` where that dies, ``InvalidModelError`` where the model does not run.
    """
    arguments = {"model": model, "feeds": dict(feeds), "threads": threads}
    found: Cost = call(run_in_child, arguments)
    return found


def compare(
    before: io.Model, after: io.Model, data: Data | None, threads: int | None
) -> tuple[Cost, Cost]:
    """Return the cost of both models for one batch: of the data, or seeded where there are none.

    Raises what ``cost`` raises, and ``UsageError`` where no inputs can be made.
    """
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        paths = [Path(folder) / name for name in ("before.onnx", "after.onnx")]
        for path, model in zip(paths, (before, after), strict=True):
            io.save(model, path)
        if data is not None:
            feeds: Mapping[str, NDArray[Any]] = data.feeds(slice(0, data.batch or 1))
        else:
            session = runtime.session(paths[0], threads=threads)
            sets = input_sets(before.proto, lambda one: runtime.run(session, one), 1, 0, batch=1)
            feeds = next(iter(sets)).make()
        first, second = (cost(path, feeds, threads) for path in paths)
        return first, second


def run_in_child(
    model: Path,
    feeds: Mapping[str, NDArray[Any]],
    threads: int | None,
    progress: Callable[[Step], None],
) -> Cost:
    """Measure in this process: ``cost`` calls it in a child."""
    runtime.version()  # the library itself is no cost of the model
    progress(Step("measuring the cost", "candidate"))
    before = _peak()
    session = runtime.session(model, optimize=True, threads=threads)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < ROUNDS and (len(times) < 3 or time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        runtime.run(session, feeds)
        times.append(time.perf_counter() - start)
    after = _peak()
    memory = None if before is None or after is None else (after - before) / 1e6
    return Cost(median(times[1:]) * 1e3, memory)


def _peak() -> float | None:
    """Return the largest resident memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
