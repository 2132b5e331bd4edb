"""How much of a model its inputs reach: the channels of rectified activations that they excite.

A bug in front of a channel that never fires cannot change an output, and a verdict on outputs that
are integers sees only what flips them. Neither makes a verdict wrong, but the reader has to know.

A channel of an activation counts as excited once it leaves the flat part of the function on some
input: for Relu its output is above 0 somewhere, for Clip above its minimum and below its maximum.
LeakyRelu, PRelu, Elu and the like have no flat part, but two; there it is the positive one. Each
activation is reduced to a maximum and a minimum per channel inside the graph, so no activation
leaves onnxruntime. A bound that nothing reaches is told as well: nobody would miss it.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from normsurgery import io, runtime, shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.dtypes import DOUBLE, FLOAT
from normsurgery.graph import Graph
from normsurgery.nodes import attribute, float_attribute, label

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from normsurgery.graph import Scope

    Feeds = Mapping[str, np.ndarray]

RECTIFIERS = frozenset(
    {
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Relu",
        "Selu",
        "Softplus",
        "Swish",
        "ThresholdedRelu",
    }
)
DISCRETE = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less",
     "LessOrEqual", "NonMaxSuppression", "NonZero", "Round", "Sign", "TopK"}
)  # fmt: skip
_UNMOVED = frozenset(
    {"Cast", "Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
_BESIDE_MATMUL = frozenset({"Add", "Cast", "Div", "Dropout", "Identity", "Mul", "Sub"})
_RESHAPES = 5  # operator set from which on Reshape takes its shape as an input
_AXES_ARE_INPUT = 18
LOW = 0.5
"""An activation of which less than this share is excited is named."""


@dataclass(frozen=True)
class Activation:
    """One rectified activation.

    Attributes:
        node: the node, and `output` what it makes.
        channels: how many it has; `excited` of them some input excited, the `silent` ones none.
        idle: the sides that no channel reaches on any input, ``minimum`` or ``maximum``: without
            that bound the model would compute the same there.

    """

    node: str
    output: str
    channels: int
    excited: int
    silent: tuple[int, ...]
    idle: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of channels that are excited."""
        return self.excited / self.channels if self.channels else 1.0


@dataclass(frozen=True)
class Coverage:
    """What the input sets of a comparison reach.

    Attributes:
        activations: in the order of the graph.
        shares: the share of all channels excited after the first set, the first two, …
        discrete: outputs that are integers or steps: only what flips them is seen.
        unmeasured: activations of which nothing is known, and why.

    """

    activations: tuple[Activation, ...] = ()
    shares: tuple[float, ...] = ()
    discrete: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of all activations."""
        return sum(one.channels for one in self.activations)

    @property
    def share(self) -> float | None:
        """The share of them that is excited; None where there are none."""
        excited = sum(one.excited for one in self.activations)
        return excited / self.channels if self.channels else None

    def warnings(self) -> list[str]:
        """What a verdict on these inputs cannot see, one line each."""
        low = [one for one in self.activations if one.share < LOW]
        lines = [
            f"{one.node}: {one.channels - one.excited} of {one.channels} channels never fire"
            for one in sorted(low, key=lambda one: one.share)
        ]
        idle = [(one.node, side) for one in self.activations for side in one.idle]
        lines += [f"{node}: no channel reaches its {side}" for node, side in idle]
        lines += [
            f"output {name!r} is discrete: only what flips it shows" for name in self.discrete
        ]
        return lines + [f"{what}: not measured" for what in self.unmeasured]

    def line(self) -> str:
        """One line for a terminal."""
        if self.share is None:
            line = "coverage: no rectified activations"
        else:
            line = f"coverage: {100 * self.share:.1f} % of {self.channels} channels of "
            line += f"{len(self.activations)} rectified activations are excited"
        found = self.warnings()
        return (
            f"{line}; {found[0]}" + (f" (and {len(found) - 1} more)" if found[1:] else "")
            if (found)
            else line
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        return {"share": self.share, **asdict(self)}


@dataclass
class _Probe:
    """An activation, the two graph outputs that tell of it, and its flat values."""

    node: NodeProto
    most: str
    least: str
    low: float
    high: float
    excited: np.ndarray | None = None
    highest: np.ndarray = field(default_factory=lambda: np.array(-inf))
    lowest: np.ndarray = field(default_factory=lambda: np.array(inf))

    def see(self, results: Mapping[str, np.ndarray]) -> None:
        """Merge what one input set gave."""
        self.highest = np.fmax(self.highest, results[self.most].astype(np.float64))
        self.lowest = np.fmin(self.lowest, results[self.least].astype(np.float64))
        self.excited = (self.highest > self.low) & (self.lowest < self.high)


def coverage(
    model: str | os.PathLike[str], sets: Iterable[Feeds], *, threads: int | None = None
) -> Coverage:
    """Run the model file on `sets`, one at a time, and say which channels they excite.

    Raises:
        NormSurgeryError: onnxruntime is not there, or does not run the model.

    """
    content = io.load(model)
    proto = ModelProto()
    proto.CopyFrom(content.proto)
    content = replace(content, proto=proto)
    graph = Graph(content)
    discrete = tuple(v.name for v in proto.graph.output if _is_discrete(graph.main, v.name))
    probes, unmeasured = _probe(graph.main)
    if not probes:
        return Coverage((), (), discrete, tuple(unmeasured))
    shares = []
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder, "probed.onnx")
        io.save(content, path)
        session = runtime.session(path, threads=threads, in_order=True)
        wanted = {one.name for one in session.get_inputs()}
        for feeds in sets:
            given = {name: array for name, array in feeds.items() if name in wanted}
            results = runtime.run(session, given)
            for probe in probes:
                probe.see(results)
            found = [probe.excited for probe in probes if probe.excited is not None]
            shares.append(float(np.mean(np.concatenate(found))))
    return Coverage(
        tuple(_activation(probe) for probe in probes),
        tuple(shares),
        discrete,
        tuple(unmeasured),
    )


def _activation(probe: _Probe) -> Activation:
    excited = np.zeros(0, bool) if probe.excited is None else probe.excited.reshape(-1)
    silent = tuple(int(i) for i in np.flatnonzero(~excited))
    ends = {"minimum": bool((probe.lowest <= probe.low).any()), "maximum": probe.high == inf}
    ends["maximum"] |= bool((probe.highest >= probe.high).any())
    idle = tuple(side for side, reached in ends.items() if not reached and excited.size)
    name = probe.node.output[0]
    return Activation(label(probe.node), name, excited.size, int(excited.sum()), silent, idle)


def _probe(main: Scope) -> tuple[list[_Probe], list[str]]:
    """Add reductions behind each activation, and make them the only outputs of the graph."""
    probes, unmeasured, nodes = [], [], []
    tensors: list[TensorProto] = []
    for node in list(main.nodes):
        nodes.append(_copy(node))
        if node.op_type not in RECTIFIERS or not main.is_onnx(node):
            continue
        bounds = _flat(main, node)
        rank = shapes.rank(main, node.output[0])
        vector = rank is not None and rank < 2 and not _is_last(main, node)
        if bounds is None or main.opset < _RESHAPES or vector:
            unmeasured.append(label(node))
            continue
        made, constants, (most, least) = _reductions(main, node)
        nodes += made
        tensors += constants
        probes.append(_Probe(node, most, least, *bounds))
    inner = [scope for scope in main.graph.scopes if scope is not main]
    unmeasured += [label(node) for s in inner for node in s.nodes if node.op_type in RECTIFIERS]
    graph = main.graph.proto.graph
    probes = [replace(one, node=_copy(one.node)) for one in probes]
    del graph.node[:], graph.output[:], graph.value_info[:]
    del main.graph.proto.training_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    for one in probes:
        graph.output.add(name=one.most)  # onnxruntime infers the types
        graph.output.add(name=one.least)
    return probes, unmeasured


def _flat(main: Scope, node: NodeProto) -> tuple[float, float] | None:
    """Return the values at and beyond which the output of an activation is stuck."""
    if node.op_type == "HardSigmoid":
        return 0.0, 1.0
    if node.op_type != "Clip":
        return 0.0, inf
    if main.opset < 11:
        return tuple(
            float_attribute(node, name, other) if attribute(node, name) else other
            for name, other in (("min", -inf), ("max", inf))
        )  # type: ignore[return-value]
    bounds = []
    for slot, other in ((1, -inf), (2, inf)):
        given = node.input[slot] if slot < len(node.input) else ""
        found = constant_of(main, given) if given else None
        if given and not isinstance(found, Constant):
            return None
        bounds.append(float(found.float64().reshape(())) if isinstance(found, Constant) else other)
    return bounds[0], bounds[1]


def _reductions(
    main: Scope, node: NodeProto
) -> tuple[list[NodeProto], list[TensorProto], tuple[str, str]]:
    """Return nodes that reduce an activation to its highest and lowest value per channel.

    Channels are on axis 1, or on the last behind a MatMul. Any rank is taken as (N, C, M), or as
    (M, C).
    """
    new, name = main.graph.unique_name, node.output[0]
    flat, most, least = (new(f"{name}_{part}") for part in ("flat", "highest", "lowest"))
    nodes, tensors = [], []
    if _is_last(main, node):
        nodes.append(helper.make_node("Flatten", [name], [flat], axis=-1))
        axes = [0]
    else:
        to = new(f"{name}_shape")
        tensors.append(numpy_helper.from_array(np.array([0, 0, -1]), to))
        nodes.append(helper.make_node("Reshape", [name, to], [flat]))
        axes = [0, 2]
    if shapes.elem_type(main, name) not in {FLOAT, DOUBLE}:  # few types have kernels
        wide = new(f"{name}_float32")
        nodes.append(helper.make_node("Cast", [flat], [wide], to=TensorProto.FLOAT))
        flat = wide
    over: list[str] = []
    attributes: dict[str, Any] = {"axes": axes, "keepdims": 0}
    if main.opset >= _AXES_ARE_INPUT:
        over = [new(f"{name}_axes")]
        tensors.append(numpy_helper.from_array(np.array(axes, np.int64), over[0]))
        del attributes["axes"]
    for kind, made in (("ReduceMax", most), ("ReduceMin", least)):
        nodes.append(helper.make_node(kind, [flat, *over], [made], **attributes))
    return nodes, tensors, (most, least)


def _is_last(main: Scope, node: NodeProto) -> bool:
    """Whether channels are on the last axis: a MatMul is behind it, by elementwise nodes alone."""
    if main.opset < 11:  # Flatten takes no negative axis
        return False
    name = node.input[0]
    for _ in range(16):
        maker = main.producer.get(name)
        if maker is None or not main.is_onnx(maker):
            return False
        if maker.op_type == "MatMul":
            return True
        if maker.op_type not in _BESIDE_MATMUL:
            return False
        name = next((x for x in maker.input if x in main.producer), "")
    return False


def _is_discrete(main: Scope, name: str) -> bool:
    """Whether an output holds integers, truth values or steps that a computation decided."""
    for _ in range(64):
        maker = main.producer.get(name)
        if maker is None or not main.is_onnx(maker):
            return False
        if maker.op_type in DISCRETE:
            return maker.op_type != "TopK" or name != maker.output[0]
        if maker.op_type not in _UNMOVED:
            return False
        name = maker.input[0]
    return False


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
