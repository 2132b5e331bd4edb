"""Loop: what each iteration gives is stacked.

``onnx.reference`` joins matrices along their first axis where the specification adds one, makes
columns of numbers, and takes an absent condition for a false one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.reference.op_run import OpRun

from normsurgery.validation.budget import NoOracleError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Loop(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Loop.html."""

    op_domain = ""
    body: Any  # the base class sets both
    _run_body: Any

    def need_context(self) -> bool:
        """The body reads values of the graphs around it."""
        return True

    def _run(
        self,
        most: np.ndarray | None,
        going: np.ndarray | None = None,
        *carried: Any,
        context: Mapping[str, Any] | None = None,
        attributes: dict[str, Any] | None = None,
        **_: Any,
    ) -> tuple[Any, ...]:
        names, states = list(self.body.input_names), list(carried)
        given: list[list[np.ndarray]] = [[] for _ in self.body.output_names[1 + len(states) :]]
        seen = dict(context or {})
        count = 0
        while (most is None or count < np.max(most)) and (going is None or np.all(going)):
            number = np.array(count, np.int64)
            seen |= dict(zip(names, (number, np.array(True), *states), strict=True))
            going, *results = self._run_body(seen, attributes=attributes)
            states = results[: len(states)]
            for kept, value in zip(given, results[len(states) :], strict=True):
                kept.append(value)
            count += 1
        if given and not count:
            raise NoOracleError("a Loop without iterations gives nothing to stack")
        return (*states, *(np.stack(kept) for kept in given))
