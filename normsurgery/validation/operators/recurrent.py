"""RNN, GRU and LSTM of every direction, over sequences of unlike length.

``onnx.reference`` leaves out ``sequence_lens``, and takes all ``activations`` for the default ones.
Shapes are those of the specification: T steps, N sequences, I inputs, H hidden units, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx.reference.op_run import OpRun

from normsurgery.validation.budget import NoOracleError, spend

Array = np.ndarray
Activation = Callable[[Array], Array]
State = tuple[Array, ...]
Step = Callable[[Array, State], State]
"""From the input (N, I) of one step and the states (N, H) to the next states, the output first."""

_ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "tanh": np.tanh,
}
# What changes the function, and is not here: better no float64 result than a wrong one.
_REFUSED = ("activation_alpha", "activation_beta", "clip", "input_forget")
_WAYS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@dataclass(frozen=True)
class Direction:
    """One direction of a layer, without the axis D of the specification.

    Attributes:
        W, R: weights of the input (gates·H, I) and of the state (gates·H, H).
        B: biases (2, gates·H), of the input and of the state. P: peepholes (3·H) of i, o and f.
        activations: of the gates. linear: GRU's reset gate applies behind the product with R.

    """

    W: Array
    R: Array
    B: Array
    P: Array
    activations: list[Activation]
    linear: bool


def rnn(layer: Direction) -> Step:
    """Return the step of an RNN."""
    (f,) = layer.activations
    both = layer.B.sum(0)
    return lambda x, states: (f(x @ layer.W.T + states[0] @ layer.R.T + both),)


def gru(layer: Direction) -> Step:
    """Return the step of a GRU; gates in the order z, r, h."""
    f, g = layer.activations
    r_h, (b_w, b_r) = np.split(layer.R, 3)[2], layer.B

    def step(x: Array, states: State) -> State:
        (H,) = states
        from_x = np.split(x @ layer.W.T + b_w, 3, axis=1)
        from_h = np.split(H @ layer.R.T + b_r, 3, axis=1)
        z, r = f(from_x[0] + from_h[0]), f(from_x[1] + from_h[1])
        inner = r * from_h[2] if layer.linear else (r * H) @ r_h.T + np.split(b_r, 3)[2]
        return ((1 - z) * g(from_x[2] + inner) + z * H,)

    return step


def lstm(layer: Direction) -> Step:
    """Return the step of an LSTM; gates in the order i, o, f, c."""
    f, g, squash = layer.activations
    both = layer.B.sum(0)
    p_i, p_o, p_f = np.split(layer.P, 3)

    def step(x: Array, states: State) -> State:
        H, C = states
        i, o, forget, new = np.split(x @ layer.W.T + H @ layer.R.T + both, 4, axis=1)
        C = f(forget + p_f * C) * C + f(i + p_i * C) * g(new)
        return f(o + p_o * C) * squash(C), C

    return step


class _Recurrent(OpRun):
    """What the three share: inputs by position, and those that are left out.

    cell: makes the step of a direction. activations: its default ones. states: how many go on.
    """

    op_domain = ""
    cell: staticmethod[[Direction], Step]
    activations: ClassVar[tuple[str, ...]]
    states: ClassVar[int] = 1

    def _run(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        lengths: Array | None = None,
        h: Array | None = None,
        c: Array | None = None,
        P: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        B = np.zeros((len(W), 2 * W.shape[1])) if B is None else B
        P = np.zeros((len(W), 3 * R.shape[2])) if P is None else P
        acts = _activations(attributes, self.activations, len(W))
        linear = bool(attributes.get("linear_before_reset"))
        layers = zip(W, R, B.reshape(len(B), 2, -1), P, acts, strict=True)
        steps = [self.cell(Direction(*parts, linear)) for parts in layers]
        return _outputs(self, X, W, R, lengths, (h, c)[: self.states], steps, attributes)


class RNN(_Recurrent):
    """https://onnx.ai/onnx/operators/onnx__RNN.html."""

    cell = staticmethod(rnn)
    activations = ("Tanh",)


class GRU(_Recurrent):
    """https://onnx.ai/onnx/operators/onnx__GRU.html."""

    cell = staticmethod(gru)
    activations = ("Sigmoid", "Tanh")


class LSTM(_Recurrent):
    """https://onnx.ai/onnx/operators/onnx__LSTM.html."""

    cell = staticmethod(lstm)
    activations = ("Sigmoid", "Tanh", "Tanh")
    states = 2


def _activations(
    attributes: Mapping[str, Any], default: tuple[str, ...], ways: int
) -> list[list[Activation]]:
    """Return the functions of each direction. Raises ``NoOracleError`` for what is not here."""
    count = len(default)
    names = list(attributes.get("activations") or default * ways)[: count * ways]
    missing = [name for name in _REFUSED if attributes.get(name)]
    missing += [name for name in names if name.lower() not in _ACTIVATIONS]
    if missing:
        raise NoOracleError(f"a recurrent layer with {missing[0]} has no float64 implementation")
    found = [_ACTIVATIONS[name.lower()] for name in names]
    return [found[d * count : (d + 1) * count] for d in range(ways)]


def _outputs(
    operator: OpRun,
    X: Array,
    W: Array,
    R: Array,
    lengths: Array | None,
    initial: Sequence[Array | None],
    steps: Sequence[Step],
    attributes: Mapping[str, Any],
) -> tuple[Array, ...]:
    """Y (T, D, N, H) and the last of each state (D, N, H); the batch is first with layout 1."""
    layout = bool(attributes.get("layout"))
    if layout:
        X = X.swapaxes(0, 1)
        initial = [None if one is None else one.swapaxes(0, 1) for one in initial]
    T, N, _ = X.shape
    ends = np.full(N, T) if lengths is None else np.asarray(lengths).astype(np.int64)
    if ((ends < 1) | (ends > T)).any():
        raise NoOracleError(f"a recurrent layer has a sequence of 0 or of more than {T} steps")
    spend(operator, T * N * (W.size + R.size))
    way = attributes.get("direction") or "forward"
    found = []
    ways = _WAYS[way.decode() if isinstance(way, bytes) else way]
    for d, (step, backwards) in enumerate(zip(steps, ways, strict=True)):
        start = tuple(np.zeros((N, R.shape[2])) if one is None else one[d] for one in initial)
        found.append(_over(X, ends, step, start, backwards=backwards))
    Y = np.stack([y for y, _ in found], axis=1)
    last = [np.stack(states) for states in zip(*(states for _, states in found), strict=True)]
    if layout:
        Y, last = Y.transpose(2, 0, 1, 3), [one.swapaxes(0, 1) for one in last]
    return (Y, *last)[: len(operator.onnx_node.output)]


def _over(
    X: Array, ends: Array, step: Step, states: State, *, backwards: bool
) -> tuple[Array, State]:
    """Take the steps of each sequence up to its end: outputs (T, N, H), zero behind it.

    Backwards, a sequence begins at its own end.
    """
    times = np.arange(len(X))[:, None]
    inside = times < ends
    at = np.where(inside & backwards, ends - 1 - times, times), np.arange(X.shape[1])[None]
    made = []
    for x, going in zip(X[at], inside[:, :, None], strict=True):
        states = tuple(
            np.where(going, new, old) for new, old in zip(step(x, states), states, strict=True)
        )
        made.append(np.where(going, states[0], 0))
    return np.stack(made)[at], states
