"""How a pair of models is run: on which provider, and with what onnxruntime may do to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery import runtime
from normsurgery.providers import CPU, CUDA, short_name

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """One way to run a model.

    The defaults are those of a verdict: nothing is rewritten, and products keep all their bits.
    """

    provider: str = CPU
    optimize: bool = False
    tf32: bool = False

    def start(self, path: Path, threads: int | None = None) -> Any:
        """A session of the model at `path`. Raises what ``runtime.session`` raises."""
        return runtime.session(
            path,
            providers=(self.provider,),
            optimize=self.optimize,
            threads=threads,
            tf32=self.tf32,
        )

    def label(self) -> str:
        """Such as ``onnxruntime CPU 1.32``, with what differs from a verdict's setup."""
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
