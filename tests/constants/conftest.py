"""Operators on their own, without the graph's checks in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def short_of_inputs() -> Iterator[None]:
    """Let nodes without their inputs through to the operators, which may rely on no check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normsurgery.graph.lacks", lambda *_: None)
        yield
