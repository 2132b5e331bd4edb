"""How a pair of models is run: on which provider, and with what onnxruntime may do to them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery import runtime
from normsurgery.errors import InvalidModelError
from normsurgery.providers import CPU, CUDA, short_name
from normsurgery.validation import oracle
from normsurgery.validation.budget import NoOracleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np

FLOAT64 = "float64"
"""In place of a provider: the float64 operators of the oracle, for what onnxruntime cannot run."""


@dataclass(frozen=True)
class Running:
    """A model that was started.

    Attributes:
        names: of its outputs.
        run: takes inputs by name and gives outputs by name; raises ``NormSurgeryError``.
        session: of onnxruntime, if it is one.

    """

    names: tuple[str, ...]
    run: Callable[[Mapping[str, np.ndarray]], dict[str, Any]]
    session: Any = None


@dataclass(frozen=True)
class Setup:
    """One way to run a model.

    The defaults are those of a verdict: nothing is rewritten, and products keep all their bits.
    """

    provider: str = CPU
    optimize: bool = False
    tf32: bool = False

    def start(self, path: Path, threads: int | None = None) -> Running:
        """Start the model at `path`. Raises what ``runtime.session`` raises."""
        if self.provider == FLOAT64:
            return _in_float64(path)
        session = runtime.session(
            path,
            providers=(self.provider,),
            optimize=self.optimize,
            threads=threads,
            tf32=self.tf32,
        )
        names = tuple(output.name for output in session.get_outputs())
        return Running(names, functools.partial(runtime.run, session), session)

    def label(self) -> str:
        """Such as ``onnxruntime CPU 1.32``, with what differs from a verdict's setup."""
        if self.provider == FLOAT64:
            return "float64 evaluation"
        short = ".".join(runtime.version().split(".")[:2])
        extras = [", optimized"] * self.optimize + [", TF32"] * self.tf32
        return f"onnxruntime {short_name(self.provider)} {short}{''.join(extras)}"


def setups(provider: str, *, optimized: bool = True) -> tuple[Setup, ...]:
    """The verdict's setup first, and those whose ratios are shown beside it.

    With optimizations; and on CUDA once more with TF32 too, which is how onnxruntime starts there.
    """
    found = [Setup(provider)]
    if optimized:
        found.append(Setup(provider, optimize=True))
        if provider == CUDA:
            found.append(Setup(provider, optimize=True, tf32=True))
    return tuple(found)


def _in_float64(path: Path) -> Running:
    try:
        made = oracle.load(path)
    except NoOracleError as failure:
        raise InvalidModelError(f"{path}: {failure}") from failure

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        try:
            return oracle.run(made, feeds)
        except NoOracleError as failure:
            raise InvalidModelError(str(failure)) from failure

    return Running(tuple(made.evaluator.output_names), run)
