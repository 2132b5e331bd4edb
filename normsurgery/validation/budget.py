"""How much a float64 run may cost before it is given up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx.reference.op_run import OpRun

DEFAULT_MULTIPLY_ADDS = 10**10
"""20 GFLOP: ResNet-50 takes 4.1e9 multiply-adds at 224², VGG-16 15.5e9."""


class NoOracleError(Exception):
    """There is no float64 result, and why. Private to `normsurgery.validation`: it selects the
    fallback and never reaches the user as an error.

    costly: it would take too long, and might not with smaller inputs.
    """

    costly = False


class _TooCostlyError(NoOracleError):
    costly = True


@dataclass
class Budget:
    """Multiply-adds and seconds that one run of a model may take.

    Multiply-adds are counted before they are done, so that one giant convolution is refused
    and not waited for. Seconds are looked at between nodes: they catch slow operators whose
    cost is not counted.
    """

    multiply_adds: float = DEFAULT_MULTIPLY_ADDS
    seconds: float = 60.0
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def restart(self) -> None:
        """Begin a new run with everything unspent."""
        self.spent = 0.0
        self.started = time.monotonic()

    def spend(self, multiply_adds: float) -> None:
        """Count `multiply_adds` that are about to be done.

        Raises:
            NoOracleError: with them the run is over its limit.

        """
        self.spent += multiply_adds
        if self.spent > self.multiply_adds:
            limit = f"{2 * self.multiply_adds / 1e9:g} GFLOP"
            raise _TooCostlyError(f"a float64 run takes more than {limit} for one input set")
        if time.monotonic() - self.started > self.seconds:
            raise _TooCostlyError(f"a float64 run takes more than {self.seconds:g} s")


def spend(operator: OpRun, multiply_adds: float) -> None:
    """Count the cost of `operator`, if it runs under a budget at all."""
    budget = operator.run_params.get("budget")
    if budget is not None:
        budget.spend(multiply_adds)
