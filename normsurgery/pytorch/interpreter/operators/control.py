"""If, Loop and Scan: bodies are programs of their own, and read values of the graph around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from normsurgery.pytorch.interpreter.program import Context
from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from normsurgery.pytorch.interpreter.call import Call

_NATIVE = Context()


@operator("If")
def if_(call: Call) -> Kernel:
    """Run one of two bodies."""
    bodies = []
    for name in ("then_branch", "else_branch"):
        found = call.attribute(name)
        if found is None:
            raise call.refuse(f"it has no {name}")
        bodies.append(call.build(found.g))
    (then, then_reads), (other, other_reads) = bodies
    cut = len(then_reads)

    def run(context: Context, condition: torch.Tensor, *around: Any) -> Any:
        if bool(condition):
            return then.call(context, _NATIVE, list(around[:cut]), [])
        return other.call(context, _NATIVE, list(around[cut:]), [])

    return Kernel(run, context=True, several=True, captured=(*then_reads, *other_reads))


@operator("Loop")
def loop(call: Call) -> Kernel:
    """Run a body until its condition fails or the count is reached.

    Values that it carries come first among inputs and outputs; what it gives at each turn is
    stacked along a new first axis.
    """
    found = call.attribute("body")
    if found is None:
        raise call.refuse("it has no body")
    body, reads = call.build(found.g)
    carried = max(len(call.operands) - 2, 0)

    def run(context: Context, count: Any, condition: Any, *values: Any) -> Any:
        state, around = list(values[:carried]), list(values[carried:])
        most = None if count is None else int(count)
        going = True if condition is None else bool(condition)
        turn = 0
        scans: list[list[Any]] = [[] for _ in found.g.output[1 + carried :]]
        while going and (most is None or turn < most):
            index = torch.tensor(turn, device=context.device)
            goes_on = torch.tensor(True, device=context.device)
            more, *made = body.call(context, _NATIVE, around, [index, goes_on, *state])
            going, state = bool(more), made[:carried]
            for scan, one in zip(scans, made[carried:], strict=True):
                scan.append(one)
            turn += 1
        return (*state, *(_stacked(scan, context) for scan in scans))

    slots = (0, 1, *range(2, 2 + carried))
    return Kernel(run, slots, context=True, several=True, captured=tuple(reads))


def _stacked(scan: list[Any], context: Context) -> torch.Tensor:
    if not scan:
        return torch.empty(0, dtype=context.real(torch.float32), device=context.device)
    return torch.stack(scan)


@operator("Scan")
def scan(call: Call) -> Kernel:
    """Run a body over slices of its inputs, and stack what it gives."""
    found = call.attribute("body")
    if found is None or call.opset < 9:
        raise call.refuse("Scan of opset 8 is not known")
    body, reads = call.build(found.g)
    inputs = call.integer("num_scan_inputs", 1)
    states = len(call.operands) - inputs
    given = len(found.g.output) - states
    in_axes = call.ints("scan_input_axes") or [0] * inputs
    out_axes = call.ints("scan_output_axes") or [0] * given
    in_back = call.ints("scan_input_directions") or [0] * inputs
    out_back = call.ints("scan_output_directions") or [0] * given

    def run(context: Context, *values: Any) -> Any:
        state, slices = list(values[:states]), values[states : states + inputs]
        around = list(values[states + inputs :])
        parts = [
            x.flip(axis).unbind(axis) if back else x.unbind(axis)
            for x, axis, back in zip(slices, in_axes, in_back, strict=True)
        ]
        made: list[list[Any]] = [[] for _ in range(given)]
        for turn in zip(*parts, strict=True):
            results = body.call(context, _NATIVE, around, [*state, *turn])
            state = results[:states]
            for one, result in zip(made, results[states:], strict=True):
                one.append(result)
        stacked = (
            torch.stack(one[::-1] if back else one, axis)
            for one, axis, back in zip(made, out_axes, out_back, strict=True)
        )
        return (*state, *stacked)

    return Kernel(run, context=True, several=True, captured=tuple(reads))
