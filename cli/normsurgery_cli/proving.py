"""Saving a model whose function must not have changed: parity is judged before it has its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from normsurgery.validation import Parity


class Savable(Protocol):
    """The result of a verb that writes a model."""

    def save(
        self,
        path: str | Path,
        *,
        force: bool = False,
        external: bool | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> Path | None:
        """Save the model."""


def save(
    result: Savable,
    source: Path,
    path: Path,
    *,
    force: bool,
    external: bool | None,
    no_validate: bool,
    keep: bool,
) -> Parity | str:
    """Save, checking parity with ``source`` on the finished file before it takes its name.

    Returns the verdict, or why there is none. Raises ``ParityError`` if it failed, unless ``keep``;
    an output that nothing could be said of (it is 0 everywhere, say) is no failure.
    """
    from normsurgery import runtime
    from normsurgery.errors import NormSurgeryError, ParityError

    if no_validate:
        result.save(path, force=force, external=external)
        return "not run (--no-validate)"
    if not runtime.available():
        result.save(path, force=force, external=external)
        return "not run: onnxruntime is not installed (pip install onnxruntime)"
    outcome: list[Parity | str] = []

    def check(candidate: Path) -> None:
        from normsurgery.validation import check as parity

        try:
            found = parity(source, candidate, fork=True)  # nothing else is at work in this process
        except NormSurgeryError as error:  # of the source: what the candidate does is a verdict
            outcome.append(f"not run: {error}")
            return
        outcome.append(found)
        if found.status == "failed" and not keep:
            raise ParityError(f"{found.line()}; no output was written (--keep keeps it)")

    result.save(path, force=force, external=external, check=check)
    return outcome[0]


def tell_kept(parity: Parity | str) -> None:
    """Raise ``ParityError`` for an output that failed and was kept, once its report is printed."""
    from normsurgery.errors import ParityError

    if not isinstance(parity, str) and parity.status == "failed":
        raise ParityError(f"{parity.line()}; the output was kept all the same (--keep)")
