"""The operators that a constant may be computed by, and how one of them is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery.constants import arithmetic, making, moving
from normsurgery.constants.calls import Call, UnsupportedError, Value

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE: dict[str, Callable[[Call], Value]] = {
    **making.TABLE,
    **moving.TABLE,
    **arithmetic.TABLE,
}


def evaluate(call: Call) -> Value:
    """Return the first output of a node; raise ``TooLargeError`` or ``UnsupportedError``."""
    try:
        with np.errstate(all="ignore"):
            return TABLE[call.node.op_type](call)
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise UnsupportedError(str(error) or type(error).__name__) from error
