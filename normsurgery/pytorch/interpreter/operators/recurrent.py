"""LSTM, GRU and RNN, by torch's own layers' function where the form is the usual one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call

State = tuple[torch.Tensor, ...]
_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu,
}  # fmt: skip


class Cell:
    """The attributes of a recurrent node, and one step of it.

    A step takes the input's share of the gates (batch, gates · hidden) of this time, the state,
    R (gates · hidden, hidden) and its bias, and gives the new state, whose first part is H.
    """

    def __init__(self, call: Call, gates: int, functions: list[str], states: int) -> None:
        """Read the attributes."""
        self.hidden = call.integer("hidden_size", 0)
        self.direction = call.choice("direction", "forward", "forward", "reverse", "bidirectional")
        self.directions = 2 if self.direction == "bidirectional" else 1
        self.gates, self.states = gates, states
        found = call.attribute("activations")
        names = [s.decode().lower() for s in found.strings] if found else []
        names = names or functions * self.directions
        if any(name not in _FUNCTIONS for name in names):
            raise call.refuse(f"activations {names} are not known")
        if call.attribute("clip") is not None or call.integer("layout", 0):
            raise call.refuse("clip and layout are not known")
        self.functions = [_FUNCTIONS[name] for name in names]
        self.coupled = bool(call.integer("input_forget", 0))
        self.after_product = bool(call.integer("linear_before_reset", 0))
        call.integer("output_sequence", 0)

    def step(
        self, gates: torch.Tensor, state: State, R: torch.Tensor, b: torch.Tensor, way: int
    ) -> State:
        """Return the next state. The formulas are those of the operators' pages."""
        n = len(self.functions) // self.directions
        f, *more = self.functions[way * n : (way + 1) * n]
        h = state[0]
        if self.gates == 1:
            return (f(gates + h @ R.t() + b),)
        if self.gates == 4:  # i, o, f, c
            g, last = more
            i, o, forget, c = (gates + h @ R.t() + b).chunk(4, -1)
            i = f(i)
            keep = 1 - i if self.coupled else f(forget)
            cell = keep * state[1] + i * g(c)
            return (f(o) * last(cell), cell)
        (g,) = more  # z, r, h
        size = 2 * self.hidden
        z, r = f(gates[:, :size] + h @ R[:size].t() + b[:size]).chunk(2, -1)
        if self.after_product:
            new = g(gates[:, size:] + r * (h @ R[size:].t() + b[size:]))
        else:
            new = g(gates[:, size:] + (r * h) @ R[size:].t() + b[size:])
        return ((1 - z) * new + z * h,)


def _run(
    cell: Cell, X: torch.Tensor, W: torch.Tensor, R: torch.Tensor, B: torch.Tensor | None,
    lengths: torch.Tensor | None, peepholes: torch.Tensor | None, first: list[Any],
) -> Any:  # fmt: skip
    steps, batch = X.shape[0], X.shape[1]
    width = cell.gates * cell.hidden
    outputs, finals = [], []
    for way in range(cell.directions):
        b = X.new_zeros(2 * width) if B is None else B[way]
        inputs = torch.nn.functional.linear(X, W[way], b[:width])
        state: State = tuple(
            X.new_zeros(batch, cell.hidden) if s is None else s[way] for s in first
        )
        backwards = cell.direction == "reverse" or way == 1
        made: list[Any] = [None] * steps
        for t in range(steps)[:: -1 if backwards else 1]:
            new = cell.step(inputs[t], state, R[way], b[width:], way)
            out = new[0]
            if lengths is not None:  # what lies behind a sequence's end leaves its state alone
                alive = (t < lengths).reshape(-1, 1)
                new = tuple(torch.where(alive, a, c) for a, c in zip(new, state, strict=True))
                out = torch.where(alive, out, torch.zeros_like(out))
            made[t], state = out, new
        outputs.append(torch.stack(made) if made else X.new_zeros(0, batch, cell.hidden))
        finals.append(state)
    Y = torch.stack(outputs, 1)
    return (Y, *(torch.stack(one) for one in zip(*finals, strict=True)))


def _kernel(call: Call, cell: Cell) -> Kernel:
    if call.has(7):
        raise call.refuse("peepholes are not known")

    def run(
        X: torch.Tensor, W: torch.Tensor, R: torch.Tensor, B: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None, h: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
    ) -> Any:  # fmt: skip
        return _run(cell, X, W, R, B, lengths, None, [h, c][: cell.states])

    return Kernel(run, tuple(range(5 + cell.states)), several=True)


@operator("RNN")
def rnn(call: Call) -> Kernel:
    """H = f(X·Wᵀ + H·Rᵀ + biases)."""
    return _kernel(call, Cell(call, 1, ["tanh"], 1))


@operator("GRU")
def gru(call: Call) -> Kernel:
    """Gates z, r and h; the reset before the product or after it."""
    return _kernel(call, Cell(call, 3, ["sigmoid", "tanh"], 1))


@operator("LSTM")
def lstm(call: Call) -> Kernel:
    """Gates i, o, f and c; the state is H and C."""
    return _kernel(call, Cell(call, 4, ["sigmoid", "tanh", "tanh"], 2))
