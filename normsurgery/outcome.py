"""What a verb that changes a model gives back, besides its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery import io, models

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Outcome:
    """A changed model, in memory as a skeleton, and the form that its source came in."""

    content: io.Model
    form: models.Form

    @property
    def model(self) -> Any:
        """The model in the form that the source came in; a ModelProto for a path."""
        return models.give_back(self.content, self.form)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        external: bool | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> Path | None:
        """Save the model; return the external data file beside it, if there is one.

        Arguments and errors are those of ``normsurgery.io.save``.
        """
        return io.save(self.content, path, force=force, external=external, check=check)
